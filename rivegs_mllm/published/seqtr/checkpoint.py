"""Checkpoints of SeqTR: those published by its authors, and the folders that are written here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from rivegs_mllm.published.seqtr.darknet import FROZEN
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK, Sizes
from rivegs_mllm.published.weights import load_checked, read_sizes, read_weights, save_weights, tensors
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import UserError

WEIGHTS = "model.safetensors"
SIZES = "sizes.json"
VOCABULARY = "vocabulary.json"
_POSITIONS = "head.transformer.seq_positional_encoding.embedding.weight"
_TASKS = "head.task_embedding.weight"
_WORDS = "lan_enc.embedding.weight"


def load_published(path: Path, frozen: int = FROZEN, as_published: bool = False) -> SeqTR:
    """The model in a checkpoint of the authors: a .pth with its averaged weights, or without.

    Task, points and vocabulary follow from the shapes. Raises UserError where it is of other sizes than the published.
    """
    weights = _published(read_weights(path), path)
    model = SeqTR(_sizes_of(weights, path), frozen, as_published)
    load_checked(model, weights, path)
    return model.eval()


def _published(content: Mapping[str, object], path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, the averaged ones where there are any, without the prefix of a parallel model."""
    for key in ("ema_state_dict", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    found = {name.removeprefix("module."): value for name, value in tensors(content).items()}
    if _POSITIONS not in found or _WORDS not in found:
        raise UserError(f"{path}: holds no SeqTR: it has no {_POSITIONS} or {_WORDS}")
    return found


def _sizes_of(weights: Mapping[str, torch.Tensor], path: Path) -> Sizes:
    """The sizes that the shapes of weights tell: a sequence is four edges and an end, two numbers a point and an end,
    or both."""
    places, words = len(weights[_POSITIONS]), weights[_WORDS]
    if _TASKS in weights:
        return Sizes(len(words), BOTH, _points(places - 6, path))
    if places == 5:  # or an outline of two points, which is none
        return Sizes(len(words), BOX)
    return Sizes(len(words), MASK, _points(places - 1, path))


def _points(numbers: int, path: Path) -> int:
    if numbers <= 0 or numbers % 2:
        raise UserError(f"{path}: its sequence of {numbers} numbers is no outline of points")
    return numbers // 2


def save(model: SeqTR, vocabulary: Mapping[str, int], folder: Path) -> None:
    """Writes what ``load`` reads: weights, sizes, and the words by number."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS)
    write_json(folder / SIZES, dataclasses.asdict(model.sizes))
    write_json(folder / VOCABULARY, dict(vocabulary))


def load(folder: Path, as_published: bool = False) -> tuple[SeqTR, dict[str, int]]:
    """The model that ``save`` wrote, and its vocabulary. Raises UserError, which names the file, for any other."""
    sizes = read_sizes(Sizes, folder / SIZES)
    model = SeqTR(sizes, as_published=as_published)
    load_checked(model, tensors(read_weights(folder / WEIGHTS)), folder / WEIGHTS)
    return model.eval(), read_vocabulary(folder / VOCABULARY, sizes.words)


def read_vocabulary(path: Path, length: int) -> dict[str, int]:
    """The numbers of words. Raises UserError unless they are of a table of ``length`` word vectors."""
    words = read_object(path, "a checkpoint needs the words that it was trained with, by number")
    numbers = set(words.values()) if all(type(number) is int for number in words.values()) else set()
    if numbers != set(range(length)):
        raise UserError(f"{path}: its numbers are not 0..{length - 1}, as the checkpoint has word vectors")
    return words
