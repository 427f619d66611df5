"""Colours for any number of entity types."""

from __future__ import annotations

from collections.abc import Iterable

from rivegs_mllm.types import TYPES

_FIRST_HUE = 255
_PER_RING = 8
"""Hues that can be told apart on one ring of equal lightness."""


def type_colours(types: Iterable[str]) -> dict[str, tuple[float, int]]:
    """For each type, those of Twitter-GMNER first, a hue in degrees and a ring: no two have the same.

    Hues are as far apart as so many can be. Where there are many, neighbours lie on rings of other lightness, 0 to 2,
    as the style sheet's class ``type`` has them.
    """
    met = set(types)
    ordered = [name for name in TYPES if name in met] + sorted(met - set(TYPES))
    rings = min(3, 1 + (len(ordered) - 1) // _PER_RING)
    return {
        name: (round((_FIRST_HUE + 360 * place / len(ordered)) % 360, 2), place % rings)
        for place, name in enumerate(ordered)
    }
