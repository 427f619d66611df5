"""The expressions by which a stage learns an entity: mixed-LLM augmentation, and RiVEG's fivefold copying."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rivegs_mllm.cascade.rows import EntailmentRow, GroundingRow
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.store.attach import attach_expressions
from rivegs_mllm.training.dataset.sampling import VARIANT_STRATEGIES
from rivegs_mllm.types import Entity, Sample, UserError

Row = EntailmentRow | GroundingRow


@dataclass
class ExpressionVariants:
    """``store`` is a store of ``rivegs distill``, null for the expressions that the data itself has.

    ``strategy``: of the texts that several teachers wrote of an entity, "draw" samples one an epoch, "copies" makes a
    row of each, and "first" takes the first by the teachers' names, with which dev and test are evaluated in any case.
    """

    store: Path | None = None
    strategy: str = "draw"

    def __post_init__(self) -> None:
        if self.strategy not in VARIANT_STRATEGIES:
            raise UserError(f"stage.expressions.strategy: {self.strategy!r} is none of {', '.join(VARIANT_STRATEGIES)}")

    def check(self, parts: Sequence[str]) -> None:
        """Raises UserError where there is a store, but ``parts`` of the referring expression leave expressions out."""
        if self.store is not None and "expression" not in parts:
            raise UserError("stage.expressions.store: `query_fields` has no expression; add it there, or name no store")

    def variants(self, rows: Sequence[Row], parts: Sequence[str] = ()) -> list[list[Entity]]:
        """Each row's entity under each of its expressions, at least once.

        Prints how many have no expression, where ``parts`` asks for them. Raises UserError where none has one.
        """
        variants = [[row.entity] for row in rows]
        if self.store is not None:
            answers = read_store(self.store, "expression", clean=True)
            for index, row in enumerate(rows):
                if found := answers.get((row.id, row.entity.text)):
                    variants[index] = [dataclasses.replace(row.entity, expression=own.text) for own in found]
        if "expression" not in parts:
            return variants
        without = sum(not own[0].expression for own in variants)
        if without == len(rows):
            raise UserError(
                f"none of {len(rows)} training entities has an expression{self._where()}; name a store of "
                "`rivegs distill` in stage.expressions.store, or set stage.query_fields to [mention, type]"
            )
        if without:
            print(f"{without} of {len(rows)} training entities have no expression{self._where()}")
        return variants

    def _where(self) -> str:
        return "" if self.store is None else f", also not in {self.store}"

    def first(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The posts, their gold entities under the store's first expressions."""
        return samples if self.store is None else attach_expressions(samples, self.store).samples
