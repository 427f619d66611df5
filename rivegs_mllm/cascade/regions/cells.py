"""The proposer ``cells``: the boxes that a trained grounder ``cells`` reads from a picture's cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torchvision.ops import box_iou

from rivegs_mllm.cascade.grounding.late_interaction import CellsGrounder, Looker
from rivegs_mllm.cascade.regions.base import Proposals, Propose, Proposer, signless
from rivegs_mllm.types import TYPES

_ALIKE = 0.5


@Proposer.register_subclass("cells")
@dataclass
class CellsProposer(Proposer):
    """``checkpoint`` is the folder of the grounder. A box is the better the more cells tell of one like it; its
    features are the cell's."""

    checkpoint: Path
    types: list[str] = field(default_factory=lambda: list(TYPES))

    def load(self) -> Propose:
        """The grounder, on the GPU where there is one."""
        looker = CellsGrounder(self.checkpoint, types=self.types).load(Path()).locate
        return lambda image: told(looker, image)


@torch.inference_mode()
def told(looker: Looker, image: Image.Image) -> Proposals:
    """The box that each cell tells of."""
    tokens = looker.eyes.look([image])[0].tokens
    boxes = looker.model.read_boxes(tokens.to(next(looker.model.parameters()).device)).cpu()
    boxes = boxes * torch.tensor(image.size * 2)
    votes = (box_iou(boxes, boxes) > _ALIKE).sum(1).float()
    return Proposals(boxes, votes, signless(tokens))
