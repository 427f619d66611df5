"""The variation of a recipe's samples from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rivegs_mllm.config.bounds import Bounds, Probability
from rivegs_mllm.types import UserError


@dataclass(frozen=True)
class Augmentation:
    """Sampled again each epoch, by seed, epoch and the post's id, so that a resumed run samples the same.

    ``knowledge``: ``draw`` takes one of the post's texts at random, ``first`` always the first.
    ``name_augmentation`` is the share of posts whose entity names are replaced by made-up ones, so that a model learns
    to copy names.
    ``box_jitter`` is the standard deviation by which each edge moves, as a share of the box's width or height; it is
    truncated at two deviations, and a moved box with an IoU below ``box_jitter_iou`` is rejected: the Gaussian box
    perturbation of E2E-GMNER. 0 moves nothing.
    """

    knowledge: str = "draw"
    name_augmentation: Probability = 0.0
    box_jitter: Annotated[float, Bounds(0, 0.5)] = 0.0
    box_jitter_iou: Annotated[float, Bounds(0, below=1)] = 0.7

    def __post_init__(self) -> None:
        if self.knowledge not in ("draw", "first"):
            raise UserError(f"augment.knowledge: {self.knowledge!r} is neither 'draw' nor 'first'")
        if not 0 <= self.name_augmentation <= 1:
            raise UserError("augment: name_augmentation must lie in [0, 1]")
        if not (0 <= self.box_jitter <= 0.5 and 0 <= self.box_jitter_iou < 1):
            raise UserError("augment: box_jitter must lie in [0, 0.5] and box_jitter_iou in [0, 1)")
