"""The entity types that a recipe works with, held against those that a dataset has."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rivegs_mllm.data.dataset_info import NAME, read_info
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Prediction, Sample, UserError

Record = TypeVar("Record", Sample, Prediction)


def of_types(records: Sequence[Record], types: Collection[str]) -> list[Record]:
    """The samples or predictions without the entities of other types."""
    return [
        record
        if all(entity.type in types for entity in record.entities)
        else dataclasses.replace(record, entities=tuple(own for own in record.entities if own.type in types))
        for record in records
    ]


def left_out(samples: Iterable[Sample], types: Collection[str]) -> str:
    """How many entities ``of_types`` leaves out of samples, by type, in words; "" for none."""
    counts = Counter(entity.type for sample in samples for entity in sample.entities)
    others = {name: count for name, count in counts.most_common() if name not in types}
    if not others:
        return ""
    named = ", ".join(f"{shown(name)} {count}" for name, count in others.items())
    return f"{sum(others.values())} of {counts.total()} entities are of other types and left out ({named})"


def gold_of_types(gold: Sequence[Sample], types: Collection[str]) -> list[Sample]:
    """The gold without entities of other types, which is told. Raises UserError for a type that it has not."""
    known = {entity.type for sample in gold for entity in sample.entities}
    if unknown := [name for name in types if name not in known]:
        raise UserError(f"--types: {shown(unknown[0])} is no type of the gold, which has {', '.join(sorted(known))}")
    if told := left_out(gold, types):
        print(f"gold: {told}")
    return of_types(gold, types)


def check_listed(samples: Iterable[Sample], folder: Path) -> None:
    """Raises UserError for the first entity of a type that ``folder/dataset.json`` does not list."""
    info = read_info(folder)
    if info is None:
        return
    for sample in samples:
        for entity in sample.entities:
            if entity.type not in info.types:
                raise UserError(
                    f"{folder / NAME}: types: lacks {shown(entity.type)}, the type of {shown(entity.text)} in sample "
                    f"{sample.id}; add it there, or set the sample right"
                )


def check_shared(samples: Iterable[Sample], folder: Path, types: Collection[str], where: str) -> None:
    """Raises UserError where samples of ``folder`` have entities, and none of them is of the types that ``where``
    names."""
    found = list(dict.fromkeys(entity.type for sample in samples for entity in sample.entities))
    if found and not set(found) & set(types):
        raise UserError(
            f"{folder} has the types {', '.join(map(shown, found))}, but {where} has {', '.join(map(shown, types))}: "
            "take a model that was trained on the types of this dataset, or posts of the types of the model"
        )
