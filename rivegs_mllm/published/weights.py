"""Weights as others published them: read without running code, and checked by name and shape."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rivegs_mllm.config.check import build
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import UserError

_SHOWN = 3

Sizes = TypeVar("Sizes")


def read_weights(path: Path) -> dict[str, object]:
    """The content of a checkpoint: a .safetensors file, a folder of them, or a file of torch, whose code is not run.

    Raises UserError, which names the file, where it cannot be read so.
    """
    try:
        if path.is_dir():
            return _from_folder(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(f"{path}: cannot be loaded as a checkpoint: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, no checkpoint")
    return content


def _from_folder(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: holds no .safetensors file; convert the checkpoint, or name its file")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights.update(load_file(file))
    return weights


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes all weights of a model as safetensors, which takes contiguous tensors only."""
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def read_sizes(kind: type[Sizes], path: Path) -> Sizes:
    """The dataclass of a model's sizes in a JSON file. Raises UserError that names file and key."""
    cure = "write the folder again, or copy all of it"
    try:
        return build(kind, read_object(path, cure))
    except UserError as error:
        message = str(error)
        raise UserError(message if str(path) in message else f"{path}: {message}; {cure}") from None


def tensors(content: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name."""
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def load_checked(model: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Loads ``weights`` into the model. Raises UserError, which names ``path`` and the first tensors, where any is
    missing, unknown, or of another shape."""
    wanted = model.state_dict()
    shapes = {
        name: (tuple(value.shape), tuple(weights[name].shape)) for name, value in wanted.items() if name in weights
    }
    faults = [
        *_listed("lacks", [name for name in wanted if name not in weights]),
        *_listed("has the unknown", [name for name in weights if name not in wanted]),
        *_listed(
            "is of another size:",
            [
                f"{name} is {list(found)} where {list(wanted)} is wanted"
                for name, (wanted, found) in shapes.items()
                if wanted != found
            ],
        ),
    ]
    if faults:
        raise UserError(f"{path}: {'; '.join(faults)}; choose the size that the checkpoint is of")
    model.load_state_dict(dict(weights))


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what} {', '.join(names[:_SHOWN])}{more}"] if names else []
