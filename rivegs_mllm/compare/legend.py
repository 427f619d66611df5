"""What each compared system is, in plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from rivegs_mllm.cascade.base import SLOTS, SharedModel, StageRecipe
from rivegs_mllm.cascade.config import CascadeRecipe, type_name_of
from rivegs_mllm.cascade.mllm import Mllm
from rivegs_mllm.config.answering import Answering

_FILLED = {
    "knowledge": "knowledge",
    "tagger": "entities",
    "expander": "expressions",
    "entailment": "visibility",
    "grounder": "boxes",
}
"""What the stage of a slot adds to a post."""

_MOST_CHANGED = 3
_MOST_SETTINGS = 2

System = CascadeRecipe | Answering


def legend(systems: Mapping[str, System]) -> dict[str, str]:
    """Of each system by name what it is: its stages, or how it differs from the first where most are the same."""
    (first_name, first), *others = systems.items()
    words = {first_name: _in_full(first)}
    for name, system in others:
        changes = _changes(first, system)
        few = changes is not None and 0 < len(changes) <= _MOST_CHANGED
        words[name] = f"as {first_name}, but {', '.join(changes)}{_conditioned(system)}" if few else _in_full(system)
    return words


def _in_full(system: System) -> str:
    if isinstance(system, Answering):
        return f"end-to-end model on {system.model.base}"
    stages = ", ".join(f"{slot} {_stage(choice)}" for slot, choice in system.stages().items())
    return f"cascade of {stages}{_conditioned(system)}"


def _stage(choice: StageRecipe | SharedModel) -> str:
    if isinstance(choice, Mllm):
        return f"end-to-end model {choice.recipe.stem}"
    return {"gold": "gold (oracle)"}.get(kind := type_name_of(choice), kind.replace("_", " "))


def _conditioned(system: System) -> str:
    """On what of a cascade an end-to-end model that fills only later slots is conditioned, "" where there is none."""
    if isinstance(system, Answering):
        return ""
    stages = system.stages()
    last = max((SLOTS.index(slot) for slot, choice in stages.items() if isinstance(choice, Mllm)), default=0)
    given = [_FILLED[slot] for slot in SLOTS[:last] if slot in stages and not isinstance(stages[slot], Mllm)]
    return f", conditioned on the cascade's {' and '.join(given)}" if given else ""


def _changes(first: System, own: System) -> list[str] | None:
    """What a cascade has in place of the first one's stages, None where there are not two cascades."""
    if isinstance(first, Answering) or isinstance(own, Answering):
        return None
    theirs, ours = first.stages(), own.stages()
    changes = []
    for slot in SLOTS:
        before, after = theirs.get(slot), ours.get(slot)
        if before == after:
            continue
        if after is None:
            changes.append(f"no {slot}")
        elif before is None or type(before) is not type(after):
            changes.append(f"{slot} {_stage(after)}")
        else:
            changes.append(f"{slot} with {_settings(before, after)}")
    return changes


def _settings(before: StageRecipe | SharedModel, after: StageRecipe | SharedModel) -> str:
    """The settings of a stage that differ, and their values."""
    old = dict(_flat(dataclasses.asdict(before)))
    changed = [f"{key} {value}" for key, value in _flat(dataclasses.asdict(after)) if old.get(key) != value]
    more = len(changed) - _MOST_SETTINGS
    return " and ".join(changed[:_MOST_SETTINGS]) + (f" and {more} more" if more > 0 else "")


def _flat(settings: Mapping, above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
