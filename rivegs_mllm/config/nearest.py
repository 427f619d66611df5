"""The key of a schema that somebody may have meant by one that it has not."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from rivegs_mllm.config.bounds import is_union
from rivegs_mllm.config.check import types_of

_USUAL_NAMES = {
    "alpha": "lora_alpha",
    "base_model": "base",
    "batch": "batch_size",
    "bs": "batch_size",
    "dataset": "folder",
    "dropout": "lora_dropout",
    "epoch": "num_train_epochs",
    "epochs": "num_train_epochs",
    "gradient_accumulation": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "image_size": "max_pixels",
    "iterations": "max_steps",
    "learning_rate_schedule": "lr_scheduler_type",
    "lr": "learning_rate",
    "max_len": "max_length",
    "max_seq_length": "max_length",
    "num_epochs": "num_train_epochs",
    "num_workers": "dataloader_num_workers",
    "optimizer": "optim",
    "output": "output_dir",
    "precision": "dtype",
    "prompt": "instruction",
    "rank": "r",
    "scheduler": "lr_scheduler_type",
    "seq_length": "max_length",
    "steps": "max_steps",
    "wd": "weight_decay",
    "workers": "dataloader_num_workers",
}
"""What people, and other programs, call the last part of a key."""
_BATCH_SIZES = ("train.per_device_train_batch_size", "predict.batch_size")
_MOST = 2
_LIKE = 0.75
"""How alike two names are of which one may be meant for the other, from 0 to 1."""


def nearest_keys(key: str, known: Sequence[str]) -> list[str]:
    """The keys of ``known`` that may be meant, the likeliest first, at most two."""
    last = key.rpartition(".")[2].lower().replace("-", "_")[:80]
    names = [last, _USUAL_NAMES.get(last, last)]
    if "batch_size" in names and (found := [own for own in _BATCH_SIZES if own in known]):
        return found
    if same := [own for own in known if own.rpartition(".")[2] in names and own != key]:
        return sorted(same, key=lambda own: -_likeness(key, own))[:_MOST]
    ranked = sorted(known, key=lambda own: -_likeness(key, own))
    return [own for own in ranked if _likeness(key, own) >= _LIKE][:1]


def keys_of(
    kind: object, content: Mapping[str, object], above: str = "", below: tuple[object, ...] = ()
) -> Iterator[str]:
    """The dotted keys that settings can have. Of a choice they are those of the type that ``content`` names, or of
    all."""
    kind, *others = _bare(kind)
    if others:
        for one in (kind, *others):
            yield from keys_of(one, content, above, below)
    elif (types := types_of(kind)) is not None:
        yield f"{above}.type"
        named = content.get("type")
        for one in [types[named]] if isinstance(named, str) and named in types else types.values():
            yield from keys_of(one, content, above, (*below, kind))
    elif dataclasses.is_dataclass(kind) and kind not in below:
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in (own for own in dataclasses.fields(kind) if own.init):
            own = f"{above}.{field.name}" if above else field.name
            inner = content.get(field.name)
            yield own
            yield from keys_of(hints[field.name], inner if isinstance(inner, Mapping) else {}, own, (*below, kind))


def _bare(hint: object) -> list[object]:
    """What a hint is made of, without its rules and None."""
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if is_union(hint):
        return [one for own in typing.get_args(hint) if own is not type(None) for one in _bare(own)] or [object]
    return [hint]


def _likeness(key: str, known: str) -> float:
    """Of the whole keys, or of their last parts where these are more alike."""
    pairs = ((key, known), (key.rpartition(".")[2], known.rpartition(".")[2]))
    return max(difflib.SequenceMatcher(None, one[:80].lower(), other).ratio() for one, other in pairs)
