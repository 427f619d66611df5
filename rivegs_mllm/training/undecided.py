"""Posts to train on of which it is not known whether the picture shows an entity."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from accelerate import PartialState

from rivegs_mllm.data.mentions import undecided_entities
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import Sample, UserError


def decided_posts(samples: Sequence[Sample], segments: Collection[str], place: str) -> list[Sample]:
    """The posts that a model of these segments can learn from; how many are left out, and one of them, is told.

    Those are all where it writes neither ``visible`` nor ``boxes``. Raises UserError, which names ``place``, where of
    all posts with pictures and entities none is decided.
    """
    if not {"visible", "boxes"} & set(segments):
        return list(samples)
    undecided = {sample.id: own for sample in samples if (own := undecided_entities(sample))}
    if not undecided:
        return list(samples)
    kept = [sample for sample in samples if sample.id not in undecided]
    (first, (entity, *_)), *_ = undecided.items()
    example = f"such as {shown(entity.text)} of post {first}"
    if not any(sample.image and sample.entities for sample in kept):
        raise UserError(
            f"{place}: no post says of each of its entities whether the picture shows it, {example}; "
            "say it by `visible`, or leave 'visible' and 'boxes' out of answer.segments"
        )
    if PartialState().is_main_process:
        left = plural(len(undecided), "post")
        print(f"{place}: {left} of {len(samples):,} left out: it is not known whether the picture shows, {example}")
    return kept
