"""The folder of a trained stage: its metadata, ``stage.json``, is written last, and every loader checks it.

It says what was trained: the stage's type, the type set of its entities, and its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.config.check import check_saved, resolve
from rivegs_mllm.config.reading.former_names import current
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import UserError

METADATA_FILE = "stage.json"
METADATA_VERSION = 1
WEIGHTS = "model.safetensors"
VISION_FOLDER = "eyes"
"""The subfolder of a stage's frozen vision encoder, under the name that earlier releases gave it."""


@dataclass(frozen=True)
class StageMetadata:
    """``kind`` is the ``type:`` that the stage was trained as, ``types`` the entity types in the order of its labels,
    ``settings`` the stage's section of the recipe."""

    kind: str
    types: tuple[str, ...]
    settings: Mapping[str, object]


def write_metadata(folder: Path, metadata: StageMetadata) -> None:
    """Marks the folder as complete: to be called when everything else is written."""
    content = {
        "version": METADATA_VERSION,
        "kind": metadata.kind,
        "types": metadata.types,
        "settings": metadata.settings,
    }
    write_json(folder / METADATA_FILE, content)


def read_metadata(folder: Path, stage: str, kind: str, types: Sequence[str] | None, settings: type) -> StageMetadata:
    """The metadata of a trained stage, checked against what the cascade needs.

    ``stage`` names slot and type in messages, as ``tagger (crf)``; ``settings`` is the dataclass that it was trained
    by. Raises StageError when the folder is not a complete stage of this type, of this release's format and of the
    entity types ``types``, None for any.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise StageError(
            f"{stage}: {folder} has no {METADATA_FILE}, so its training was not finished; train one with "
            "`rivegs train recipes/stages/...`, or start the command that trained it again"
        )
    raw = current(read_object(path, f"{stage}: train the stage again", StageError))
    try:
        if missing := [name for name in ("version", "kind", "types", "settings") if name not in raw]:
            raise UserError(f"{missing[0]}: missing")
        for name, hint in (("kind", str), ("types", list[str]), ("settings", dict[str, object])):
            resolve(hint, raw[name], name)
    except UserError as error:
        raise StageError(f"{stage}: {path} is not a stage's metadata ({error}); train the stage again") from None
    version, metadata = raw["version"], StageMetadata(raw["kind"], tuple(raw["types"]), raw["settings"])
    if type(version) is not int or version != METADATA_VERSION:
        raise StageError(
            f"{stage}: {path} has format version {version!r:.80}, this release reads {METADATA_VERSION}; "
            "train the stage again"
        )
    if metadata.kind != kind:
        raise StageError(
            f"{stage}: {folder} holds a stage of type {metadata.kind!r:.80}; name it with `type: {metadata.kind:.80}`"
        )
    if types is not None and sorted(metadata.types) != sorted(types):
        raise StageError(
            f"{stage}: {path} says that it was trained on the types {', '.join(metadata.types):.200}, but those of the "
            f"dataset or the recipe are {', '.join(types):.200}; train it on such data, or set the recipe's `types`"
        )
    try:
        check_saved(settings, metadata.settings, "settings")
    except UserError as error:
        raise StageError(f"{stage}: {path}: {error}; train the stage again") from None
    return metadata


def load_weights(model: nn.Module, folder: Path, stage: str) -> None:
    """Loads a trained stage's weights. Raises StageError, which begins with ``stage``, where they do not fit."""
    path = folder / WEIGHTS
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, OSError, SafetensorError) as error:
        raise StageError(f"{stage}: {path}: {error}; train the stage again") from None
