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
from rivegs_mllm.cascade.base import Stage, StageError, pass_through
from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.store.answer_store import read_store
from rivegs_mllm.types import Entity, Prediction, Sample


class Expander(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of an expander, chosen by ``type:``."""


@Expander.register_subclass("none")
@dataclass
class NoExpander(Expander):
    """No expressions: mention and type alone."""

    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return pass_through


@Expander.register_subclass("gold")
@dataclass
class GoldExpander(Expander):
    """The gold's expressions, for oracle ablations. An entity that is not in the gold gets none."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    filled = []
    for sample, partial in zip(samples, partials, strict=True):
        matching = [[gold for gold in sample.entities if same_span_or_text(gold, own)] for own in partial.entities]
        filled.append(with_expressions(partial, [own[0].expression if own else "" for own in matching]))
    return filled


def with_expressions(partial: Prediction, expressions: Sequence[str]) -> Prediction:
    """The partial prediction with one expression an entity."""
    filled = [
        dataclasses.replace(entity, expression=expression)
        for entity, expression in zip(partial.entities, expressions, strict=True)
    ]
    return dataclasses.replace(partial, entities=tuple(filled))


@Expander.register_subclass("replay")
@dataclass
class ReplayExpander(Expander):
    """Expressions that were written before.

    ``source`` is a store of ``rivegs distill`` (a folder), looked up by post and mention, of which answers with faults
    are left out and the first teacher's by name is taken; or an encyclopedia (``.jsonl``), looked up by the mention.
    ``fallback`` is the expression of a mention that is not in it; where it is null, such a mention is an error.
    """

    source: Path
    fallback: str | None = ""
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

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [self._filled(partial) for partial in partials]

    def _filled(self, partial: Prediction) -> Prediction:
        expressions, unknown = [], []
        for entity in partial.entities:
            found = self.look_up(partial.id, entity.text)
            if found is None:
                found = self._otherwise(partial, entity)
                unknown.append(f"expander (replay): {entity.text!r} is not in {self.settings.source}")
            expressions.append(found)
        return dataclasses.replace(with_expressions(partial, expressions), errors=(*partial.errors, *unknown))

    def _otherwise(self, partial: Prediction, entity: Entity) -> str:
        if self.settings.fallback is None:
            raise StageError(
                f"expander (replay): {entity.text!r} of post {partial.id!r} is not in {self.settings.source}; "
                "add it there, or set `fallback` to the text to use instead"
            )
        return self.settings.fallback
