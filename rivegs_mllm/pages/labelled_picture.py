"""The names of boxes on a picture, beside the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rivegs_mllm.pages.labels import place_labels
from rivegs_mllm.types import Box

_LONGEST = 28
_LETTER = 0.65
"""Mean width of a bold letter in a wide font, as a share of its size."""
_LINE = 1.3


@dataclass(frozen=True, slots=True)
class Label:
    """``text`` of a box, the ``type`` of its entity, and where it stands, in pixels of the picture that is shown."""

    text: str
    type: str
    place: Box


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """Labels of letters of ``letter`` pixels, and the ``canvas``: the picture with room above and below for them."""

    labels: tuple[Label, ...]
    letter: float
    canvas: Box


def label_boxes(named: Sequence[tuple[str, str, Box]], size: tuple[int, int]) -> LabelledPicture:
    """Labels for boxes that come with name and type, on a picture of ``size`` (width, height)."""
    width, height = size
    letter = max(size) / 28
    line = _LINE * letter
    texts = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…" for name, _, _ in named]
    widths = [_LETTER * letter * (len(text) + 1) for text in texts]
    places = place_labels([box for *_, box in named], widths, line, Box(0, -line, width, height + line))
    top = min([0.0, *(place.ymin for place in places)])
    bottom = max([float(height), *(place.ymax for place in places)])
    labels = tuple(Label(text, kind, place) for text, (_, kind, _), place in zip(texts, named, places, strict=True))
    return LabelledPicture(labels, letter, Box(0, top, width, bottom))
