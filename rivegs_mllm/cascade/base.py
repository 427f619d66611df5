"""The contract of the cascade: its slots, what a stage may do, and the checks that hold it to that.

A stage is called as ``stage(samples, drafts)`` with two lists of equal length and order and gives the drafts back,
its own fields filled. Samples come without their gold, but for the stages that exist to stand in for a perfect one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from rivegs_mllm.types import Entity, Prediction, Sample, UserError

SLOTS = ("knowledge", "tagger", "expander", "entailment", "grounder", "segmenter")
"""The slots in the order in which they are run."""

WHOLE = "answer"
"""In place of a slot: a system that fills all fields at once."""

Stage = Callable[[Sequence[Sample], Sequence[Prediction]], list[Prediction]]


class StageRecipe(Protocol):
    """The settings of a stage: a dataclass that is registered under its ``type:`` in its slot's choices."""

    SEES_GOLD: ClassVar[bool]

    def load(self, folder: Path) -> Stage:
        """The stage, ready to be called. ``folder`` is what the samples' pictures are relative to."""


@runtime_checkable
class SharedModel(Protocol):
    """Settings of a stage that can stand in several slots, which then share one loaded model."""

    def needs_in(self, slot: str) -> Sequence[str]:
        """The further slots, all of them before ``slot``, that must not be null."""

    def model_key(self) -> Hashable:
        """Equal where the loaded models would be alike."""

    def load_model(self, folder: Path) -> object:
        """The model. ``folder`` is what the samples' pictures are relative to."""

    def stage_in(self, slot: str, model: object) -> Stage:
        """The stage of ``slot`` over the loaded model, ready to be called."""


@runtime_checkable
class Needy(Protocol):
    """Settings of a stage that needs more slots filled than NEEDS says, such as expressions in what it is asked."""

    def needs(self) -> Sequence[str]:
        """The further slots, all of them before its own, that must not be null."""


@runtime_checkable
class Independent(Protocol):
    """Settings of a stage that needs other slots filled than NEEDS says, such as a segmenter that needs no box."""

    def instead(self) -> Sequence[str]:
        """The slots that it needs in the place of those."""


@runtime_checkable
class Dependent(Protocol):
    """Settings of a stage whose answers depend on files that no path among its settings names."""

    def files(self) -> Sequence[Path]:
        """These files; when one changes, a work folder begun with the old one is refused."""


@runtime_checkable
class Sized(Protocol):
    """A loaded stage that can tell how many parameters its model has."""

    parameters: int


class StageError(UserError):
    """A stage that broke the contract, or was given what it cannot work on: names stage, sample and cure."""


NEEDS = {
    "knowledge": (),
    "tagger": (),
    "expander": ("tagger",),
    "entailment": ("tagger",),
    "grounder": ("tagger", "entailment"),
    "segmenter": ("tagger", "grounder"),
}
"""The slots without which a slot has nothing to work on."""

_OWN_ENTITY_FIELDS = {
    "expander": {"expression"},
    "entailment": {"visible", "visible_score"},
    "grounder": {"boxes"},
    "segmenter": {"masks"},
}


def blind(sample: Sample) -> Sample:
    """The sample without its gold."""
    return dataclasses.replace(sample, entities=())


def without_picture(draft: Prediction, where: str, error: UserError) -> Prediction:
    """The draft with a note that a stage could not see its picture."""
    return dataclasses.replace(draft, errors=(*draft.errors, f"{where}: no picture: {error}"))


def check_stage(
    slot: str, name: str, samples: Sequence[Sample], before: Sequence[Prediction], after: Sequence[Prediction]
) -> None:
    """Raises StageError unless ``after`` has the posts of ``samples`` in order and only the slot's own fields changed.

    ``name`` is the stage's type. ``raw`` and ``errors`` belong to every stage.
    """
    where = f"{slot} ({name})"
    if len(after) != len(samples):
        given = {draft.id for draft in after}
        without = next((f", none for {sample.id!r}" for sample in samples if sample.id not in given), "")
        raise StageError(
            f"{where}: gave {len(after)} drafts for {len(samples)} posts{without}; a stage must give one a post, "
            "also where it finds nothing"
        )
    for sample, old, new in zip(samples, before, after, strict=True):
        if new.id != sample.id:
            raise StageError(
                f"{where}: gave a draft of post {new.id!r} in the place of post {sample.id!r}; "
                "a stage must keep the order of the posts"
            )
        if slot == WHOLE:
            continue
        if slot != "knowledge" and new.knowledge != old.knowledge:
            raise StageError(f"{where}: changed the knowledge of post {sample.id!r}, which is not its own field")
        if slot not in ("tagger", "knowledge") and len(new.entities) != len(old.entities):
            raise StageError(f"{where}: changed the number of entities of post {sample.id!r}")
        if slot == "knowledge" and new.entities != old.entities:
            raise StageError(f"{where}: changed the entities of post {sample.id!r}, which are not its own field")
        if slot in _OWN_ENTITY_FIELDS:
            for ours, theirs in zip(old.entities, new.entities, strict=True):
                if _rest(slot, ours) != _rest(slot, theirs):
                    raise StageError(
                        f"{where}: changed more of entity {ours.text!r} of post {sample.id!r} than "
                        f"{', '.join(sorted(_OWN_ENTITY_FIELDS[slot]))}"
                    )


def _rest(slot: str, entity: Entity) -> tuple:
    """The fields of an entity that the slot may not touch."""
    names = [field.name for field in dataclasses.fields(entity)]
    return tuple(getattr(entity, name) for name in names if name not in _OWN_ENTITY_FIELDS[slot])


def refer(entity: Entity, parts: Sequence[str]) -> str:
    """The referring expression ``mention (type) - expression`` (RiVEG), of the parts named: the paper's Table X.

    ``parts`` is any of "mention", "type" and "expression"; an empty expression leaves out its dash.
    """
    name = entity.text if "mention" in parts else ""
    if "type" in parts:
        name = f"{name} ({entity.type})" if name else entity.type
    expression = entity.expression if "expression" in parts else ""
    return " - ".join(part for part in (name, expression) if part)
