"""The folders of models that a recipe names: of its base, and where its training leaves the adapter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rivegs_mllm.config.reading.layers import OVERRIDE, Layered, folder_for, read_layers, word
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.types import UserError

FILE_NAME = "recipe.yaml"
"""The recipe that a model was trained by, in its folder."""


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_hub_id(name: str) -> None:
    """Raises UserError for what is no folder here and no name of a model on the hub; in a folder that is here, it is
    taken for the path of one."""
    if not _HUB_ID.fullmatch(name) or is_there(Path(name).parent):
        raise UserError(
            f"{name}: no such folder or recipe; name a trained model's folder (rivegs train, or make demo, makes one), "
            "a recipe, or a hub id"
        )


def check_base(base: str) -> None:
    """Raises UserError for a base that is written as a folder and is none."""
    if base.startswith((".", "/", "~")) and not is_there(Path(base)):
        raise UserError(f"model.base: {base} is no folder")


def trained_folder(path: Path | str, overrides: Sequence[str] = (), data: Path | None = None) -> Path:
    """Where a recipe's training leaves the adapter: that of a run on the dataset in ``data``, if there is one, and else
    on the recipe's own. Raises UserError where the recipe does not train."""
    return folder_of(read_layers(path, overrides), data)


def folder_of(layered: Layered, data: Path | None = None) -> Path:
    """As ``trained_folder``, of a recipe that has been read."""
    train = layered.sections.get("train")
    folder = word(train, "output_dir") if isinstance(train, dict) else None
    if not folder:
        raise UserError(f"{layered.name}: train.output_dir: missing, so name the trained folder: --adapter FOLDER")
    if data is not None and train["output_dir"].source != OVERRIDE:
        of_data = folder_for(layered.path.stem, data)
        if (of_data / FILE_NAME).is_file():
            return of_data
    return Path(folder)
