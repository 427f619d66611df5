"""The agreement of two regions, and the pairing of gold and predicted entities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as coco

from rivegs_mllm.types import Box, Mask

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
    either = area - shared
    return shared / either if either > 0 else 0.0  # of sides so small that their product is 0


def best_box_iou(box: Box, others: Iterable[Box]) -> float:
    """The highest IoU of ``box`` with one of ``others``, all in the same frame, 0 without any."""
    return max((box_iou(box, other) for other in others), default=0.0)


def best_mask_iou(mask: Mask, others: Sequence[Mask]) -> float:
    """The highest pixel IoU of ``mask`` with one of ``others``, 0 without any; on the runs, never on pixels.

    All are of one size and have passed `check_mask`: pycocotools does not return from runs that do not add up.
    """
    if not others:
        return 0.0
    return float(coco.iou([_coco(mask)], [_coco(other) for other in others], [0] * len(others)).max())


def maximum_matching(allowed_pairs: Sequence[Pair]) -> list[Pair]:
    """As many of ``allowed_pairs`` as can be taken without taking an index twice on either side."""
    taken = greedy_matching(allowed_pairs)
    golds = {gold for gold, _ in allowed_pairs}
    predicted = {index for _, index in allowed_pairs}
    if len(taken) == min(len(golds), len(predicted)):
        return taken
    from scipy.optimize import linear_sum_assignment  # its import takes a fifth of a second, and few files need it

    allowed = np.zeros((max(golds) + 1, max(predicted) + 1))
    allowed[tuple(zip(*allowed_pairs, strict=True))] = 1
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]


def greedy_matching(allowed_pairs: Iterable[Pair]) -> list[Pair]:
    """Each of ``allowed_pairs`` in its order, unless one of its indices has been taken before on its side."""
    taken: list[Pair] = []
    golds: set[int] = set()
    predicted: set[int] = set()
    for gold, index in allowed_pairs:
        if gold not in golds and index not in predicted:
            golds.add(gold)
            predicted.add(index)
            taken.append((gold, index))
    return taken


def _coco(mask: Mask) -> dict:
    return {"size": mask.size, "counts": mask.counts}
