"""The folder of a trained stage: its card ``stage.json`` is written last, and every loader checks it.

The card says what was trained: the stage's type, the type set of its entities, and its settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.config.check import check_saved, resolve
from rivegs_mllm.data.files import write_json
from rivegs_mllm.data.foreign import read_object
from rivegs_mllm.types import UserError

FILE_NAME = "stage.json"
VERSION = 1


@dataclass(frozen=True)
class Card:
    """``kind`` is the ``type:`` that the stage was trained as, ``types`` the entity types in the order of its labels,
    ``settings`` the stage's section of the recipe."""

    kind: str
    types: tuple[str, ...]
    settings: Mapping[str, object]


def write_card(folder: Path, card: Card) -> None:
    """Marks the folder as whole: to be called when everything else is written."""
    content = {"version": VERSION, "kind": card.kind, "types": card.types, "settings": card.settings}
    write_json(folder / FILE_NAME, content)


def read_card(folder: Path, stage: str, kind: str, types: Sequence[str], settings: type) -> Card:
    """The card of a trained stage, checked against what the cascade needs.

    ``stage`` names slot and type in messages, as ``tagger (crf)``; ``settings`` is the dataclass that it was trained
    by. Raises StageError when the folder is not a whole
    stage of this kind, of this release's format and of the type set ``types``.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise StageError(
            f"{stage}: {folder} has no {FILE_NAME}, so it is no stage that was trained to its end; train one with "
            "`rivegs train recipes/stages/...`, or start the command that trained it again"
        )
    raw = read_object(path, f"{stage}: train the stage again", StageError)
    try:
        if missing := [name for name in ("version", "kind", "types", "settings") if name not in raw]:
            raise UserError(f"{missing[0]}: missing")
        for name, hint in (("kind", str), ("types", list[str]), ("settings", dict[str, object])):
            resolve(hint, raw[name], name)
    except UserError as error:
        raise StageError(f"{stage}: {path} is not a stage's card ({error}); train the stage again") from None
    version, card = raw["version"], Card(raw["kind"], tuple(raw["types"]), raw["settings"])
    if type(version) is not int or version != VERSION:
        raise StageError(
            f"{stage}: {path} is of format {version!r:.80}, this release reads {VERSION}; train the stage again"
        )
    if card.kind != kind:
        raise StageError(
            f"{stage}: {folder} holds a stage of type {card.kind!r:.80}; name it with `type: {card.kind:.80}`"
        )
    if sorted(card.types) != sorted(types):
        raise StageError(
            f"{stage}: {folder} was trained on the types {', '.join(card.types):.200}, but the cascade asks for "
            f"{', '.join(types)}; set the stage's `types` to those, or train it on data of the other types"
        )
    try:
        check_saved(settings, card.settings, "settings")
    except UserError as error:
        raise StageError(f"{stage}: {path}: {error}; train the stage again") from None
    return card
