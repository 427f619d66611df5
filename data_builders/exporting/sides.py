"""The input of every exporter, and what exporters share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rivegs_mllm.data.masks import check_mask
from rivegs_mllm.data.written import as_written, starts_in, written
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError


@dataclass(frozen=True, slots=True)
class Side:
    """Posts under the name of their files: a split with its gold, or what a system says of the same posts.

    ``root`` is the folder that the samples' pictures are relative to. Pictures from outside it are put into what is
    written only from ``image_root``.
    """

    name: str
    samples: Sequence[Sample]
    root: Path
    image_root: Path | None = None


Write = Callable[[Path, Sequence[Side], Sequence[Side]], list[str]]
"""``write(out, gold, systems)`` writes the files of the splits and of the systems, and gives the ids of the posts that
have no place in the format."""


def side_of(name: str, gold: Side, predictions: Sequence[Prediction]) -> Side:
    """A system's predictions on the posts of a split; a post without a prediction has no entities.

    Raises UserError for a prediction of no post of the split, and for two of one post.
    """
    samples = {sample.id: sample for sample in gold.samples}
    predicted: dict[str, tuple[Entity, ...]] = {}
    for one in predictions:
        if one.id not in samples:
            raise UserError(f"{name}: post {one.id!r} is not in the gold, the split {gold.name}")
        if one.id in predicted:
            raise UserError(f"{name}: post {one.id!r} comes twice")
        predicted[one.id] = one.entities
    answered = [replace(sample, entities=predicted.get(sample.id, ())) for sample in gold.samples]
    return replace(gold, name=name, samples=answered)


def check_regions(side: Side) -> None:
    """Raises UserError for boxes that are not finite and masks that do not fit their picture."""
    for sample in side.samples:
        for entity in sample.entities:
            where = f"{side.name}: post {sample.id!r}, entity {entity.text!r}"
            for box in entity.boxes:
                if not math.isfinite((box.xmax - box.xmin) * (box.ymax - box.ymin)):
                    raise UserError(f"{where}: the area of {box} is no number")
            for mask in entity.masks:
                check_mask(mask, sample.size[::-1] if sample.size else mask.size, where)


def shown_boxes(entity: Entity) -> tuple[Box, ...]:
    """The boxes, none of an entity that is not visible."""
    return () if entity.visible is False else entity.boxes


def shown_masks(entity: Entity) -> tuple[Mask, ...]:
    """The masks, none of an entity that is not visible."""
    return () if entity.visible is False else entity.masks


def regions(entity: Entity) -> list[tuple[Box | None, Mask | None]]:
    """Boxes paired with masks where there are as many, which are then of the same regions; else each by itself."""
    boxes, masks = shown_boxes(entity), shown_masks(entity)
    if len(boxes) == len(masks):
        return list(zip(boxes, masks, strict=True))
    return [*((box, None) for box in boxes), *((None, mask) for mask in masks)]


def types_of(sides: Sequence[Side]) -> list[str]:
    """All entity types, sorted."""
    return sorted({entity.type for side in sides for sample in side.samples for entity in sample.entities})


def characters(sample: Sample, entity: Entity) -> tuple[int, int] | None:
    """The characters of an entity in the text that is ``written``, (start, end), end-exclusive; a prediction without a
    span is looked for, None where it is not found."""
    if entity.span is None:
        name = as_written(entity.text)
        start = written(sample.tokens).find(name)
        return None if start < 0 else (start, start + len(name))
    first, last = entity.span
    starts = starts_in(sample.tokens)
    return starts[first], starts[last - 1] + len(sample.tokens[last - 1])


def verdict(visible: bool | None) -> str:
    """Whether the picture shows an entity, in the word that importing reads."""
    return {True: "visible", False: "not visible", None: "undecided"}[visible]


def write_as_json(path: Path, content: object) -> None:
    """Writes a complete file of one line. Raises WriteError."""
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def given(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that hold something: no empty text or list, no None."""
    return {key: value for key, value in fields.items() if value not in ("", None, [], ())}
