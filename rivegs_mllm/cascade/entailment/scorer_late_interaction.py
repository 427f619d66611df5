"""The scorer ``patches``: how well the best patch of a picture fits the text, over a frozen vision tower.

The small scorer of the demo, and one for any Qwen-VL base: all that is trained is the matching (``late_interaction``).
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
from safetensors.torch import load_file
from torch import nn

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.checkpoint import VISION_FOLDER, WEIGHTS
from rivegs_mllm.cascade.entailment.scorer import Batch, ScorerRecipe, pad_narrow, with_bce_loss
from rivegs_mllm.config.bounds import Bounds, NonNegativeFloat, Side
from rivegs_mllm.models.device import best_device, device_of
from rivegs_mllm.models.late_interaction import (
    MASKED_SCORE,
    LateInteractionScorer,
    PatchFeatures,
    VisionEncoder,
    pad_pairs,
)
from rivegs_mllm.published.weights import save_weights


class PatchMatcher(nn.Module):
    """The score of the best patch, moved by a learned bias, is the logit. ``contrast`` weighs the second loss."""

    def __init__(self, words: torch.Tensor, width: int, layers: int, contrast: float):
        super().__init__()
        self.match = LateInteractionScorer(words, width, layers)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))
        self.contrast = contrast

    def forward(
        self,
        patches: torch.Tensor,
        patch_mask: torch.Tensor,
        words: torch.Tensor,
        word_mask: torch.Tensor,
        image_index: torch.Tensor,
        labels: torch.Tensor | None = None,
        negative_mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Pictures ``patches`` (P, C, seen) and texts ``words`` (T, W), padded as ``pad_pairs`` does; ``image_index``
        (T,) is the text's picture. To learn, ``labels`` (T,) and ``negative_mask`` (T, P), which pictures are not
        spoken of by a text's entity. Gives what ``with_bce_loss`` does for each text and its own picture."""
        # All texts with all pictures, as the other pictures are negatives in training.
        best = self.match.all_pairs(patches, patch_mask, words, word_mask).amax(-1)
        logits = self.scale * best + self.bias
        own = logits.gather(1, image_index[:, None])
        result = with_bce_loss(own.squeeze(1), labels)
        if labels is not None and labels.any():
            among = torch.cat([own, logits.masked_fill(~negative_mask, MASKED_SCORE)], 1)[labels > 0]
            result["loss"] = result["loss"] + self.contrast * (among.logsumexp(1) - among[:, 0]).mean()
        return result


class PatchScorer:
    """A ``VisibilityScorer`` over a frozen vision tower."""

    cacheable = True

    def __init__(self, model: PatchMatcher, vision_encoder: VisionEncoder):
        self.model = model
        self.vision_encoder = vision_encoder
        self.tokenizer = vision_encoder.processor.tokenizer
        self.max_tokens = LateInteractionScorer.MAX_WORDS

    def encode_images(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """The patches of each picture."""
        return self.vision_encoder.encode_images([pad_narrow(image) for image in images])

    def training_batch(
        self,
        encoded: Sequence[PatchFeatures],
        image_index: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        negative_mask: Sequence[Sequence[bool]],
    ) -> Batch:
        """See ``VisibilityScorer.training_batch``."""
        labels = torch.tensor(visible, dtype=torch.float32)
        return {
            **self._pairs(encoded, image_index, texts),
            "labels": labels,
            "negative_mask": torch.tensor(negative_mask),
        }

    @torch.inference_mode()
    def logits(
        self, encoded: Sequence[PatchFeatures], image_index: Sequence[int], texts: Sequence[str]
    ) -> torch.Tensor:
        """See ``VisibilityScorer.logits``."""
        pairs = send_to_device(self._pairs(encoded, image_index, texts), device_of(self.model))
        return self.model(**pairs)["logits"].float().cpu()

    def save(self, folder: Path) -> None:
        """Tower, processor and what was trained."""
        self.vision_encoder.save(folder / VISION_FOLDER)
        save_weights(self.model, folder / WEIGHTS)

    def _pairs(self, encoded: Sequence[PatchFeatures], image_index: Sequence[int], texts: Sequence[str]) -> Batch:
        return {**pad_pairs(encoded, self.vision_encoder.tokenize(texts)), "image_index": torch.tensor(image_index)}


@ScorerRecipe.register_subclass("patches")
@dataclass
class PatchScorerRecipe(ScorerRecipe):
    """``base`` is the Qwen-VL whose vision tower encodes pictures: a hub id, a folder, or ``tiny``."""

    base: str
    width: Side = 128
    layers: Annotated[int, Bounds(1, 100)] = 2
    contrast: NonNegativeFloat = 0.5

    def build(self) -> PatchScorer:
        """The base's tower, and a matching that is untrained. All training pictures' patch features are held in
        memory."""
        return self._over(VisionEncoder.of_base(self.base))

    def load(self, folder: Path) -> PatchScorer:
        """See ``ScorerRecipe.load``."""
        path = folder / WEIGHTS
        try:
            scorer = self._over(VisionEncoder.load(folder / VISION_FOLDER))
            scorer.model.load_state_dict(load_file(path))
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise StageError(f"entailment (classifier): {path}: {error}; train the stage again") from None
        scorer.model.to(best_device()).eval()
        return scorer

    def _over(self, vision_encoder: VisionEncoder) -> PatchScorer:
        vision_encoder.tower.to(best_device())
        return PatchScorer(PatchMatcher(vision_encoder.words, self.width, self.layers, self.contrast), vision_encoder)
