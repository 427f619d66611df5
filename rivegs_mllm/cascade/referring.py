"""Referring expressions and boxes, shared by the slots that are queried by the former or answer with the latter."""

from __future__ import annotations

from collections.abc import Sequence

from eval.protocols import same_span_or_text
from rivegs_mllm.cascade.base import StageError, referring_expression
from rivegs_mllm.types import Box, Entity, Sample, UserError

EXPRESSION_PARTS = ("mention", "type", "expression")
"""The parts that a referring expression can consist of."""

BOX_TOLERANCE_PX = 1.0
"""By how many pixels rounding may move an edge outside the picture. It is then moved back."""


def clip_boxes(boxes: Sequence[Box], size: tuple[int, int], where: str, sample: str) -> tuple[Box, ...]:
    """The boxes in pixels of a picture of ``size`` = (width, height), edges that rounding put outside moved back.

    Raises StageError for a box that lies outside by more, or that has no area. ``where`` names slot and type.
    """
    width, height = size
    moved = []
    for box in boxes:
        edges = (max(box.xmin, 0.0), max(box.ymin, 0.0), min(box.xmax, width), min(box.ymax, height))
        given = (box.xmin, box.ymin, box.xmax, box.ymax)
        near = all(abs(new - old) <= BOX_TOLERANCE_PX for new, old in zip(edges, given, strict=True))
        if not (near and edges[0] < edges[2] and edges[1] < edges[3]):
            raise StageError(
                f"{where}: the box {list(given)} of post {sample!r} has no area or is outside its picture of "
                f"{width} x {height}; boxes are xmin, ymin, xmax, ymax in pixels of the original picture, upright: "
                "let the grounder scale them to it"
            )
        moved.append(Box(*edges))
    return tuple(moved)


def check_parts(parts: Sequence[str]) -> None:
    """Raises UserError unless ``parts``, the setting ``query_fields``, is a selection of EXPRESSION_PARTS."""
    if not parts or not set(parts) <= set(EXPRESSION_PARTS):
        raise UserError(f"query_fields: {list(parts)} is not a selection of {', '.join(EXPRESSION_PARTS)}")


def slots_required_by(parts: Sequence[str]) -> tuple[str, ...]:
    """The slots that must be filled for these parts of the referring expression."""
    return ("expander",) if "expression" in parts else ()


def all_parts() -> list[str]:
    """The default of the setting ``query_fields``."""
    return list(EXPRESSION_PARTS)


def entity_names(entity: Entity) -> frozenset[str]:
    """The mention, whatever its capitals, and the expression: entities that share one are taken for the same."""
    return frozenset({entity.text.lower(), entity.expression} - {""})


def training_texts(variants: Sequence[Entity], parts: Sequence[str], drop_mentions: bool) -> list[str]:
    """The referring expressions of an entity's variants, at least one, each once; ``drop_mentions`` adds those without
    the mention."""
    selections = [parts, [part for part in parts if part != "mention"]] if drop_mentions else [parts]
    texts = dict.fromkeys(referring_expression(entity, own) for entity in variants for own in selections)
    return [text for text in texts if text] or [variants[0].text]


def matching_gold(sample: Sample, entity: Entity) -> Entity | None:
    """The gold entity of a post that has a predicted one's mention and type, None where there is none."""
    return next((gold for gold in sample.entities if same_span_or_text(gold, entity, typed=True)), None)
