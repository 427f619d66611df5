"""Boxes in resized pixels and the places of mentions, for the protocols that do not take the record as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rivegs_mllm.data.mentions import find_spans
from rivegs_mllm.types import Box, Entity

GRID = 28  # pixels a side of a token: two patches of 14
LEAST_PIXELS, MOST_PIXELS = 56 * 56, 1280 * GRID * GRID
"""The limits of Qwen2.5-VL's picture processor that E2E-GMNER's scripts leave as they are."""

_FAR = 1e9  # huge coordinates stay numbers that can be rounded


def resized(size: tuple[int, int]) -> tuple[int, int]:
    """The (width, height) to which E2E-GMNER resizes a picture of ``size``: multiples of 28, about as wide as high.

    A picture with a side under 28 pixels, which that system leaves out, stays as it is.
    """
    if min(size) < GRID:
        return size
    width, height = (round(side / GRID) * GRID for side in size)
    if width * height > MOST_PIXELS:
        factor = math.sqrt(size[0] * size[1] / MOST_PIXELS)
        width, height = (max(1, math.floor(side / factor / GRID)) * GRID for side in size)
    elif width * height < LEAST_PIXELS:
        factor = math.sqrt(LEAST_PIXELS / (size[0] * size[1]))
        width, height = (math.ceil(side * factor / GRID) * GRID for side in size)
    return width, height


def in_resized_pixels(box: Box, size: tuple[int, int]) -> Box:
    """The box of a picture of ``size`` (width, height), in whole pixels of the resized picture."""
    width, height = resized(size)
    across, down = width / size[0], height / size[1]
    candidate_pairs = ((box.xmin, across), (box.ymin, down), (box.xmax, across), (box.ymax, down))
    return Box(*(round(min(max(edge * scale, -_FAR), _FAR)) for edge, scale in candidate_pairs))


def locate_mentions(tokens: Sequence[str], entities: Sequence[Entity]) -> list[Entity]:
    """The entities, those without a span at the first place where their words stand and no other entity does.

    Where every such place is taken it is the first one, where there is none the span stays None.
    """
    taken = {entity.span for entity in entities if entity.span}
    placed = []
    for entity in entities:
        if entity.span is None and tokens:
            places = find_spans(tokens, entity.text.split())
            span = next((place for place in places if place not in taken), places[0] if places else None)
            taken.add(span)
            entity = replace(entity, span=span)
        placed.append(entity)
    return placed
