"""A store's answers as the fields of samples, for training and for the replay stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState

from rivegs_mllm.config.distilled import Distilled
from rivegs_mllm.data.entity_types import check_listed, check_shared, left_out, of_types
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.store.answer_store import StoredAnswer, read_store
from rivegs_mllm.types import Sample, UserError

_MAX_LISTED = 5


@dataclass(frozen=True)
class MergedSamples:
    """Samples with a store's texts. ``without`` lists the posts (or "post: mention") that the store has no text for.

    ``faulty`` counts the answers that were left out because the checks found faults in them.
    """

    samples: list[Sample]
    without: list[str]
    faulty: int

    def summary(self, what: str, store: Path) -> str:
        """A line on what is missing."""
        first = (
            f" ({', '.join(self.without[:_MAX_LISTED])}{', ...' * (len(self.without) > _MAX_LISTED)})"
            if self.without
            else ""
        )
        lacking = f"{len(self.without):,} have no {what} there{first}"
        return f"{store}: {lacking}; {self.faulty:,} flagged answers left out"


def read_posts(
    folder: Path,
    split: str,
    types: Collection[str],
    distilled: Distilled | None = None,
    without: Collection[int] = (),
) -> list[Sample]:
    """A split's posts and their entities of ``types``, with what the stores hold about them; what is left out, and what
    the stores lack, is reported. Posts on the lines ``without`` are not read.

    Raises RecordError and StoreError, and UserError where entities have types that ``dataset.json`` does not list, none
    has one of ``types``, and where a store has nothing for any of the posts.
    """
    samples = read_split(folder, split, without)
    check_listed(samples, folder)
    check_shared(samples, folder, types, "the recipe")
    if (without := left_out(samples, types)) and PartialState().is_main_process:
        print(f"{split}: {without}")
    samples = of_types(samples, types)
    if distilled is None:
        return samples
    if distilled.knowledge is None and distilled.expressions is None:
        raise UserError("distilled: name a store in knowledge, in expressions, or in both")
    for what, store, attach in (
        ("knowledge", distilled.knowledge, attach_knowledge),
        ("expressions", distilled.expressions, attach_expressions),
    ):
        if store is None:
            continue
        attached = attach(samples, store, distilled.clean, distilled.teachers)
        places = len(samples) if what == "knowledge" else sum(len(sample.entities) for sample in samples)
        if len(attached.without) == places > 0:
            raise UserError(f"{store}: has no usable {what} for any post of {folder}, split {split}")
        samples = attached.samples
        if PartialState().is_main_process:
            print(f"{split}: {attached.summary(what, store)}")
    return samples


def attach_knowledge(
    samples: Sequence[Sample], store: Path, clean: bool = True, teachers: Collection[str] | None = None
) -> MergedSamples:
    """Each post's knowledge becomes the store's texts about it, one a teacher: training draws one of them an epoch.

    ``clean`` leaves out answers with faults, ``teachers`` takes those of these names alone. A post that the store has
    nothing for keeps what it has. Raises StoreError.
    """
    answers = read_store(store, "knowledge")
    faulty = 0
    attached, without = [], []
    for sample in samples:
        rows, left_out = _usable(answers.get((sample.id, ""), ()), clean, teachers)
        faulty += left_out
        if rows:
            sample = replace(sample, knowledge=tuple(row.text for row in rows))
        else:
            without.append(sample.id)
        attached.append(sample)
    return MergedSamples(attached, without, faulty)


def attach_expressions(
    samples: Sequence[Sample], store: Path, clean: bool = True, teachers: Collection[str] | None = None
) -> MergedSamples:
    """Each entity's expression becomes the store's answer about its mention, the first teacher's by name.

    An entity that the store has nothing for keeps what it has. Raises StoreError.
    """
    answers = read_store(store, "expression")
    faulty = 0
    attached, without = [], []
    for sample in samples:
        entities = []
        for entity in sample.entities:
            rows, left_out = _usable(answers.get((sample.id, entity.text), ()), clean, teachers)
            faulty += left_out
            if not rows:
                without.append(f"{sample.id}: {entity.text}")
            entities.append(replace(entity, expression=rows[0].text) if rows else entity)
        attached.append(replace(sample, entities=tuple(entities)))
    return MergedSamples(attached, without, faulty)


def _usable(
    rows: Sequence[StoredAnswer], clean: bool, teachers: Collection[str] | None
) -> tuple[list[StoredAnswer], int]:
    """The rows that may be used, and how many were left out for their faults."""
    asked = [row for row in rows if teachers is None or row.teacher in teachers]
    usable = [row for row in asked if not (clean and row.faults)]
    return usable, len(asked) - len(usable)
