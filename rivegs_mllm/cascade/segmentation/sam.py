"""The segmenter ``sam``: the Segment Anything models of transformers, prompted with boxes.

SAM (arXiv 2304.02643), SAM-HQ, SAM 2 (arXiv 2408.00714), and SAM 3's tracker, which takes boxes as SAM 2 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoModelForMaskGeneration,
    PreTrainedModel,
    ProcessorMixin,
    Sam2Processor,
    Sam3TrackerProcessor,
    SamHQProcessor,
    SamProcessor,
)

from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.cascade.segmentation.base import Segmenter, SegmentingStage
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.models.pretrained import load_pretrained, own_files
from rivegs_mllm.types import Box

FAMILIES = {
    "sam": SamProcessor,
    "sam_hq": SamHQProcessor,
    "sam2": Sam2Processor,
    "sam2_video": Sam2Processor,
    "sam3_tracker": Sam3TrackerProcessor,
    "sam3_video": Sam3TrackerProcessor,
}
"""The processor of each ``model_type``; checkpoints of video models hold the model of pictures."""


@Segmenter.register_subclass("sam")
@dataclass
class SamSegmenter(Segmenter):
    """``model`` is a hub id or a folder."""

    model: str
    revision: str | None = None
    SEES_GOLD: ClassVar[bool] = False

    def files(self) -> Sequence[Path]:
        """The model's, where it is a folder."""
        return own_files(self.model)

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises UserError for a model that is none of FAMILIES."""
        model, processor = load_pretrained(
            AutoModelForMaskGeneration, self.model, self.revision, FAMILIES, "segmenter (sam)"
        )
        model.to(best_device())
        num_parameters = count_parameters(model)
        return SegmentingStage("sam", PromptedSam(model, processor), folder, num_parameters)


@dataclass(frozen=True)
class PromptedSam:
    """A model that segments what boxes hold: a ``Segment`` of ``rivegs_mllm.cascade.segmentation.base``."""

    model: PreTrainedModel
    processor: ProcessorMixin

    @torch.inference_mode()
    def __call__(self, image: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        """The likeliest mask of each box; the picture is embedded once."""
        corners = [[box.xmin, box.ymin, box.xmax, box.ymax] for box in boxes]
        inputs = self.processor(images=image, input_boxes=[corners], return_tensors="pt").to(self.model.device)
        # The models do not take the sizes; SAM's post-processing wants both, that of SAM 2 and 3 the original alone.
        sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        found = self.model(**inputs, multimask_output=False).pred_masks.float().cpu()
        masks = self.processor.post_process_masks(found, *[size.cpu() for size in sizes])[0]
        return list(masks[:, 0].numpy())
