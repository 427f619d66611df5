"""The training of the segmenter ``segment_anything`` from nothing, at a small size, prompted with gold boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from eval.stage_metrics import segmentation_scores
from rivegs_mllm.cascade.base import without_labels
from rivegs_mllm.cascade.segmentation.base import SegmentingStage
from rivegs_mllm.cascade.segmentation.segment_anything import (
    PromptedSam,
    SamSizes,
    box_mask_prompts,
    build_sam,
    mask_side,
    save_sam,
)
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Bounds, NonNegativeInt, Side
from rivegs_mllm.data.images import open_for_model
from rivegs_mllm.data.masks import decode
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Box, Mask, Prediction, Sample, UserError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class SamTrainingModule(nn.Module):
    """A model with its loss: cross-entropy in the box and outside, dice, and the error of the quality it predicts.

    Inside and outside the box are averaged separately: over the whole picture the few covered pixels would be
    outweighed, and the model would first learn to predict nothing.
    """

    def __init__(self, model: Sam, size: SamSizes):
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, pictures: torch.Tensor, boxes: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> dict:
        """The mean loss over boxes.

        ``pictures`` (B, 3, side, side) is normalised and padded; ``boxes`` (N, 4) of each in its pixels, ``masks``
        (N, grid, grid) the share of each cell of the decoder's output that is covered.
        """
        seen = self.model.image_encoder(pictures)
        losses = [self._loss(one[None], *gold) for one, *gold in zip(seen, boxes, masks, strict=True)]
        return {"loss": torch.cat(losses).mean()}

    def _loss(self, seen: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """(N,): the loss of each box of a picture."""
        inside = box_mask_prompts(boxes, dataclasses.replace(self.size, filled=True))
        prompt = inside if self.size.filled else None
        sparse, dense = self.model.prompt_encoder(points=None, boxes=boxes, masks=prompt)
        logits, quality = self.model.mask_decoder(
            image_embeddings=seen,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits, predicted, inside = logits[:, 0], logits[:, 0].sigmoid(), inside[:, 0]
        wrong = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        wrong = masked_mean(wrong, inside) + masked_mean(wrong, 1 - inside)
        # With 1 added above and below, so that an empty mask predicted empty has no loss.
        dice = 1 - (2 * (predicted * masks).sum((1, 2)) + 1) / (predicted.sum((1, 2)) + masks.sum((1, 2)) + 1)
        with torch.no_grad():
            both, either = (logits > 0) & (masks > 0.5), (logits > 0) | (masks > 0.5)
            iou = both.sum((1, 2)) / either.sum((1, 2)).clamp(min=1)
        return wrong + dice + (quality[:, 0] - iou) ** 2


def masked_mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(N,): the mean of (N, H, W) where ``chosen`` is 1, 0 where nothing is."""
    return (values * chosen).sum((1, 2)) / chosen.sum((1, 2)).clamp(min=1)


@dataclass(frozen=True)
class SegmentationExample:
    """A picture as the model takes it, with boxes and masks as of ``SamTrainingModule.forward``."""

    picture: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor


@TrainableStage.register_subclass("segment_anything")
@dataclass
class SegmentAnythingTraining(TrainableStage):
    """How the segmenter is trained. The fields are those of ``SamSizes``. All training pictures are held in memory."""

    side: Side = 128
    patch: Side = 8
    width: Side = 64
    depth: Annotated[int, Bounds(1, 100)] = 2
    heads: Side = 2
    window: NonNegativeInt = 0
    whole: list[NonNegativeInt] = field(default_factory=lambda: [0, 1])
    channels: Side = 32
    filled: bool = True

    def prepare(self, data: StageData) -> Trainable:
        """The model, untrained, and its rows: pictures with the boxes and masks of all that they show.

        Raises UserError where no entity has a mask.
        """
        data = data.with_checked_pictures()
        size = SamSizes(**{**dataclasses.asdict(self), "whole": tuple(self.whole)})
        model = build_sam(size)
        shown = [sample for sample in data.train if any(box_mask_pairs(sample))]
        if not shown:
            raise UserError(f"{data.folder}: no entity has a mask, so there is nothing to train segmentation on")
        rows = MultiVariantDataset(
            [[make_example(sample, data.folder, model, size)] for sample in shown], "first", data.seed
        )
        stage = SegmentingStage("segment_anything", PromptedSam(model, size), data.folder, 0)
        return Trainable(
            model=SamTrainingModule(model, size),
            train=rows,
            lengths=rows.lengths(lambda row: len(row.boxes)),
            collate=collate,
            evaluate=lambda samples: segmentation_metrics(stage, samples),
            save=lambda folder: save_sam(model, size, folder),
        )


def box_mask_pairs(sample: Sample) -> list[tuple[Box, Mask]]:
    """The boxes of a post, in pixels of its picture, with their masks, of entities that have one for each; none
    without a picture."""
    if not sample.image:
        return []
    entities = [entity for entity in sample.entities if len(entity.boxes) == len(entity.masks)]
    return [pair for entity in entities for pair in zip(entity.boxes, entity.masks, strict=True)]


def make_example(sample: Sample, folder: Path, model: Sam, size: SamSizes) -> SegmentationExample:
    """A post as a row."""
    from segment_anything.utils.transforms import ResizeLongestSide

    side, grid = size.side, mask_side(size)
    resize = ResizeLongestSide(side)
    image = np.asarray(open_for_model(folder / sample.image))
    picture = torch.from_numpy(resize.apply_image(image)).permute(2, 0, 1).float()
    boxes, masks = zip(*box_mask_pairs(sample), strict=True)
    corners = np.array([[box.xmin, box.ymin, box.xmax, box.ymax] for box in boxes], dtype=np.float32)
    whole = torch.stack([torch.from_numpy(decode(mask)).float() for mask in masks])
    small = F.interpolate(whole[:, None], picture.shape[1:], mode="bilinear", antialias=True)
    padded = F.pad(small, (0, side - small.shape[3], 0, side - small.shape[2]))
    return SegmentationExample(
        model.preprocess(picture).detach(),
        torch.from_numpy(resize.apply_boxes(corners, image.shape[:2])).float(),
        F.interpolate(padded, (grid, grid), mode="area")[:, 0],
    )


def collate(rows: Sequence[SegmentationExample]) -> dict:
    """The arguments of ``SamTrainingModule.forward`` by name."""
    return {
        "pictures": torch.stack([row.picture for row in rows]),
        "boxes": [row.boxes for row in rows],
        "masks": [row.masks for row in rows],
    }


def segmentation_metrics(stage: SegmentingStage, samples: Sequence[Sample]) -> dict[str, float]:
    """Mean IoU of a segmenter that is given the gold boxes, and the share of masks with an IoU above 0.5."""
    partials = []
    for sample in samples:
        bare = [dataclasses.replace(entity, masks=()) for entity in sample.entities]
        partials.append(Prediction(sample.id, entities=tuple(bare)))
    scores = segmentation_scores(samples, stage([without_labels(sample) for sample in samples], partials))
    return {"mean_iou": scores["mean_iou"], "precision": scores["precision"]}
