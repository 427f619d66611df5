"""The scorer ``pretrained``: vision-language encoders with a two-way head.

CLIP and SigLIP embed picture and text apart, and a new head reads both embeddings, their difference and their product.
BLIP brings its own head for image-text matching. ViLT reads picture and text together, and gets a new head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoProcessor,
    BlipForImageTextRetrieval,
    CLIPModel,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    SiglipModel,
    ViltModel,
)

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.checkpoint import WEIGHTS
from rivegs_mllm.cascade.entailment.scorer import Batch, ScorerRecipe, pad_narrow, with_bce_loss
from rivegs_mllm.config.bounds import Dropout
from rivegs_mllm.models.device import best_device, device_of
from rivegs_mllm.models.plain_text import ignore_special_tokens
from rivegs_mllm.models.pretrained import load_pretrained
from rivegs_mllm.published.weights import save_weights

STAGE = "entailment (classifier)"

Tensors = Mapping[str, torch.Tensor]


class DualEncoder(nn.Module):
    """Two embeddings, u of the picture and v of the text, and a head over [u, v, |u - v|, u * v]."""

    def __init__(self, encoder: PreTrainedModel, width: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(4 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(
        self, pictures: Tensors, image_index: torch.Tensor, texts: Tensors, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """``pictures`` is the image processor's and ``texts`` the tokenizer's, ``image_index`` (texts,) the text's
        picture; each picture is embedded once. Gives what ``with_bce_loss`` does, as the other models do."""
        u = F.normalize(self.encoder.get_image_features(**pictures).pooler_output, dim=-1)[image_index]
        v = F.normalize(self.encoder.get_text_features(**texts).pooler_output, dim=-1)
        return with_bce_loss(self.head(torch.cat([u, v, (u - v).abs(), u * v], -1)).squeeze(-1), labels)


class BlipMatcher(nn.Module):
    """BLIP's image-text matching; its head was trained with the captions, ``width`` and ``dropout`` have no use."""

    def __init__(self, encoder: PreTrainedModel, width: int, dropout: float):
        super().__init__()
        self.encoder = encoder

    def forward(
        self, pictures: Tensors, image_index: torch.Tensor, texts: Tensors, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As ``DualEncoder.forward``."""
        patches = self.encoder.vision_model(**pictures).last_hidden_state[image_index]
        seen = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        hidden = self.encoder.text_encoder(
            **texts, encoder_hidden_states=patches, encoder_attention_mask=seen
        ).last_hidden_state
        no, yes = self.encoder.itm_head(hidden[:, 0]).unbind(-1)
        return with_bce_loss(yes - no, labels)


class ViltMatcher(nn.Module):
    """ViLT with a head; picture and text go through all layers together, so a picture is encoded once a text."""

    def __init__(self, encoder: PreTrainedModel, width: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(
        self, pictures: Tensors, image_index: torch.Tensor, texts: Tensors, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As ``DualEncoder.forward``."""
        own = {name: value[image_index] for name, value in pictures.items()}
        return with_bce_loss(self.head(self.encoder(**own, **texts).pooler_output).squeeze(-1), labels)


@dataclass(frozen=True)
class EncoderFamily:
    """How models of a type are used: transformers' class, the head's, the width of what the head reads, and whether
    texts are padded to the longest (True) or to the full length."""

    encoder: type[PreTrainedModel]
    matcher: type[nn.Module]
    width: Callable[[PreTrainedConfig], int]
    padding: bool | str = True


# SigLIP was trained on texts padded to their full length.
FAMILIES = {
    "clip": EncoderFamily(CLIPModel, DualEncoder, lambda config: config.projection_dim),
    "siglip": EncoderFamily(SiglipModel, DualEncoder, lambda config: config.text_config.projection_size, "max_length"),
    "blip": EncoderFamily(BlipForImageTextRetrieval, BlipMatcher, lambda config: config.text_config.hidden_size),
    "vilt": EncoderFamily(ViltModel, ViltMatcher, lambda config: config.hidden_size),
}
"""By the ``model_type`` of the config."""


class PretrainedScorer:
    """A ``VisibilityScorer`` of one of the families."""

    cacheable = False

    def __init__(self, model: nn.Module, processor: ProcessorMixin):
        config = model.encoder.config
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_tokens = min(config.get_text_config().max_position_embeddings, self.tokenizer.model_max_length)
        self.padding = FAMILIES[config.model_type].padding

    def encode_images(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures themselves."""
        return [pad_narrow(image) for image in images]

    def training_batch(
        self,
        encoded: Sequence[Image.Image],
        image_index: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        negative_mask: Sequence[Sequence[bool]],
    ) -> Batch:
        """See ``VisibilityScorer.training_batch``; other posts' pictures are not used as negatives."""
        return {**self._pairs(encoded, image_index, texts), "labels": torch.tensor(visible, dtype=torch.float32)}

    @torch.inference_mode()
    def logits(self, encoded: Sequence[Image.Image], image_index: Sequence[int], texts: Sequence[str]) -> torch.Tensor:
        """See ``VisibilityScorer.logits``."""
        pairs = send_to_device(self._pairs(encoded, image_index, texts), device_of(self.model))
        return self.model(**pairs)["logits"].float().cpu()

    def save(self, folder: Path) -> None:
        """Config, processor and weights."""
        self.model.encoder.config.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        save_weights(self.model, folder / WEIGHTS)

    def _pairs(self, encoded: Sequence[Image.Image], image_index: Sequence[int], texts: Sequence[str]) -> Batch:
        pictures = self.processor.image_processor(list(encoded), return_tensors="pt")
        words = self.tokenizer(
            list(texts), padding=self.padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return {"pictures": dict(pictures), "image_index": torch.tensor(image_index), "texts": dict(words)}


@ScorerRecipe.register_subclass("pretrained")
@dataclass
class PretrainedScorerRecipe(ScorerRecipe):
    """``name`` is the hub id or folder of a CLIP, SigLIP, BLIP or ViLT, all of whose weights are trained."""

    name: str
    revision: str | None = None
    dropout: Dropout = 0.1

    def build(self) -> PretrainedScorer:
        """The encoder with its weights, in float32, and a new head."""
        family = FAMILIES.get(_model_type(self.name, self.revision))
        kind = family.encoder if family else PreTrainedModel  # of no family: load_pretrained says what is wrong
        processors = dict.fromkeys(FAMILIES, AutoProcessor)
        encoder, processor = load_pretrained(kind, self.name, self.revision, processors, STAGE)
        ignore_special_tokens(processor.tokenizer)
        return PretrainedScorer(family.matcher(encoder, family.width(encoder.config), self.dropout), processor)

    def load(self, folder: Path) -> PretrainedScorer:
        """See ``ScorerRecipe.load``."""
        try:
            config = AutoConfig.from_pretrained(folder)
            family = FAMILIES[config.model_type]
            model = family.matcher(family.encoder(config), family.width(config), self.dropout)
            model.load_state_dict(load_file(folder / WEIGHTS))
            processor = AutoProcessor.from_pretrained(folder)
            ignore_special_tokens(processor.tokenizer)
        except (KeyError, RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise StageError(f"{STAGE}: {folder} is damaged: {error}; train the stage again") from None
        return PretrainedScorer(model.to(best_device()).eval(), processor)


def _model_type(name: str, revision: str | None) -> str:
    """The family of a model, "" where there is no such model, which is for ``load_pretrained`` to say."""
    try:
        return AutoConfig.from_pretrained(name, revision=revision).model_type
    except (OSError, ValueError):
        return ""
