"""SeqTR asked for boxes and masks in pixels of the original picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from rivegs_mllm.cascade.grounding.base import Found
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.seqtr.decoding import Written, enclosed, outline, squeezed, write
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.preparation import Prepared, batch, prepare, word_row
from rivegs_mllm.published.seqtr.tokens import restore
from rivegs_mllm.types import Box


class Sight(Protocol):
    """How the model looks at pictures."""

    def see(self, images: Sequence[Image.Image]) -> list[Prepared]:
        """What the model takes of each."""


@dataclass(frozen=True)
class Pixels:
    """The pictures themselves, for DarkNet-53, resized to lie within a square of ``side``."""

    side: int

    def see(self, images: Sequence[Image.Image]) -> list[Prepared]:
        """What the model takes of each."""
        return [prepare(np.asarray(image), self.side) for image in images]


@dataclass(frozen=True)
class Tower:
    """The cells of a frozen vision tower. Coordinates are those of the original picture."""

    eyes: VisionEncoder

    def see(self, images: Sequence[Image.Image]) -> list[Prepared]:
        """What the model takes of each."""
        found = []
        for image, cells in zip(images, self.eyes.look(images), strict=True):
            maps = cells.tokens.T.reshape(-1, cells.rows, cells.columns)
            found.append(Prepared(maps, (cells.rows, cells.columns), (1.0, 1.0), (image.height, image.width)))
        return found


@dataclass(frozen=True)
class Writer:
    """A model with what it reads and looks by. ``most_words`` is how many of an expression are read."""

    model: SeqTR
    sight: Sight
    vocabulary: Mapping[str, int]
    most_words: int

    def read(self, texts: Sequence[str]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The words (B, most_words) of texts; and for each what was cut off."""
        rows = [word_row(text, self.vocabulary, self.most_words) for text in texts]
        notes = [(f"the last {cut} words were not read",) if cut else () for _, cut in rows]
        return torch.tensor([row for row, _ in rows]), notes

    def locate(self, image: Image.Image, texts: Sequence[str]) -> list[Found]:
        """The box of each text, cut to the picture: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""
        (seen,), (words, notes) = self.sight.see([image]), self.read(texts)
        edges = self._original(self._write(seen, words).boxes, seen)
        limits = torch.tensor(image.size * 2, dtype=edges.dtype)
        edges = edges.clamp(min=torch.zeros(4, dtype=edges.dtype), max=limits)
        real = (edges[:, 2:] > edges[:, :2]).all(1)
        return [
            Found((Box(*own.tolist()),) if there else (), note)
            for own, there, note in zip(edges, real, notes, strict=True)
        ]

    def segment(self, image: Image.Image, texts: Sequence[str]) -> tuple[list[np.ndarray], list[tuple[str, ...]]]:
        """The mask of each text, bool (height, width), and what was cut off of it."""
        (seen,), (words, notes) = self.sight.see([image]), self.read(texts)
        written = self._write(seen, words).outlines.tolist()
        return [self._mask(row, seen, (image.height, image.width)) for row in written], notes

    def _mask(self, row: Sequence[int], seen: Prepared, size: tuple[int, int]) -> np.ndarray:
        kept = torch.tensor([outline(row, self.model.sizes.end)], dtype=torch.long)
        if self.model.as_published:
            points = restore(kept, torch.tensor([seen.frame]), self.model.sizes)
            return squeezed(enclosed(points[0].tolist(), seen.frame, as_published=True), size)
        return enclosed(self._original(kept, seen)[0].tolist(), size)

    def _write(self, seen: Prepared, words: torch.Tensor) -> Written:
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch([seen]).items()}
        return write(self.model, self.model.see(words=words.to(device), **inputs))

    def _original(self, tokens: torch.Tensor, seen: Prepared) -> torch.Tensor:
        """The coordinates in the original picture, (B, 2 n), of tokens."""
        frames = torch.tensor([seen.frame]).expand(len(tokens), -1)
        factors = torch.tensor(seen.factors, dtype=torch.float64).repeat(tokens.shape[1] // 2)
        return restore(tokens.cpu(), frames, self.model.sizes) / factors
