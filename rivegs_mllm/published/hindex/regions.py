"""Regions of pictures: the ``npz`` files that VinVL's and Faster R-CNN's features are published in.

A file holds ``bounding_boxes`` (n, 4), xyxy in pixels of the picture, and ``box_features`` (n, width), best first.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rivegs_mllm.runtime.files import complete_file
from rivegs_mllm.types import UserError

MAX_REGIONS = 18
"""How many regions the published models see of a picture."""

MIN_IOU = 0.5
"""Above which a region counts as an entity's, as in Prec@0.5."""

# Against damaged files; VinVL's features are 2048 wide.
_REGION_LIMIT = 10_000
_WIDTH_LIMIT = 100_000


@dataclass(frozen=True)
class Regions:
    """``boxes`` (n, 4), xyxy in pixels, and ``features`` (n, width), both float32."""

    boxes: np.ndarray
    features: np.ndarray


def read_regions(path: Path) -> Regions:
    """The regions in a file. Raises UserError, which names it, where it holds none such; no code in it is run."""
    try:
        with np.load(path, allow_pickle=False) as content:
            boxes, features = content["bounding_boxes"], content["box_features"]
    except KeyError as error:
        raise UserError(f"{path}: has no {error.args[0]}; regions are bounding_boxes and box_features") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as regions: {' '.join(str(error).split())}") from None
    fault = _fault(boxes, features)
    if fault:
        raise UserError(f"{path}: {fault}")
    return Regions(boxes.astype(np.float32), features.astype(np.float32))


def _fault(boxes: np.ndarray, features: np.ndarray) -> str:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or features.ndim != 2 or len(boxes) != len(features):
        return f"{list(boxes.shape)} boxes and {list(features.shape)} features are not (n, 4) and (n, width)"
    if len(boxes) > _REGION_LIMIT or features.shape[1] > _WIDTH_LIMIT:
        return f"{list(features.shape)} features are more than any picture has"
    if boxes.dtype.kind not in "fiu" or features.dtype.kind not in "fiu":
        return f"boxes of {boxes.dtype} and features of {features.dtype} are no numbers"
    if not (np.isfinite(boxes).all() and np.isfinite(features).all()):
        return "a box or a feature is not finite"
    return ""


def write_regions(path: Path, regions: Regions) -> None:
    """Writes a file that ``read_regions`` reads."""
    with complete_file(path) as file:
        np.savez_compressed(file, bounding_boxes=regions.boxes, box_features=regions.features)


def pad_regions(regions: Regions | None, max_regions: int, width: int, normalise: bool = True) -> Regions:
    """The first ``max_regions`` regions of a picture, zeros where it has fewer, or none at all.

    ``normalise`` divides by the length of the whole matrix, all regions' features as one vector, before any are left
    out.
    """
    boxes, features = np.zeros((max_regions, 4), np.float32), np.zeros((max_regions, width), np.float32)
    if regions is not None:
        length = np.sqrt(np.square(regions.features).sum()) if normalise else 1.0
        kept = regions.features[:max_regions] / (length or 1.0)
        boxes[: len(kept)], features[: len(kept)] = regions.boxes[:max_regions], kept
    return Regions(boxes, features)


def overlaps(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """(n,): the IoU of boxes (n, 4) with one."""
    one = np.asarray(box, dtype=np.float32)
    lower, upper = np.maximum(boxes[:, :2], one[:2]), np.minimum(boxes[:, 2:], one[2:])
    both = (upper - lower).clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (one[2:] - one[:2]).prod()
    return both / np.maximum(areas - both, 1e-9)  # two boxes without area: 0


def overlap_shares(boxes: np.ndarray, gold: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The share of each of boxes (n, 4) in an entity, given its gold boxes: () where no IoU is above MIN_IOU.

    For each gold box the IoUs above MIN_IOU, divided by their sum; of several gold boxes the greatest share.
    """
    rows = []
    for own in gold:
        found = overlaps(boxes, own)
        right = np.where(found > MIN_IOU, found, 0)
        rows += [right / right.sum()] if right.any() else []
    return tuple(np.max(rows, axis=0).tolist()) if rows else ()
