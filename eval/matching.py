"""How well two regions agree, and who is paired with whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as coco

from rivegs_mllm.types import Box, Mask, UserError

Pair = tuple[int, int]
"""Index of a gold entity, index of a predicted one, within a post."""


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes in the same frame, in [0, 1]. A box without area agrees with nothing."""
    width = min(first.xmax, second.xmax) - max(first.xmin, second.xmin)
    height = min(first.ymax, second.ymax) - max(first.ymin, second.ymin)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = (first.xmax - first.xmin) * (first.ymax - first.ymin)
    area += (second.xmax - second.xmin) * (second.ymax - second.ymin)
    return shared / (area - shared)


def best_box_iou(box: Box, others: Iterable[Box]) -> float:
    """The highest IoU of ``box`` with one of ``others``, 0 without any."""
    return max((box_iou(box, other) for other in others), default=0.0)


def best_mask_iou(mask: Mask, others: Sequence[Mask]) -> float:
    """The highest pixel IoU of ``mask`` with one of ``others``, 0 without any; on the runs, never on pixels.

    All are of one size and have passed `check_mask`: pycocotools does not return from runs that do not add up.
    """
    if not others:
        return 0.0
    return float(coco.iou([_coco(mask)], [_coco(other) for other in others], [0] * len(others)).max())


def check_mask(mask: Mask, size: tuple[int, int], where: str) -> int:
    """The area of ``mask`` in pixels. Raises UserError unless it has ``size`` (height, width) and its runs fill it."""
    if mask.size != size:
        raise UserError(f"{where}: mask of height x width {mask.size}, but the picture has {size}")
    runs = _runs(mask.counts)
    if runs is None or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise UserError(f"{where}: the mask's counts are no COCO run-length code of {size[0]} x {size[1]} pixels")
    return int(runs[1::2].sum())


def maximum_matching(edges: Sequence[Pair]) -> list[Pair]:
    """As many of ``edges`` as can be taken without taking an index twice on either side."""
    taken = first_come(edges)
    golds = {gold for gold, _ in edges}
    predicted = {index for _, index in edges}
    if len(taken) == min(len(golds), len(predicted)):
        return taken
    from scipy.optimize import linear_sum_assignment  # a fifth of a second that few files need

    allowed = np.zeros((max(golds) + 1, max(predicted) + 1))
    allowed[tuple(zip(*edges, strict=True))] = 1
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def first_come(edges: Iterable[Pair]) -> list[Pair]:
    """Each of ``edges`` in its order, unless one of its indices has been taken before on its side."""
    taken: list[Pair] = []
    golds: set[int] = set()
    predicted: set[int] = set()
    for gold, index in edges:
        if gold not in golds and index not in predicted:
            golds.add(gold)
            predicted.add(index)
            taken.append((gold, index))
    return taken


def _coco(mask: Mask) -> dict:
    return {"size": mask.size, "counts": mask.counts}


def _runs(counts: str) -> np.ndarray | None:
    """The run lengths that the compressed string holds, background first; None where it is no such string.

    COCO's code: six bits a character from "0" on, five of value and one that says that the number goes on,
    low part first, signed; from the fourth number on, what is written is the difference to the last but one.
    """
    if not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    goes_on = (codes & 0x20) != 0
    if codes.min() < 0 or codes.max() >= 64 or goes_on[-1]:
        return None
    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    runs -= ((codes[ends] & 0x10) != 0).astype(np.int64) << (5 * lengths)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
