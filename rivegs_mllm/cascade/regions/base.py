"""Proposers of regions: boxes of whatever a picture may show, best first, each with features.

Their files are those in which VinVL's and Faster R-CNN's regions are published: ``<picture's file name>.npz``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import draccus
import numpy as np
import torch
import torchvision  # noqa: F401  whose operator is used below
from PIL import Image

from rivegs_mllm.config.bounds import Bounds, PositiveInt, check_bounds
from rivegs_mllm.published.hindex.regions import Regions
from rivegs_mllm.types import Box, UserError

Propose = Callable[[Image.Image], "Proposals"]
"""From an upright picture to what is proposed in it, in its pixels."""


class Proposer(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade.regions"):
    """The settings of a proposer, chosen by ``type:``: ``load()`` gives a ``Propose``."""


@dataclass(frozen=True)
class Proposals:
    """``boxes`` (n, 4), xyxy in pixels, their ``scores`` (n,) and ``features`` (n, width), in any order."""

    boxes: torch.Tensor
    scores: torch.Tensor
    features: torch.Tensor


@dataclass
class ProposalRecipe:
    """``max_regions`` regions of a picture are kept, none of which overlaps a better one by more than ``overlap``
    (IoU)."""

    proposer: Proposer
    max_regions: PositiveInt = 100
    overlap: Annotated[float, Bounds(0, 1)] = 0.7

    def __post_init__(self) -> None:
        check_bounds(self)


def select_regions(found: Proposals, size: tuple[int, int], max_regions: int, overlap: float) -> Regions:
    """The best regions, clipped to a picture of ``size`` = (width, height), best first; none thinner than a pixel."""
    limits = torch.tensor(size * 2, dtype=torch.float32)
    boxes = found.boxes.float().clamp(min=torch.zeros(4), max=limits)
    real = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1).nonzero()[:, 0]
    kept = real[torch.ops.torchvision.nms(boxes[real], found.scores[real].float(), overlap)][:max_regions]
    return Regions(boxes[kept].numpy(), found.features[kept].float().numpy())


def split_signs(features: torch.Tensor) -> torch.Tensor:
    """(n, 2 width), the positive and the negative parts of features (n, width): published features are never negative,
    and H-Index takes a region of zeros for a missing one."""
    return torch.cat((features.clamp(min=0), (-features).clamp(min=0)), 1)


def file_names(images: Mapping[str, Path]) -> dict[str, str]:
    """The name of the file of each picture's regions. Raises UserError where two pictures would have the same."""
    names: dict[str, str] = {}
    for image in images:
        name = f"{PurePosixPath(image).name}.npz"
        if other := next((own for own, known in names.items() if known == name), None):
            raise UserError(
                f"{image} and {other}: two pictures of one file name, so that their regions would be one file"
            )
        names[image] = name
    return names


def boxes_of(regions: Regions) -> list[Box]:
    """The boxes in pixels of the picture, best first."""
    return [Box(*edges) for edges in np.asarray(regions.boxes, dtype=float).tolist()]
