"""The folders of models: of a recipe's base, where its training leaves the adapter, and of a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rivegs_mllm.config.reading.layers import OVERRIDE, Layered, folder_for, read_layers, word
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

FILE_NAME = "recipe.yaml"
"""The recipe that a model was trained by, in its folder."""


_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")

# No pickled weights: they run code when they are loaded, and would be fetched beside the same in safetensors.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.yaml", "*.jinja", "*.model"]


def is_hub_id(name: Path | str) -> bool:
    """Whether this names a model on the hub, as ``org/name`` or ``org/name@revision``. What is here is no hub id, and
    what would lie in a folder that is here is the path of something missing."""
    found = _HUB_ID.fullmatch(str(name))
    return found is not None and not is_there(Path(name)) and not is_there(Path(found[1]).parent)


def check_hub_id(name: Path | str) -> None:
    """Raises UserError for what is no folder here and no name of a model on the hub."""
    if not is_hub_id(name):
        raise UserError(
            f"{name}: no such folder or recipe; name a trained model's folder (rivegs train, or make demo, makes one), "
            "a recipe, or a hub id (org/name, or org/name@revision)"
        )


def local_folder(trained: Path | str) -> Path:
    """The folder of a trained model: itself where it is here, a copy of what has this hub id otherwise. Raises
    UserError for what is neither."""
    if is_there(Path(trained)):
        return Path(trained)
    check_hub_id(trained)
    from huggingface_hub import snapshot_download  # here, since it must come after transformers

    name, revision = _HUB_ID.fullmatch(str(trained)).groups()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub's many, and those of the connection
        raise UserError(
            f"{trained}: no such folder, and no model of the hub that can be fetched: {one_line(error)}"
        ) from error


def check_base(base: str) -> None:
    """Raises UserError for a base that is written as a folder and is none."""
    if base.startswith((".", "/", "~")) and not is_there(Path(base)):
        raise UserError(f"model.base: {base} is no folder")


def trained_folder(path: Path | str, overrides: Sequence[str] = (), data: Path | None = None) -> Path:
    """Where a recipe's training leaves the adapter: that of a run on the dataset in ``data``, if there is one, and else
    on the recipe's own. Raises UserError where the recipe does not train."""
    return folder_of(read_layers(path, overrides), data)


def check_is_adapter(folder: Path) -> None:
    """Raises UserError where a trained model's folder holds no adapter."""
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds no adapter (adapter_config.json); a merged model is used as it is")


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
