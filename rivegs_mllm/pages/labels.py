"""Where the names of boxes stand on a picture: beside the boxes, so that they hide nothing that is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rivegs_mllm.types import Box


def place_labels(boxes: Sequence[Box], widths: Sequence[float], height: float, canvas: Box) -> list[Box]:
    """For each of ``boxes`` where its label stands, ``widths`` and ``height`` those of the labels.

    A label lies on the canvas and touches its box from outside, where it covers no box and no label before it. Where
    there is no such place it lies where it covers the least. All in one unit and frame.
    """
    placed: list[Box] = []
    for box, width in zip(boxes, widths, strict=True):
        taken = [*boxes, *placed]
        placed.append(
            min(
                _beside(_cut(box, canvas), min(width, canvas.xmax - canvas.xmin), height, canvas),
                key=lambda label, taken=taken: sum(_shared(label, other) for other in taken),
            )
        )
    return placed


def _beside(box: Box, width: float, height: float, canvas: Box) -> Iterator[Box]:
    """Labels above, below, right and left of a box, flush with its edges or in the middle; the first are preferred."""
    middle, centre = (box.xmin + box.xmax - width) / 2, (box.ymin + box.ymax - height) / 2
    across, down = (box.xmin, box.xmax - width, middle), (box.ymin, box.ymax - height, centre)
    corners = [(left, top) for top in (box.ymin - height, box.ymax) for left in across]
    corners += [(left, top) for left in (box.xmax, box.xmin - width) for top in down]
    for left, top in corners:
        left = min(max(left, canvas.xmin), canvas.xmax - width)
        top = min(max(top, canvas.ymin), canvas.ymax - height)
        yield Box(left, top, left + width, top + height)


def _cut(box: Box, canvas: Box) -> Box:
    """What of a box lies on the canvas."""
    left, right = (min(max(edge, canvas.xmin), canvas.xmax) for edge in (box.xmin, box.xmax))
    top, bottom = (min(max(edge, canvas.ymin), canvas.ymax) for edge in (box.ymin, box.ymax))
    return Box(left, top, right, bottom)


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    down = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    return max(across, 0.0) * max(down, 0.0)
