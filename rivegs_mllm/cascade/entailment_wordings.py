"""By which expressions an entailment stage learns an entity: mixed-LLM augmentation, and RiVEG's fivefold copying."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_builders.views import EntailmentRow
from rivegs_mllm.distill.attach import attach_expressions
from rivegs_mllm.distill.store import read_store
from rivegs_mllm.epochs import VARIANTS
from rivegs_mllm.types import Entity, Sample, UserError


@dataclass
class Wordings:
    """``store`` is a store of ``rivegs distill``, null for the expressions that the data itself has.

    ``how``: of the texts that several teachers wrote of an entity, "draw" one an epoch, "copies" of the row for each,
    or always the "first" by the teachers' names, which is also what dev and test are judged by.
    """

    store: Path | None = None
    how: str = "draw"

    def __post_init__(self) -> None:
        if self.how not in VARIANTS:
            raise UserError(f"stage.expressions.how: {self.how!r} is none of {', '.join(VARIANTS)}")

    def check(self, parts: Sequence[str]) -> None:
        """Raises UserError where there is a store, but ``parts`` of the referring expression leave expressions out."""
        if self.store is not None and "expression" not in parts:
            raise UserError("stage.expressions.store: `refer` has no expression; add it there, or name no store")

    def variants(self, rows: Sequence[EntailmentRow]) -> list[list[Entity]]:
        """Each row's entity under each of its expressions, at least once.

        Prints how many the store has nothing for: they keep what they have. Raises UserError where that is all.
        """
        if self.store is None:
            return [[row.entity] for row in rows]
        answers = read_store(self.store, "expression", clean=True)
        found = [answers.get((row.id, row.entity.text), ()) for row in rows]
        without = sum(not own for own in found)
        if without == len(rows):
            raise UserError(f"{self.store}: has no expression for any of {len(rows)} entities of the training posts")
        if without:
            print(f"{self.store}: no expression for {without} of {len(rows)} entities, which keep their own")
        return [
            [dataclasses.replace(row.entity, expression=answer.text) for answer in own] or [row.entity]
            for row, own in zip(rows, found, strict=True)
        ]

    def first(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The posts, their gold entities under the store's first expressions."""
        return samples if self.store is None else attach_expressions(samples, self.store).samples
