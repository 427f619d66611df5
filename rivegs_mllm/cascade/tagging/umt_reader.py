"""UMT with what it reads and looks by: posts to entities, and to features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from rivegs_mllm.data.batching import batches
from rivegs_mllm.data.images import GLANCE, PictureError, open_for_model
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.umt.labels import chunks
from rivegs_mllm.published.umt.model import UMT, Features, States, features
from rivegs_mllm.published.umt.pictures import ResNet, normalised, part, pooled, whole
from rivegs_mllm.published.umt.sizes import PLACES, Sizes
from rivegs_mllm.published.umt.text import MOST_PIECES, Pieces, batch, pieces, tags_of_words
from rivegs_mllm.types import Entity, Sample, UserError

STAGE = "tagger (umt)"


class Sight(Protocol):
    """How pictures become places."""

    @property
    def channels(self) -> int: ...

    @property
    def model(self) -> nn.Module: ...

    def places(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels) of pictures, which have names."""


@dataclass(frozen=True)
class ResNetSight:
    """A ResNet. ``part`` takes a part of each picture that is drawn by its name, as published, else all of it."""

    model: ResNet
    part: bool = False

    @property
    def channels(self) -> int:
        """The width of a place."""
        return self.model.channels

    def places(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels)."""
        squares = [*map(part, images, names)] if self.part else [whole(image) for image in images]
        return self.model(
            torch.stack([normalised(square) for square in squares]).to(next(self.model.parameters()).device)
        ).cpu()


@dataclass(frozen=True)
class TowerSight:
    """The vision tower of a Qwen-VL base, its cells brought to 7 x 7 places. ``part`` is that of ``ResNetSight``."""

    eyes: VisionEncoder
    part: bool = False

    @property
    def channels(self) -> int:
        """The width of a place."""
        return self.eyes.width

    @property
    def model(self) -> nn.Module:
        """The tower."""
        return self.eyes.tower

    def places(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels)."""
        looks = self.eyes.look([*map(part, images, names)] if self.part else list(images))
        return torch.stack([pooled(cells.tokens, cells.rows, cells.columns) for cells in looks])


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer and sight; ``folder`` is what pictures are relative to, ``names`` of types that the
    model calls otherwise, ``most_pieces`` of a post are read."""

    model: UMT
    tokenizer: PreTrainedTokenizerFast
    sight: Sight
    folder: Path
    names: Mapping[str, str]
    batch_size: int = 16
    most_pieces: int = MOST_PIECES

    @property
    def parameters(self) -> int:
        """How many the model and its sight have."""
        return sum(value.numel() for own in (self.model, self.sight.model) for value in own.parameters())

    def look(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The places (B, 49, channels) of posts, zeros without a picture; and why one could not be opened."""
        found = torch.zeros(len(samples), PLACES, self.sight.channels)
        notes: list[tuple[str, ...]] = [() for _ in samples]
        opened: dict[int, Image.Image] = {}
        for place, sample in enumerate(samples):
            try:
                if sample.image:
                    opened[place] = open_for_model(self.folder / sample.image, GLANCE)
            except PictureError as error:
                notes[place] = (f"{STAGE}: no picture: {error}",)
        if opened:
            found[list(opened)] = self.sight.places(list(opened.values()), [samples[place].id for place in opened])
        return found, notes

    def tag(self, samples: Sequence[Sample]) -> list[tuple[tuple[Entity, ...], tuple[str, ...]]]:
        """Of each post its entities, in the order of the text, and what of it could not be read."""
        said = []
        for some in batches(list(samples), self.batch_size):
            rows = [self.read(sample) for sample in some]
            states, mask, notes = self._states(some, rows)
            paths = self.model.decode(states, mask)
            for sample, row, path, own in zip(some, rows, paths, notes, strict=True):
                said.append((tuple(self._entities(sample, row, path)), (*own, *self._unread(sample, row))))
        return said

    def features(self, samples: Sequence[Sample]) -> Iterator[Features]:
        """The features of posts, in batches. Raises UserError for a picture that cannot be opened."""
        for some in batches(list(samples), self.batch_size):
            states, mask, notes = self._states(some, [self.read(sample) for sample in some])
            if lost := next(filter(None, notes), None):
                raise UserError(lost[0])
            yield features(states, mask)

    def read(self, sample: Sample) -> Pieces:
        """The pieces of a post's words."""
        return pieces(sample.tokens, (), self.tokenizer, self.most_pieces)

    @torch.no_grad()
    def _states(
        self, samples: Sequence[Sample], rows: Sequence[Pieces]
    ) -> tuple[States, torch.Tensor, list[tuple[str, ...]]]:
        places, notes = self.look(samples)
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) for name, value in batch(rows).items()}
        return self.model.look(**inputs, places=places.to(device)), inputs["mask"], notes

    def _entities(self, sample: Sample, row: Pieces, path: Sequence[int]) -> Iterator[Entity]:
        for kind, start, end in chunks(tags_of_words(path, row, self.model.sizes.labels)):
            yield Entity(" ".join(sample.tokens[start:end]), self.names.get(kind, kind), (start, end))

    def _unread(self, sample: Sample, row: Pieces) -> tuple[str, ...]:
        left = len(sample.tokens) - len(row.first)
        return (f"{STAGE}: the last {left} words did not fit into {self.most_pieces} pieces",) if left else ()


def sized_like(config: PretrainedConfig, channels: int, types: Sequence[str]) -> Sizes:
    """The sizes of a UMT over an encoder. Raises UserError unless that is a BERT."""
    if config.model_type != "bert":
        raise UserError(f"stage.encoder: is a {config.model_type}; UMT's further layers continue a BERT")
    return Sizes(
        words=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        ffn=config.intermediate_size,
        positions=config.max_position_embeddings,
        token_types=config.type_vocab_size,
        channels=channels,
        types=tuple(types),
    )
