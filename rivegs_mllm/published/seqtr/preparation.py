"""Expressions, pictures and masks as the model takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.seqtr.contours import area, largest_outline
from rivegs_mllm.published.seqtr.decoding import resize_mask
from rivegs_mllm.published.seqtr.model import PAD, UNKNOWN
from rivegs_mllm.published.seqtr.resizing import resize
from rivegs_mllm.published.seqtr.tokens import MISSING

MAX_WORDS = 15
"""Of an expression, as trained on RefCOCO, RefCOCO+ and RefCOCOg."""

SIDE = 640  # as published, in pixels
STRIDE = 32  # of DarkNet's last map
SPECIAL = ("PAD", "UNK", "CLS")
_DELETED = re.compile(r"[.,'!?\"()*#:;]")


def clean(expression: str) -> list[str]:
    """The words of an expression, in small letters, without punctuation."""
    return _DELETED.sub("", expression.lower()).replace("-", " ").replace("/", " ").split()


def vocabulary(expressions: Iterable[str]) -> dict[str, int]:
    """The numbers of the words of expressions, in the order in which they first occur, after SPECIAL."""
    words = dict.fromkeys([*SPECIAL, *(word for expression in expressions for word in clean(expression))])
    return {word: number for number, word in enumerate(words)}


def word_ids(expression: str, known: dict[str, int], max_words: int = MAX_WORDS) -> tuple[list[int], int]:
    """The numbers of an expression's first ``max_words`` words, padded to that length; and how many were cut.

    An expression without any word is a single unknown one, since the model takes a maximum over words.
    """
    words = [known.get(word, UNKNOWN) for word in clean(expression)] or [UNKNOWN]
    return [*words[:max_words], *[PAD] * (max_words - len(words))], max(0, len(words) - max_words)


@dataclass(frozen=True)
class PreparedImage:
    """A picture as the model takes it, ``pixels`` (channels, height, width), which is zero to the right of and below
    ``shape`` (height, width).

    Coordinates are those of the original picture times ``factors`` (x, y), and are quantised in ``frame`` (height,
    width), the size with the padding.
    """

    pixels: torch.Tensor
    shape: tuple[int, int]
    factors: tuple[float, float]
    frame: tuple[int, int]


def prepare_image(image: np.ndarray, side: int = SIDE) -> PreparedImage:
    """A picture (height, width, 3), uint8 RGB, resized to lie within a square, and padded to a multiple of STRIDE."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    # Rounded up at halves, as mmcv does; round() goes to the even number.
    shape = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    pixels = torch.from_numpy(resize(image, shape)).permute(2, 0, 1).float()
    missing = [-own % STRIDE for own in shape]
    padded = F.pad(pixels, (0, missing[1], 0, missing[0]))
    return PreparedImage(padded, shape, (shape[1] / width, shape[0] / height), tuple(padded.shape[1:]))


def batch_images(pictures: Sequence[PreparedImage]) -> dict[str, torch.Tensor]:
    """``pictures`` (B, channels, H, W) padded to the largest, and their ``shapes`` (B, 2)."""
    sides = [max(one.pixels.shape[axis] for one in pictures) for axis in (1, 2)]
    pixels = [
        F.pad(own, (0, sides[1] - own.shape[2], 0, sides[0] - own.shape[1])) for own in (one.pixels for one in pictures)
    ]
    return {"pictures": torch.stack(pixels), "shapes": torch.tensor([one.shape for one in pictures])}


def outline_of(mask: np.ndarray, points: int, shape: tuple[int, int] | None = None) -> list[float]:
    """x and y by turns, (2 points), of points at even steps along the largest outline of a bool mask, the rest MISSING.

    The mask is brought to ``shape`` (height, width) first, where one is given. An outline without area has no point.
    """
    mask = mask if shape is None else resize_mask(mask, shape)
    found = largest_outline(mask)
    if len(found) == 0 or area(found) == 0:
        return [MISSING] * (2 * points)
    chosen = found[:: math.ceil(len(found) / points)]  # up, so that there are at most `points`
    return [*chosen.flatten().astype(float).tolist(), *[MISSING] * (2 * (points - len(chosen)))]
