"""Expanders: what each entity looks like, in plain words.

An expander fills ``expression``. Those of RiVEG come from an LLM that is asked "what is X in the text?".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus

from eval.protocols import same_span_or_text
from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.types import Entity, Prediction, Sample


class Expander(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of an expander, chosen by ``type:``."""


@Expander.register_subclass("none")
@dataclass
class NoExpander(Expander):
    """Goes without: mention and type alone."""

    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _none


def _none(samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
    return list(drafts)


@Expander.register_subclass("gold")
@dataclass
class GoldExpander(Expander):
    """The gold's expressions, for oracle ablations. An entity that is not in the gold gets none."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
    return [
        with_expressions(draft, [_gold_expression(sample, entity) for entity in draft.entities])
        for sample, draft in zip(samples, drafts, strict=True)
    ]


def _gold_expression(sample: Sample, entity: Entity) -> str:
    return next((gold.expression for gold in sample.entities if same_span_or_text(gold, entity)), "")


def with_expressions(draft: Prediction, expressions: Sequence[str]) -> Prediction:
    """The draft with one expression an entity."""
    filled = [
        dataclasses.replace(entity, expression=expression)
        for entity, expression in zip(draft.entities, expressions, strict=True)
    ]
    return dataclasses.replace(draft, entities=tuple(filled))


@Expander.register_subclass("replay")
@dataclass
class ReplayExpander(Expander):
    """Expressions that were written before.

    ``source`` is a store of ``rivegs distill`` (a folder), looked up by post and mention, of which answers with faults
    are left out and the first teacher's by name is taken; or an encyclopedia (``.jsonl``), looked up by the mention.
    ``otherwise`` is the expression of a mention that is not in it; where it is null, such a mention is an error.
    """

    source: Path
    otherwise: str | None = ""
    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage. Raises UserError where the source cannot be read."""
        return ExpressionReplay(_lookup(self.source), self)


Lookup = Callable[[str, str], str | None]
"""From a post's id and a mention to its expression, None where there is none."""


def _lookup(source: Path) -> Lookup:
    if source.is_dir():
        answers = read_store(source, "expression", clean=True)
        return lambda post, mention: answers[post, mention][0].text if (post, mention) in answers else None
    encyclopedia = read_encyclopedia(source)

    def look_up(post: str, mention: str) -> str | None:
        entry = encyclopedia.find(mention)
        return None if entry is None else entry.expression

    return look_up


class ExpressionReplay:
    """Fills ``expression`` by looking it up. ``errors`` lists the mentions that are not there."""

    def __init__(self, look_up: Lookup, settings: ReplayExpander):
        self.look_up = look_up
        self.settings = settings

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        return [self._filled(draft) for draft in drafts]

    def _filled(self, draft: Prediction) -> Prediction:
        expressions, unknown = [], []
        for entity in draft.entities:
            found = self.look_up(draft.id, entity.text)
            if found is None:
                found = self._otherwise(draft, entity)
                unknown.append(f"expander (replay): {entity.text!r} is not in {self.settings.source}")
            expressions.append(found)
        return dataclasses.replace(with_expressions(draft, expressions), errors=(*draft.errors, *unknown))

    def _otherwise(self, draft: Prediction, entity: Entity) -> str:
        if self.settings.otherwise is None:
            raise StageError(
                f"expander (replay): {entity.text!r} of post {draft.id!r} is not in {self.settings.source}; "
                "add it there, or set `otherwise` to what shall stand in its place"
            )
        return self.settings.otherwise
