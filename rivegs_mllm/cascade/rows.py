"""The rows on which the stages of the cascade are trained and evaluated, one an entity, and the tags of a post.

Rows stand in the order of the samples and of the entities in them. Twitter-GMNER v2.0 has 11779/2450/2543 rows for
entailment and 4733/991/1046 for grounding, the numbers that RiVEG's stages were trained on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import Box, Entity, Sample, UserError

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class EntailmentRow:
    """One gold entity and whether the picture shows it.

    ``id``, ``tokens``, ``image`` and ``size`` are of the post, as in ``Sample``; ``index`` is the entity's place in it.
    """

    id: str
    index: int
    tokens: tuple[str, ...]
    image: str
    size: tuple[int, int] | None
    entity: Entity
    visible: bool


@dataclass(frozen=True, slots=True)
class GroundingRow:
    """One visible gold entity and the box to be found: ``target``, the largest of the entity's boxes, in its pixels.

    The other fields are those of ``EntailmentRow``.
    """

    id: str
    index: int
    tokens: tuple[str, ...]
    image: str
    size: tuple[int, int] | None
    entity: Entity
    target: Box


def entailment_rows(samples: Iterable[Sample]) -> list[EntailmentRow]:
    """One row an entity, but for those of which it is not known whether they are visible: these are counted in a line.

    Raises UserError where that is not known of any.
    """
    return [
        EntailmentRow(sample.id, index, sample.tokens, sample.image, sample.size, entity, entity.visible)
        for sample, index, entity in _decided(samples)
    ]


def grounding_rows(samples: Iterable[Sample]) -> list[GroundingRow]:
    """One row a visible entity. Raises UserError as ``entailment_rows`` does, and where a visible one has no box."""
    rows = []
    for sample, index, entity in _decided(samples):
        if not entity.visible:
            continue
        if not entity.boxes:
            raise UserError(
                f"post {sample.id!r}: entity {entity.text!r} is visible but has no box for a grounder to find; "
                "give it one, or mark it invisible"
            )
        target = largest_box(entity.boxes)
        rows.append(GroundingRow(sample.id, index, sample.tokens, sample.image, sample.size, entity, target))
    return rows


def largest_box(boxes: Iterable[Box]) -> Box:
    """The box of greatest area, the first of equals."""
    return max(boxes, key=lambda box: (box.xmax - box.xmin) * (box.ymax - box.ymin))


def bio_tags(sample: Sample) -> tuple[str, ...]:
    """The BIO tag of each token. Raises UserError for entities without a span, outside the tokens, or overlapping."""
    tags = [OUTSIDE] * len(sample.tokens)
    for entity in sample.entities:
        start, end = entity.span or (0, 0)
        if not 0 <= start < end <= len(tags):
            raise UserError(f"post {sample.id!r}: entity {entity.text!r} has no span within the post's tokens")
        if any(tag != OUTSIDE for tag in tags[start:end]):
            raise UserError(
                f"post {sample.id!r}: entity {entity.text!r} overlaps another one, which BIO tags cannot represent"
            )
        tags[start:end] = [f"B-{entity.type}", *[f"I-{entity.type}"] * (end - start - 1)]
    return tuple(tags)


def _decided(samples: Iterable[Sample]) -> list[tuple[Sample, int, Entity]]:
    """The entities of which it is known whether they are visible, each with its post and its place there."""
    every = [(sample, index, entity) for sample in samples for index, entity in enumerate(sample.entities)]
    decided = [own for own in every if own[2].visible is not None]
    if every and not decided:
        sample, _, entity = every[0]
        raise UserError(
            f"post {sample.id!r}: it is not known whether the picture shows {entity.text!r} (visible is null), nor any "
            "other entity of these posts; train this stage on a dataset with regions, such as Twitter-GMNER"
        )
    if undecided := len(every) - len(decided):
        print(f"{plural(undecided, 'entity', 'entities')} of {len(every):,} left out: whether visible is not known")
    return decided
