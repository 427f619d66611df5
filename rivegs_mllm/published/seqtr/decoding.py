"""Greedy decoding, and the masks that outlines enclose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco

from rivegs_mllm.published.seqtr.model import Memory, SeqTR
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK, Sizes


@dataclass(frozen=True)
class Generated:
    """Tokens of boxes (B, 4) and outlines (B, 2 points + 1), each empty where it is not the model's task, and the
    scores of every step (B, steps, bins + 1)."""

    boxes: torch.Tensor
    outlines: torch.Tensor
    scores: torch.Tensor


@torch.inference_mode()
def generate(model: SeqTR, memory: Memory) -> Generated:
    """The likeliest tokens, step by step. A box cannot end early, nor an outline after one before its third point."""
    sizes = model.sizes
    tokens = torch.empty(len(memory.values), 0, dtype=torch.long, device=memory.values.device)
    scores = []
    for step in range(sizes.places - (sizes.task != MASK)):
        now = model.score(tokens, memory)[:, -1]
        scores.append(now)
        open_ended = sizes.end + (step >= _min_steps(sizes))  # the end is the last score, left out while not allowed
        tokens = torch.cat((tokens, now[:, :open_ended].argmax(-1, keepdim=True)), 1)
    edges = 4 * (sizes.task != MASK)
    return Generated(tokens[:, :edges], tokens[:, edges:], torch.stack(scores, 1))


def _min_steps(sizes: Sizes) -> int:
    """How many steps, from the first, cannot be the end."""
    return {BOX: 4, BOTH: 8}.get(sizes.task, 0)


def outline_tokens(tokens: Sequence[int], end: int) -> list[int]:
    """The points' tokens up to the first end, x and y by turns."""
    found = list(tokens)
    found = found[: found.index(end)] if end in found else found
    return found[: len(found) // 2 * 2]


def fill_outline(points: Sequence[float], size: tuple[int, int], as_published: bool = False) -> np.ndarray:
    """The bool mask of ``size`` = (height, width) that an outline, x and y by turns, encloses.

    Fewer than three points enclose nothing. ``as_published``: two points are a box's x, y, width and height.
    """
    if len(points) < (4 if as_published else 6):
        return np.zeros(size, dtype=bool)
    # pycocotools takes an array of four numbers for a box, and a list of more for a polygon.
    given = np.array([points], dtype=np.float64) if len(points) == 4 else [list(map(float, points))]
    return coco.decode(coco.merge(coco.frPyObjects(given, *size))).astype(bool)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (height, width) brought to another size, each pixel that of the nearest at its upper left, as OpenCV's
    nearest neighbour is."""
    rows = np.minimum((np.arange(size[0]) * (mask.shape[0] / size[0])).astype(int), mask.shape[0] - 1)
    columns = np.minimum((np.arange(size[1]) * (mask.shape[1] / size[1])).astype(int), mask.shape[1] - 1)
    return mask[rows][:, columns]
