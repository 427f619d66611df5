"""The judge ``cells``: how well the best cell of a picture fits the text, over a frozen vision tower.

The small judge of the demo, and one for any Qwen-VL base: all that is trained is the matching (``late_interaction``).
Beside the labels it learns from the other pictures of a batch: a text of something visible fits its own picture better
than those of posts that do not speak of it (InfoNCE, arXiv 1807.03748).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from accelerate.utils import send_to_device
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.entailment.scorer import Batch, JudgeRecipe, device_of, not_too_narrow, outcome
from rivegs_mllm.config.bounds import Bounds, NonNegativeFloat, Side
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.late_interaction import (
    MASKED_SCORE,
    LateInteractionScorer,
    PatchFeatures,
    VisionEncoder,
    pad_pairs,
)

EYES = "eyes"
WEIGHTS = "model.safetensors"


class CellMatcher(nn.Module):
    """The score of the best cell, moved by a learned bias, is the logit. ``contrast`` weighs the second loss."""

    def __init__(self, words: torch.Tensor, width: int, layers: int, contrast: float):
        super().__init__()
        self.match = LateInteractionScorer(words, width, layers)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))
        self.contrast = contrast

    def forward(
        self,
        cells: torch.Tensor,
        cell_mask: torch.Tensor,
        words: torch.Tensor,
        word_mask: torch.Tensor,
        owner: torch.Tensor,
        labels: torch.Tensor | None = None,
        rivals: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Pictures ``cells`` (P, C, seen) and texts ``words`` (T, W), padded as ``pad_pairs`` does; ``owner`` (T,) is
        the text's picture. To learn, ``labels`` (T,) and ``rivals`` (T, P), which pictures are not spoken of by a
        text's entity. Gives the ``outcome`` for each text and its own picture."""
        best = self.match.all_pairs(cells, cell_mask, words, word_mask).amax(-1)
        logits = self.scale * best + self.bias
        own = logits.gather(1, owner[:, None])
        result = outcome(own.squeeze(1), labels)
        if labels is not None and labels.any():
            among = torch.cat([own, logits.masked_fill(~rivals, MASKED_SCORE)], 1)[labels > 0]
            result["loss"] = result["loss"] + self.contrast * (among.logsumexp(1) - among[:, 0]).mean()
        return result


class CellsJudge:
    """A ``Judge`` over a frozen vision tower."""

    looks_once = True

    def __init__(self, model: CellMatcher, eyes: VisionEncoder):
        self.model = model
        self.eyes = eyes
        self.tokenizer = eyes.processor.tokenizer
        self.room = LateInteractionScorer.MAX_WORDS

    def look(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """The cells of each picture."""
        return self.eyes.look([not_too_narrow(image) for image in images])

    def learn(
        self,
        looks: Sequence[PatchFeatures],
        owner: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        rivals: Sequence[Sequence[bool]],
    ) -> Batch:
        """See ``Judge.learn``."""
        labels = torch.tensor(visible, dtype=torch.float32)
        return {**self._pairs(looks, owner, texts), "labels": labels, "rivals": torch.tensor(rivals)}

    @torch.inference_mode()
    def logits(self, looks: Sequence[PatchFeatures], owner: Sequence[int], texts: Sequence[str]) -> torch.Tensor:
        """See ``Judge.logits``."""
        pairs = send_to_device(self._pairs(looks, owner, texts), device_of(self.model))
        return self.model(**pairs)["logits"].float().cpu()

    def save(self, folder: Path) -> None:
        """Tower, processor and what was trained."""
        self.eyes.save(folder / EYES)
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / WEIGHTS)

    def _pairs(self, looks: Sequence[PatchFeatures], owner: Sequence[int], texts: Sequence[str]) -> Batch:
        return {**pad_pairs(looks, self.eyes.read(texts)), "owner": torch.tensor(owner)}


@JudgeRecipe.register_subclass("cells")
@dataclass
class CellsRecipe(JudgeRecipe):
    """``base`` is the Qwen-VL whose vision tower it looks through: a hub id, a folder, or ``tiny``."""

    base: str
    width: Side = 128
    layers: Annotated[int, Bounds(1, 100)] = 2
    contrast: NonNegativeFloat = 0.5

    def build(self) -> CellsJudge:
        """The base's tower, and a matching that is untrained. All training pictures' cells are held in memory."""
        return self._over(VisionEncoder.of_base(self.base))

    def load(self, folder: Path) -> CellsJudge:
        """See ``JudgeRecipe.load``."""
        path = folder / WEIGHTS
        try:
            judge = self._over(VisionEncoder.load(folder / EYES))
            judge.model.load_state_dict(load_file(path))
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise StageError(f"entailment (classifier): {path}: {error}; train the stage again") from None
        judge.model.to(best_device()).eval()
        return judge

    def _over(self, eyes: VisionEncoder) -> CellsJudge:
        eyes.tower.to(best_device())
        return CellsJudge(CellMatcher(eyes.words, self.width, self.layers, self.contrast), eyes)
