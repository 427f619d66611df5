"""SeqTR's boxes and masks in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from rivegs_mllm.cascade.grounding.base import Localization
from rivegs_mllm.models.device import device_of
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.seqtr.decoding import Generated, fill_outline, generate, outline_tokens, resize_mask
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.preparation import PreparedImage, batch_images, prepare_image, word_ids
from rivegs_mllm.published.seqtr.tokens import restore
from rivegs_mllm.types import Box


class ImageInput(Protocol):
    """Turns pictures into the model's input."""

    def prepare(self, images: Sequence[Image.Image]) -> list[PreparedImage]:
        """Each picture as the model's input."""


@dataclass(frozen=True)
class PixelInput:
    """The pictures themselves, for DarkNet-53, resized to lie within a square of ``side``."""

    side: int

    def prepare(self, images: Sequence[Image.Image]) -> list[PreparedImage]:
        """Each picture as the model's input."""
        return [prepare_image(np.asarray(image), self.side) for image in images]


@dataclass(frozen=True)
class TowerInput:
    """The patches of a frozen vision tower. Coordinates are those of the original picture."""

    vision_encoder: VisionEncoder

    def prepare(self, images: Sequence[Image.Image]) -> list[PreparedImage]:
        """Each picture as the model's input."""
        found = []
        for image, patches in zip(images, self.vision_encoder.encode_images(images), strict=True):
            maps = patches.tokens.T.reshape(-1, patches.rows, patches.columns)
            found.append(PreparedImage(maps, (patches.rows, patches.columns), (1.0, 1.0), (image.height, image.width)))
        return found


@dataclass(frozen=True)
class SeqTRPredictor:
    """A model with its vocabulary and image input. An expression is truncated to ``max_words``."""

    model: SeqTR
    image_input: ImageInput
    vocabulary: Mapping[str, int]
    max_words: int

    def tokenize(self, texts: Sequence[str]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The word ids (B, max_words) of texts; and for each a note on what was cut."""
        rows = [word_ids(text, self.vocabulary, self.max_words) for text in texts]
        notes = [(f"the last {cut} words were not read",) if cut else () for _, cut in rows]
        return torch.tensor([row for row, _ in rows]), notes

    def locate(self, image: Image.Image, texts: Sequence[str]) -> list[Localization]:
        """The box of each text, clipped to the picture: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""
        (seen,), (words, notes) = self.image_input.prepare([image]), self.tokenize(texts)
        edges = self._original(self._write(seen, words).boxes, seen)
        limits = torch.tensor(image.size * 2, dtype=edges.dtype)
        edges = edges.clamp(min=torch.zeros(4, dtype=edges.dtype), max=limits)
        real = (edges[:, 2:] > edges[:, :2]).all(1)
        return [
            Localization((Box(*own.tolist()),) if there else (), note)
            for own, there, note in zip(edges, real, notes, strict=True)
        ]

    def segment(self, image: Image.Image, texts: Sequence[str]) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
        """The mask of each text, bool (height, width), and a note on what of the text was cut."""
        (seen,), (words, notes) = self.image_input.prepare([image]), self.tokenize(texts)
        written = self._write(seen, words).outlines.tolist()
        return [self._mask(row, seen, (image.height, image.width)) for row in written], notes

    def _mask(self, row: Sequence[int], seen: PreparedImage, size: tuple[int, int]) -> np.ndarray:
        kept = torch.tensor([outline_tokens(row, self.model.sizes.end)], dtype=torch.long)
        if self.model.as_published:
            points = restore(kept, torch.tensor([seen.frame]), self.model.sizes)
            return resize_mask(fill_outline(points[0].tolist(), seen.frame, as_published=True), size)
        return fill_outline(self._original(kept, seen)[0].tolist(), size)

    def _write(self, seen: PreparedImage, words: torch.Tensor) -> Generated:
        device = device_of(self.model)
        inputs = {name: value.to(device) for name, value in batch_images([seen]).items()}
        return generate(self.model, self.model.encode(words=words.to(device), **inputs))

    def _original(self, tokens: torch.Tensor, seen: PreparedImage) -> torch.Tensor:
        """The coordinates in the original picture, (B, 2 n), of tokens."""
        frames = torch.tensor([seen.frame]).expand(len(tokens), -1)
        factors = torch.tensor(seen.factors, dtype=torch.float64).repeat(tokens.shape[1] // 2)
        return restore(tokens.cpu(), frames, self.model.sizes) / factors
