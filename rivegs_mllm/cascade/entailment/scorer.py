"""What judges whether a picture shows what a text says: the contract of the classifier's models."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import draccus
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerBase

from rivegs_mllm.models.plain_text import shorten

Look = TypeVar("Look")
Batch = dict[str, object]
"""Arguments of a judge's model by name: tensors, or dicts of tensors."""

NARROWEST = 20


class Judge(Protocol[Look]):
    """A model with its processor. Pairs are of a text and one of several pictures, ``owner`` says which of them.

    ``model(**batch)`` gives a dict (or a transformers output) with ``loss`` on what ``learn`` made. ``room`` is how
    many tokens of ``tokenizer``, special ones included, are read of a text. ``looks_once``: looks do not change in
    training, so that those at the training pictures can be kept.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    room: int
    looks_once: bool

    def look(self, images: Sequence[Image.Image]) -> list[Look]:
        """What is kept of upright pictures until they are paired."""

    def learn(
        self,
        looks: Sequence[Look],
        owner: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        rivals: Sequence[Sequence[bool]],
    ) -> Batch:
        """A batch to train on; ``rivals[text][picture]``: the picture's post does not speak of the text's entity."""

    def logits(self, looks: Sequence[Look], owner: Sequence[int], texts: Sequence[str]) -> torch.Tensor:
        """(texts,): the logit of yes against no for each pair, in float32 on the CPU."""

    def save(self, folder: Path) -> None:
        """Writes what ``JudgeRecipe.load`` loads."""


class JudgeRecipe(draccus.PluginRegistry, abc.ABC, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a classifier's model, chosen by ``type:``."""

    @abc.abstractmethod
    def build(self) -> Judge:
        """The model as it is before it is trained to judge. Raises UserError where it is not there or does not fit."""

    @abc.abstractmethod
    def load(self, folder: Path) -> Judge:
        """What ``Judge.save`` wrote, on the GPU where there is one. Raises StageError for a folder that is damaged."""


def outcome(logits: torch.Tensor, labels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """``logits`` (pairs,) and, with ``labels`` (pairs,) of 0 and 1, their mean cross-entropy as ``loss``."""
    if labels is None:
        return {"logits": logits}
    return {"logits": logits, "loss": F.binary_cross_entropy_with_logits(logits.float(), labels)}


def fitting(judge: Judge, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts, those that the judge has no room for cut behind a word; and, in words, which were."""
    short = [shorten(judge.tokenizer, text, judge.room) for text in texts]
    notes = [
        f"{text!r} is longer than {judge.room} tokens and was cut to {kept!r}"
        for text, kept in zip(texts, short, strict=True)
        if kept != text
    ]
    return short, notes


def not_too_narrow(image: Image.Image) -> Image.Image:
    """The picture, grey bars beside it where one side is over NARROWEST times the other: processors of ViLT and
    Qwen-VL fail there."""
    width, height = image.size
    least = -(-max(width, height) // NARROWEST)
    if min(width, height) >= least:
        return image
    return ImageOps.pad(image, (max(width, least), max(height, least)), color="gray")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device
