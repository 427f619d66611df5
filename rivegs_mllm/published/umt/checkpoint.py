"""Checkpoints of UMT: those published by its authors, and the folders that are written here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rivegs_mllm.published.umt.model import UMT
from rivegs_mllm.published.umt.sizes import Sizes
from rivegs_mllm.published.weights import load_checked, read_sizes, read_weights, save_weights, tensors
from rivegs_mllm.runtime.files import write_json

WEIGHTS = "umt.safetensors"
SIZES = "umt.json"


def load_published(path: Path, sizes: Sizes | None = None) -> UMT:
    """The model in a ``pytorch_model.bin`` of the authors. Raises UserError where it is not of ``sizes``, by default
    the published."""
    model = UMT(sizes or Sizes())
    # DataParallel's prefix, which a model that was trained on several GPUs is saved with.
    weights = {name.removeprefix("module."): value for name, value in tensors(read_weights(path)).items()}
    load_checked(model, weights, path)
    return model.eval()


def save(model: UMT, folder: Path) -> None:
    """Writes what ``load`` reads: weights and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    write_json(folder / SIZES, dataclasses.asdict(model.sizes))


def load(folder: Path) -> UMT:
    """The model that ``save`` wrote. Raises UserError, which names the file, for any other."""
    model = UMT(read_sizes(Sizes, folder / SIZES))
    load_checked(model, tensors(read_weights(folder / WEIGHTS)), folder / WEIGHTS)
    return model.eval()
