"""The proposer ``patches``: the boxes that a trained grounder ``patches`` predicts from a picture's patches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.ops import box_iou

from rivegs_mllm.cascade.grounding.late_interaction import PatchGrounder, PatchLocator
from rivegs_mllm.cascade.regions.base import Proposals, Propose, Proposer, split_signs
from rivegs_mllm.models.device import device_of

_VOTE_IOU = 0.5  # from which on two patches predict the same box, as Prec@0.5 counts


@Proposer.register_subclass("patches")
@dataclass
class PatchProposer(Proposer):
    """``checkpoint`` is the folder of the grounder. A box is scored by the number of patches that predict a similar
    one; its features are the patch's."""

    checkpoint: Path
    types: list[str] | None = None

    def load(self) -> Propose:
        """The grounder, on the GPU where there is one."""
        locator = PatchGrounder(self.checkpoint, types=self.types).load(Path()).locate
        return lambda image: patch_proposals(locator, image)


@torch.inference_mode()
def patch_proposals(locator: PatchLocator, image: Image.Image) -> Proposals:
    """The box predicted at each patch, in pixels of the picture, with the patch's features."""
    tokens = locator.vision_encoder.encode_images([image])[0].tokens
    boxes = locator.model.read_boxes(tokens.to(device_of(locator.model))).cpu()
    boxes = boxes * torch.tensor(image.size * 2)
    votes = (box_iou(boxes, boxes) > _VOTE_IOU).sum(1).float()
    return Proposals(boxes, votes, split_signs(tokens))
