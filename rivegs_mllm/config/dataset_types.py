"""The entity types of a recipe that names none: those that its dataset has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rivegs_mllm.config.layers import Layered, Sourced, word
from rivegs_mllm.data.dataset_info import NAME, dataset_types
from rivegs_mllm.types import TYPES

NAMING_TYPES = "Types: {types}\n"
"""In front of an instruction that does not name the types, where they are not those of Twitter-GMNER."""


def with_dataset_types(layered: Layered, folder: Path | None = None) -> Layered:
    """The layers, with the types of the dataset in ``folder`` where the recipe says none of its own.

    ``folder`` is by default the recipe's ``data.folder``. Types are ``answer.types`` of an end-to-end model, and
    ``types`` of a cascade and of a stage. What ``folder/dataset.json`` says goes before what the entities have; the
    four types of Twitter-GMNER, or some of them, are the default as they are. Raises UserError for a ``dataset.json``
    that is wrong.
    """
    data = layered.sections.get("data")
    named = word(data, "folder") if isinstance(data, dict) else None
    folder = folder or (Path(named) if named else None)
    try:
        types = dataset_types(folder) if folder else {}
    except OSError:  # a name that no folder can have; whoever reads the samples says so
        return layered
    if not types or (types.keys() <= set(TYPES) and not any(types.values())):
        return layered
    by = str(folder / NAME) if (folder / NAME).is_file() else f"the entities of {folder}"
    if "model" not in layered.sections:
        return dataclasses.replace(layered, sections={"types": Sourced(list(types), by), **layered.sections})
    answer = layered.sections.get("answer", {})
    if not isinstance(answer, dict) or "types" in answer:
        return layered
    added = {"types": Sourced(types if any(types.values()) else list(types), by)}
    instruction = word(answer, "instruction")
    if instruction is not None and "{types}" not in instruction:
        added["instruction"] = Sourced(NAMING_TYPES + instruction, by)
    return dataclasses.replace(layered, sections={**layered.sections, "answer": {**answer, **added}})
