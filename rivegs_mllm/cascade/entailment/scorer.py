"""Models that score whether a picture shows what a text describes: the interface of the entailment classifier."""

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

from rivegs_mllm.models.plain_text import truncate_words

Encoded = TypeVar("Encoded")
Batch = dict[str, object]
"""Arguments of a scorer's model by name: tensors, or dicts of tensors."""

MAX_ASPECT_RATIO = 20  # well below the 200 at which Qwen-VL's processor refuses a picture


class VisibilityScorer(Protocol[Encoded]):
    """A model with its processor. Pairs are of a text and one of several pictures, ``image_index`` says which of them.

    ``model(**batch)`` gives a dict (or a transformers output) with ``loss`` for a batch of ``training_batch``. A text
    is truncated to ``max_tokens`` of ``tokenizer``, special ones included. ``cacheable``: the encoded pictures do not
    change in training, so that each training picture is encoded once.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    cacheable: bool

    def encode_images(self, images: Sequence[Image.Image]) -> list[Encoded]:
        """Upright pictures encoded as far as that does not depend on the text."""

    def training_batch(
        self,
        encoded: Sequence[Encoded],
        image_index: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        negative_mask: Sequence[Sequence[bool]],
    ) -> Batch:
        """A batch to train on. ``negative_mask[text][picture]``: the picture's post does not name the text's entity."""

    def logits(self, encoded: Sequence[Encoded], image_index: Sequence[int], texts: Sequence[str]) -> torch.Tensor:
        """(texts,): the logit of yes against no for each pair, in float32 on the CPU."""

    def save(self, folder: Path) -> None:
        """Writes what ``ScorerRecipe.load`` loads."""


class ScorerRecipe(draccus.PluginRegistry, abc.ABC, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a classifier's model, chosen by ``type:``."""

    @abc.abstractmethod
    def build(self) -> VisibilityScorer:
        """The model before it is trained. Raises UserError where it is not there or does not fit."""

    @abc.abstractmethod
    def load(self, folder: Path) -> VisibilityScorer:
        """What ``VisibilityScorer.save`` wrote, on the GPU where there is one. Raises StageError for a folder that is
        damaged."""


def with_bce_loss(logits: torch.Tensor, labels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """``logits`` (pairs,) and, with ``labels`` (pairs,) of 0 and 1, their mean cross-entropy as ``loss``."""
    if labels is None:
        return {"logits": logits}
    return {"logits": logits, "loss": F.binary_cross_entropy_with_logits(logits.float(), labels)}


def truncate_texts(scorer: VisibilityScorer, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts, each truncated at a word to ``max_tokens``; and a note on each that was."""
    short = [truncate_words(scorer.tokenizer, text, scorer.max_tokens) for text in texts]
    notes = [
        f"{text!r} is longer than {scorer.max_tokens} tokens and was cut to {kept!r}"
        for text, kept in zip(texts, short, strict=True)
        if kept != text
    ]
    return short, notes


def pad_narrow(image: Image.Image) -> Image.Image:
    """The picture, grey bars beside it where one side is over MAX_ASPECT_RATIO times the other: processors of ViLT and
    Qwen-VL fail there."""
    width, height = image.size
    least = -(-max(width, height) // MAX_ASPECT_RATIO)
    if min(width, height) >= least:
        return image
    return ImageOps.pad(image, (max(width, least), max(height, least)), color="gray")
