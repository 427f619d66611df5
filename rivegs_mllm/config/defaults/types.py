"""The entity types of a recipe that names none: those of the model it was trained to, or those that its dataset has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rivegs_mllm.answer.format import FILE_NAME, AnswerFormat
from rivegs_mllm.config.check import resolve
from rivegs_mllm.config.reading.layers import Layered, Sourced, word
from rivegs_mllm.config.reading.yaml_text import Written
from rivegs_mllm.data.dataset_info import NAME, dataset_types
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import TYPES, UserError

NAMING_TYPES = "Types: {types}\n"
"""In front of an instruction that does not name the types, where they are not those of Twitter-GMNER."""


def with_dataset_types(layered: Layered, folder: Path | None = None) -> Layered:
    """The layers, with the types of the dataset in ``folder`` where the recipe says none of its own.

    ``folder`` is by default the recipe's ``data.folder``. Types are ``answer.types`` of an end-to-end model, and
    ``types`` of a cascade and of a stage. What ``folder/dataset.json`` says goes before what the entities have; the
    four types of Twitter-GMNER, or some of them, are the default as they are. Raises UserError for a ``dataset.json``
    that is wrong, and where the recipe and the dataset each name a type that the other does not.
    """
    data = layered.sections.get("data")
    named = word(data, "folder") if isinstance(data, dict) else None
    folder = folder or (Path(named) if named else None)
    try:
        types = dataset_types(folder) if folder else {}
    except OSError:  # a name that no folder can have; whoever reads the samples says so
        return layered
    if not types:
        return layered
    by = str(folder / NAME) if (folder / NAME).is_file() else f"the entities of {folder}"
    own = named_types(layered)
    if own is not None:
        _check_named(layered, own, types, by)
        return layered
    if types.keys() <= set(TYPES) and not any(types.values()):
        return layered
    return _with_types(layered, types, by)


def with_trained_types(layered: Layered, trained: Path) -> Layered:
    """The layers of an end-to-end model, with the types that the model in the folder ``trained`` was trained on where
    the recipe says none of its own. Raises UserError where the recipe names others than the model has.
    """
    path = trained / FILE_NAME
    own, types = named_types(layered), AnswerFormat.load(trained).types
    if own is None:
        return _with_types(layered, dict.fromkeys(types, ""), str(path))
    if own and sorted(own) != sorted(types):
        raise layered.fault(
            f"answer.types: {', '.join(map(shown, own))}, but {path} says that the model was trained on "
            f"{', '.join(map(shown, types))}; name none, which takes the model's, or train a model on these"
        )
    return layered


def named_types(layered: Layered) -> list[str] | None:
    """The types that the recipe names; None where it names none, none where what it says is wrong, which decoding it
    tells."""
    content = layered.content
    section = content.get("answer") if "model" in content else content
    value = section.get("types") if isinstance(section, dict) else None
    if value is None or (isinstance(value, Written) and value.value is None):
        return None
    try:
        return list(resolve(list[str] | dict[str, str], value, "types"))
    except UserError:
        return []


def _check_named(layered: Layered, own: list[str], types: Mapping[str, str], by: str) -> None:
    unknown = [name for name in own if name not in types]
    others = [name for name in types if name not in own]
    if unknown and others:
        key = "answer.types" if "model" in layered.sections else "types"
        raise layered.fault(
            f"{key}: {', '.join(map(shown, unknown))}: no type of {by}, which has {', '.join(map(shown, types))}; name "
            "types of the dataset, or none to have them all"
        )


def _with_types(layered: Layered, types: Mapping[str, str], by: str) -> Layered:
    if "model" not in layered.sections:
        return dataclasses.replace(layered, sections={**layered.sections, "types": Sourced(list(types), by)})
    answer = layered.sections.get("answer", {})
    if not isinstance(answer, dict):
        return layered
    added = {"types": Sourced(dict(types) if any(types.values()) else list(types), by)}
    instruction = word(answer, "instruction")
    if instruction is not None and "{types}" not in instruction and not types.keys() <= set(TYPES):
        added["instruction"] = Sourced(NAMING_TYPES + instruction, by)
    return dataclasses.replace(layered, sections={**layered.sections, "answer": {**answer, **added}})
