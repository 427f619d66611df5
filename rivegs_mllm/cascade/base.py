"""The contract of the cascade: its slots, what a stage may do, and the checks that it does nothing else.

A stage is called as ``stage(samples, partials)`` with two lists of equal length and order: posts, and what the slots
before have filled of each, its partial prediction. It gives these back with its own fields filled. Samples come without
their gold, but for oracle stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from rivegs_mllm.types import Entity, Prediction, Sample, UserError

SLOTS = ("knowledge", "tagger", "expander", "entailment", "grounder", "segmenter")
"""The slots in the order in which they are run."""

ALL_SLOTS = "answer"
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

    def requires_in(self, slot: str) -> Sequence[str]:
        """The further slots, all of them before ``slot``, that must not be null."""

    def model_key(self) -> Hashable:
        """Equal where the loaded models would be alike."""

    def load_model(self, folder: Path) -> object:
        """The model. ``folder`` is what the samples' pictures are relative to."""

    def stage_in(self, slot: str, model: object) -> Stage:
        """The stage of ``slot`` over the loaded model, ready to be called."""


@runtime_checkable
class RequiresSlots(Protocol):
    """Settings of a stage that requires more slots than REQUIRED_SLOTS, such as expressions for its queries."""

    def requires(self) -> Sequence[str]:
        """The further slots, all of them before its own, that must not be null."""


@runtime_checkable
class RequiresOnly(Protocol):
    """Settings of a stage that requires other slots than REQUIRED_SLOTS, such as a segmenter that needs no box."""

    def requires_only(self) -> Sequence[str]:
        """The slots that it requires instead of those."""


@runtime_checkable
class DependsOnFiles(Protocol):
    """Settings of a stage whose answers depend on files that no path among its settings names."""

    def files(self) -> Sequence[Path]:
        """These files; when one changes, a work folder begun with the old one is refused."""


@runtime_checkable
class CountsParameters(Protocol):
    """A loaded stage that can tell how many parameters its model has."""

    num_parameters: int


class StageError(UserError):
    """A stage that broke the contract, or was given what it cannot work on: names the stage and the sample, and says
    what to do."""


@contextmanager
def named_errors(stage: str) -> Iterator[None]:
    """Within it, a UserError is raised as a StageError that begins with ``stage``, its slot and type."""
    try:
        yield
    except UserError as error:
        message = str(error)
        raise StageError(message if message.startswith(stage) else f"{stage}: {message}") from None


REQUIRED_SLOTS = {
    "knowledge": (),
    "tagger": (),
    "expander": ("tagger",),
    "entailment": ("tagger",),
    "grounder": ("tagger", "entailment"),
    "segmenter": ("tagger", "grounder"),
}
"""The slots without which a slot has nothing to work on."""

# Knowledge and tagger have none: before the tagger there is no entity, and it makes them.
_OWN_ENTITY_FIELDS = {
    "expander": {"expression"},
    "entailment": {"visible", "visible_score"},
    "grounder": {"boxes"},
    "segmenter": {"masks"},
}


def pass_through(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    """The stage that changes nothing."""
    return list(partials)


def without_labels(sample: Sample) -> Sample:
    """The sample without its gold."""
    return dataclasses.replace(sample, entities=())


def without_picture(partial: Prediction, where: str, error: UserError) -> Prediction:
    """The partial prediction with a note that a stage could not see its picture."""
    return dataclasses.replace(partial, errors=(*partial.errors, f"{where}: no picture: {error}"))


def check_stage(
    slot: str, name: str, samples: Sequence[Sample], before: Sequence[Prediction], after: Sequence[Prediction]
) -> None:
    """Raises StageError unless ``after`` has the posts of ``samples`` in order and only the slot's own fields changed.

    ``name`` is the stage's type. ``raw`` and ``errors`` belong to every stage.
    """
    where = f"{slot} ({name})"
    if len(after) != len(samples):
        given = {partial.id for partial in after}
        without = next((f", none for {sample.id!r}" for sample in samples if sample.id not in given), "")
        raise StageError(
            f"{where}: returned {len(after)} predictions for {len(samples)} posts{without}; "
            "a stage must return one a post, also where it finds nothing"
        )
    for sample, old, new in zip(samples, before, after, strict=True):
        if new.id != sample.id:
            raise StageError(
                f"{where}: returned the prediction of post {new.id!r} in place of post {sample.id!r}; "
                "a stage must keep the order of the posts"
            )
        if slot == ALL_SLOTS:
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


def referring_expression(entity: Entity, parts: Sequence[str]) -> str:
    """The referring expression ``mention (type) - expression`` (RiVEG), of the parts named: the paper's Table X.

    ``parts`` is any of "mention", "type" and "expression"; an empty expression leaves out its dash.
    """
    name = entity.text if "mention" in parts else ""
    if "type" in parts:
        name = f"{name} ({entity.type})" if name else entity.type
    expression = entity.expression if "expression" in parts else ""
    return " - ".join(part for part in (name, expression) if part)
