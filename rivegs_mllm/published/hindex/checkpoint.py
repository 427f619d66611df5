"""Checkpoints of H-Index: those published by its authors, BART's own, and the folders that are written here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from rivegs_mllm.published.hindex.model import HIndex
from rivegs_mllm.published.hindex.sizes import Sizes
from rivegs_mllm.published.weights import load_checked, read_sizes, read_weights, save_weights, tensors
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.types import UserError

WEIGHTS = "hindex.safetensors"
SIZES = "hindex.json"
_UNUSED = ("decoder.causal_masks", "decoder.region_select.")
_SHARED = "encoder.bart_encoder.embed_tokens.weight"
_TIED = "decoder.decoder.embed_tokens.weight"
_MAPPING = "decoder.mapping"


def load_published(path: Path, sizes: Sizes | None = None, as_published: bool = False) -> HIndex:
    """The model in a checkpoint of the authors. Raises UserError where it is not of ``sizes``, by default the
    published. What is in every checkpoint and never used is left out, so that it is of any number of boxes."""
    content = read_weights(path)
    found = {name.removeprefix("seq2seq_model."): value for name, value in tensors(content).items()}
    found = {name: value for name, value in found.items() if not name.startswith(_UNUSED)}
    return _filled(found, path, sizes or Sizes(), as_published)


def _filled(found: dict[str, torch.Tensor], path: Path, sizes: Sizes, as_published: bool) -> HIndex:
    if _SHARED not in found or found.get(_MAPPING, torch.empty(0)).shape != (2 + sizes.labels,):
        raise UserError(f"{path}: holds no H-Index of {sizes.labels} labels: it has no {_SHARED} or no such {_MAPPING}")
    if not found.pop(_TIED, found[_SHARED]).equal(found[_SHARED]):
        raise UserError(f"{path}: its encoder and decoder do not have the same words, as H-Index has")
    model = HIndex(sizes, int(found[_MAPPING][2]), as_published)
    load_checked(model, found, path)
    return model.eval()


def start_from_bart(model: HIndex, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fills the model's encoder and decoder with ``weights`` of a BART, by the names of transformers; added rows, the
    regions' projection and the head stay as they are. Raises UserError, naming ``path``, where the sizes differ."""
    found = {name.removeprefix("model."): value for name, value in weights.items()}
    words, own = found.get("shared.weight", found.get("encoder.embed_tokens.weight")), model.state_dict()
    table = own[_SHARED]
    if words is None or words.shape[1] != table.shape[1] or len(words) > len(table):
        shown = "no words" if words is None else f"words of {list(words.shape)}"
        raise UserError(f"{path}: has {shown} where a BART of {list(table.shape)} is wanted, of another size")
    filled = {name: value for name, value in own.items() if not _of_bart(name)}
    for ours, theirs in (("encoder.bart_encoder.", "encoder."), ("decoder.decoder.", "decoder.")):
        names = {theirs + name.removeprefix(ours): name for name in own if name.startswith(ours) and _of_bart(name)}
        filled |= {names[name]: value for name, value in found.items() if name in names}
    filled[_SHARED] = torch.cat((words, table[len(words) :]))
    load_checked(model, filled, path)


def _of_bart(name: str) -> bool:
    return name.startswith(("encoder.bart_encoder.", "decoder.decoder.")) and "img_proj" not in name


def save(model: HIndex, folder: Path) -> None:
    """Writes what ``load`` reads: weights and sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    write_json(folder / SIZES, dataclasses.asdict(model.sizes))


def load(folder: Path, as_published: bool = False) -> HIndex:
    """The model that ``save`` wrote. Raises UserError, which names the file, for any other."""
    sizes = read_sizes(Sizes, folder / SIZES)
    return _filled(tensors(read_weights(folder / WEIGHTS)), folder / WEIGHTS, sizes, as_published)
