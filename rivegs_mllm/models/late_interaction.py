"""A text matched against the patches of a picture: late interaction (arXiv 2004.12832) over a frozen vision tower.

The tower is that of any Qwen-VL base and is never trained, so each picture goes through it once; what is trained is
what each word of a text weighs, and a linear change of the patches. The grounder reads the best patch, the entailment
classifier how well the best patch fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, ProcessorMixin
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from rivegs_mllm.models.base_model import base_path
from rivegs_mllm.models.plain_text import escape_special_tokens
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

AutoModel.register(Qwen2VLVisionConfig, Qwen2VisionTransformerPretrainedModel, exist_ok=True)  # transformers lacks it

MASKED_SCORE = -1e4
"""The score of a patch that is padding: 0 after a softmax, and finite, since minus infinity less itself is NaN."""


class VisionEncoder:
    """A frozen vision tower and its processor: pictures to patch tokens, texts to token ids.

    ``words`` (vocabulary, d) is the direction of each token's embedding in the base's language model, which reads
    patch tokens, d wide too, in the same place.
    """

    WORDS = "words.safetensors"

    def __init__(self, tower: nn.Module, processor: ProcessorMixin, words: torch.Tensor):
        self.tower = tower.eval().requires_grad_(False)
        self.processor = processor
        self.words = words

    @classmethod
    def of_base(cls, base: str) -> VisionEncoder:
        """The tower of a Qwen-VL base: a hub id, a folder, or ``tiny``. Raises UserError where it has none."""
        path = base_path(base)
        try:
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
            # Half of the memory and of the trained folder: a 7B base has 152k embeddings 3,584 wide.
            words = F.normalize(model.get_input_embeddings().weight.detach(), dim=-1).half()
            return cls(model.model.visual, AutoProcessor.from_pretrained(path), words)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: no Qwen-VL base whose vision tower could be used: {one_line(error)}") from None

    @classmethod
    def load(cls, folder: Path) -> VisionEncoder:
        """What ``save`` saved. Raises UserError where it is incomplete."""
        try:
            words = load_file(folder / cls.WORDS)["words"]
            return cls(AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder), words)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: no vision tower that was saved whole: {error}; train the stage again") from None

    def save(self, folder: Path) -> None:
        """Tower, processor and words, so that a trained folder needs no base beside it."""
        self.tower.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        save_file({"words": self.words}, folder / self.WORDS)

    @property
    def width(self) -> int:
        """The width of a patch token."""
        return self.words.shape[1]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> list[PatchFeatures]:
        """The patch features of each picture, on the CPU in float32."""
        pixels = self.processor.image_processor(list(images), return_tensors="pt").to(self.tower.device)
        grids = pixels["image_grid_thw"]
        tokens = self.tower(pixels["pixel_values"], grid_thw=grids).pooler_output
        merge = self.processor.image_processor.merge_size
        shapes = [(int(rows) // merge, int(columns) // merge) for _, rows, columns in grids]
        parts = tokens.float().cpu().split([rows * columns for rows, columns in shapes])
        return [PatchFeatures(part.clone(), *shape) for part, shape in zip(parts, shapes, strict=True)]

    def tokenize(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The token ids of each text, (tokens,)."""
        tokenizer = self.processor.tokenizer
        plain = [escape_special_tokens(text, tokenizer) for text in texts]
        return [torch.tensor(ids) for ids in tokenizer(plain, add_special_tokens=False, verbose=False).input_ids]


@dataclass(frozen=True)
class PatchFeatures:
    """A picture as its tower sees it: ``tokens`` (rows * columns, d), row by row."""

    tokens: torch.Tensor
    rows: int
    columns: int

    def centres(self) -> torch.Tensor:
        """(rows * columns, 2): x and y of each patch's centre in [0, 1] of the picture."""
        y, x = torch.meshgrid(torch.arange(self.rows), torch.arange(self.columns), indexing="ij")
        return torch.stack([(x.flatten() + 0.5) / self.columns, (y.flatten() + 0.5) / self.rows], 1)


def pad_pairs(patches: Sequence[PatchFeatures], texts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pairs of a picture and a text, padded: the arguments of ``LateInteractionScorer.forward`` by name, ``patches``
    (pictures, C, d) and ``words`` (texts, T) with their masks."""
    return {
        "patches": pad_sequence([own.tokens for own in patches], batch_first=True),
        "patch_mask": pad_sequence(
            [torch.ones(len(own.tokens), dtype=torch.bool) for own in patches], batch_first=True
        ),
        "words": pad_sequence(list(texts), batch_first=True),
        "word_mask": pad_sequence([torch.ones(len(ids), dtype=torch.bool) for ids in texts], batch_first=True),
    }


class LateInteractionScorer(nn.Module):
    """Scores every patch of a picture by how alike it is to the words of a text, as the base embeds both.

    What is learned is how much each word of a text counts, and a linear change of the patches: nothing of single words,
    so that memorised names do not get in the way of unseen expressions. ``words`` is
    that of ``VisionEncoder``; ``width`` and ``layers`` are those of the encoder that weighs.
    """

    MAX_WORDS = 512

    def __init__(self, words: torch.Tensor, width: int = 128, layers: int = 2):
        super().__init__()
        seen = words.shape[1]
        self.register_buffer("words", words, persistent=False)  # saved once, beside the tower
        self.into = nn.Linear(seen, width)
        self.places = nn.Embedding(self.MAX_WORDS, width)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.weight = nn.Linear(width, 1)
        self.norm = nn.LayerNorm(seen)
        self.key = nn.Linear(seen, seen)
        self.sharpness = nn.Parameter(torch.tensor(15.0))  # an inverse temperature; cosines alone give no sharp softmax
        for start in (self.weight, self.key):  # all words count alike, and patches are taken as they are
            nn.init.zeros_(start.weight)
            nn.init.zeros_(start.bias)

    def forward(
        self, patches: torch.Tensor, patch_mask: torch.Tensor, words: torch.Tensor, word_mask: torch.Tensor
    ) -> torch.Tensor:
        """``patches`` (B, C, seen), ``words`` (B, T) token ids, masks true where not padding; scores (B, C)."""
        fits = torch.einsum("bd,bcd->bc", self.query(words, word_mask), self.keys(patches))
        return fits.masked_fill(~patch_mask, MASKED_SCORE)

    def all_pairs(
        self, patches: torch.Tensor, patch_mask: torch.Tensor, words: torch.Tensor, word_mask: torch.Tensor
    ) -> torch.Tensor:
        """Every text against every picture, as in contrastive training: scores (texts, pictures, C)."""
        fits = torch.einsum("td,pcd->tpc", self.query(words, word_mask), self.keys(patches))
        return fits.masked_fill(~patch_mask, MASKED_SCORE)

    def keys(self, patches: torch.Tensor) -> torch.Tensor:
        """The vectors that queries are compared with, (B, C, seen)."""
        return F.normalize(patches, dim=-1) + self.key(self.norm(patches))

    def query(self, words: torch.Tensor, word_mask: torch.Tensor) -> torch.Tensor:
        """What a text looks for, (B, seen): the mean of its words, weighed by attention.

        Raises UserError for a text of more than ``MAX_WORDS`` tokens.
        """
        if words.shape[1] > self.MAX_WORDS:
            raise UserError(f"a text of {words.shape[1]} tokens; at most {self.MAX_WORDS} can be matched: shorten it")
        known = self.words[words].float()
        # Directions have length 1; scaled, their entries have the size that a linear layer's start expects.
        hidden = self.into(known * known.shape[-1] ** 0.5) + self.places.weight[: words.shape[1]]
        hidden = self.encoder(hidden, src_key_padding_mask=~word_mask)
        weights = self.weight(hidden).masked_fill(~word_mask[..., None], MASKED_SCORE).softmax(1)
        return self.sharpness * (weights * known).sum(1)
