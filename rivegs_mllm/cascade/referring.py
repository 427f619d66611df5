"""What slots share that ask by a referring expression, or answer with boxes."""

from __future__ import annotations

from collections.abc import Sequence

from eval.protocols import same_span_or_text
from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.types import Box, Entity, Sample, UserError

PARTS = ("mention", "type", "expression")
"""What a referring expression can be made of."""

OVERHANG = 1.0
"""By how many pixels rounding may move an edge outside the picture. It is then moved back."""


def inside(boxes: Sequence[Box], size: tuple[int, int], where: str, sample: str) -> tuple[Box, ...]:
    """The boxes, edges that rounding put outside the picture of ``size`` moved back.

    Raises StageError for a box that lies outside by more, or that has no area. ``where`` names slot and type.
    """
    width, height = size
    moved = []
    for box in boxes:
        edges = (max(box.xmin, 0.0), max(box.ymin, 0.0), min(box.xmax, width), min(box.ymax, height))
        given = (box.xmin, box.ymin, box.xmax, box.ymax)
        near = all(abs(new - old) <= OVERHANG for new, old in zip(edges, given, strict=True))
        if not (near and edges[0] < edges[2] and edges[1] < edges[3]):
            raise StageError(
                f"{where}: the box {list(given)} of post {sample!r} has no area or is outside its picture of "
                f"{width} x {height}; boxes are xmin, ymin, xmax, ymax in pixels of the original picture, upright: "
                "let the grounder scale them to it"
            )
        moved.append(Box(*edges))
    return tuple(moved)


def check_parts(parts: Sequence[str]) -> None:
    """Raises UserError unless ``parts``, the setting ``refer``, is a selection of PARTS."""
    if not parts or not set(parts) <= set(PARTS):
        raise UserError(f"refer: {list(parts)} is not a selection of {', '.join(PARTS)}")


def needed(parts: Sequence[str]) -> tuple[str, ...]:
    """The slots that must be filled for these parts of the referring expression."""
    return ("expander",) if "expression" in parts else ()


def all_parts() -> list[str]:
    """The default of the setting ``refer``."""
    return list(PARTS)


def gold_twin(sample: Sample, entity: Entity) -> Entity | None:
    """The gold entity of a post that has a predicted one's mention and type, None where there is none."""
    return next((gold for gold in sample.entities if same_span_or_text(gold, entity, typed=True)), None)
