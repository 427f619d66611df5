"""UMT with its tokenizer and image encoder: from posts to entities, and to features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from rivegs_mllm.cascade.tagging.base import Tagged
from rivegs_mllm.data.images import OVERVIEW_SIDE, PictureError, open_for_model
from rivegs_mllm.models.device import count_parameters, device_of
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.umt.labels import chunks
from rivegs_mllm.published.umt.model import UMT, Features, States, features
from rivegs_mllm.published.umt.pictures import ResNet, normalize, pool_patches, random_crop, resize_to_square
from rivegs_mllm.published.umt.sizes import NUM_REGIONS, Sizes
from rivegs_mllm.published.umt.text import MAX_PIECES, WordPieces, batch, tags_of_words, word_pieces
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.types import Entity, Sample, UserError

STAGE = "tagger (umt)"


class ImageEncoder(Protocol):
    """Turns pictures into regions."""

    @property
    def channels(self) -> int: ...

    @property
    def model(self) -> nn.Module: ...

    def regions(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels) of pictures, which have names."""


@dataclass(frozen=True)
class ResNetEncoder:
    """A ResNet. ``part`` takes a crop of each picture that is drawn by its name, as published, else all of it."""

    model: ResNet
    part: bool = False

    @property
    def channels(self) -> int:
        """The width of a place."""
        return self.model.channels

    def regions(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels)."""
        squares = [*map(random_crop, images, names)] if self.part else [resize_to_square(image) for image in images]
        return self.model(torch.stack([normalize(square) for square in squares]).to(device_of(self.model))).cpu()


@dataclass(frozen=True)
class TowerEncoder:
    """The vision tower of a Qwen-VL base, its patches brought to 7 x 7 regions. ``part`` is that of
    ``ResNetEncoder``."""

    vision_encoder: VisionEncoder
    part: bool = False

    @property
    def channels(self) -> int:
        """The width of a place."""
        return self.vision_encoder.width

    @property
    def model(self) -> nn.Module:
        """The tower."""
        return self.vision_encoder.tower

    def regions(self, images: Sequence[Image.Image], names: Sequence[str]) -> torch.Tensor:
        """(B, 49, channels)."""
        features = self.vision_encoder.encode_images([*map(random_crop, images, names)] if self.part else list(images))
        return torch.stack([pool_patches(patches.tokens, patches.rows, patches.columns) for patches in features])


@dataclass(frozen=True)
class UmtPredictor:
    """A model with its tokenizer and image encoder. ``folder`` is what pictures are relative to, ``names`` maps types
    that the model has under other names to the dataset's; ``max_pieces`` of a post are read."""

    model: UMT
    tokenizer: PreTrainedTokenizerFast
    image_encoder: ImageEncoder
    folder: Path
    names: Mapping[str, str]
    batch_size: int = 16
    max_pieces: int = MAX_PIECES

    @property
    def num_parameters(self) -> int:
        """How many the model and its image encoder have."""
        return count_parameters(self.model, self.image_encoder.model)

    def encode_images(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
        """The regions (B, 49, channels) of posts, zeros without a picture; and why one could not be opened."""
        found = torch.zeros(len(samples), NUM_REGIONS, self.image_encoder.channels)
        notes: list[tuple[str, ...]] = [() for _ in samples]
        opened: dict[int, Image.Image] = {}
        for index, sample in enumerate(samples):
            try:
                if sample.image:
                    opened[index] = open_for_model(self.folder / sample.image, OVERVIEW_SIDE)
            except PictureError as error:
                notes[index] = (f"{STAGE}: no picture: {error}",)
        if opened:
            found[list(opened)] = self.image_encoder.regions(
                list(opened.values()), [samples[index].id for index in opened]
            )
        return found, notes

    def tag(self, samples: Sequence[Sample]) -> list[Tagged]:
        """The entities of each post, in the order of the text, and notes on what could not be read."""
        tagged = []
        for some in batches(list(samples), self.batch_size):
            rows = [self.tokenize(sample) for sample in some]
            states, mask, notes = self._states(some, rows)
            paths = self.model.decode(states, mask)
            for sample, row, path, own in zip(some, rows, paths, notes, strict=True):
                tagged.append((tuple(self._entities(sample, row, path)), (*own, *self._unread(sample, row))))
        return tagged

    def features(self, samples: Sequence[Sample]) -> Iterator[Features]:
        """The features of posts, in batches. Raises UserError for a picture that cannot be opened."""
        for some in batches(list(samples), self.batch_size):
            states, mask, notes = self._states(some, [self.tokenize(sample) for sample in some])
            if lost := next(filter(None, notes), None):
                raise UserError(lost[0])
            yield features(states, mask)

    def tokenize(self, sample: Sample) -> WordPieces:
        """The pieces of a post's words."""
        return word_pieces(sample.tokens, (), self.tokenizer, self.max_pieces)

    @torch.no_grad()
    def _states(
        self, samples: Sequence[Sample], rows: Sequence[WordPieces]
    ) -> tuple[States, torch.Tensor, list[tuple[str, ...]]]:
        regions, notes = self.encode_images(samples)
        device = device_of(self.model)
        inputs = {name: value.to(device) for name, value in batch(rows).items()}
        return self.model.encode(**inputs, regions=regions.to(device)), inputs["mask"], notes

    def _entities(self, sample: Sample, row: WordPieces, path: Sequence[int]) -> Iterator[Entity]:
        for kind, start, end in chunks(tags_of_words(path, row, self.model.sizes.labels)):
            yield Entity(" ".join(sample.tokens[start:end]), self.names.get(kind, kind), (start, end))

    def _unread(self, sample: Sample, row: WordPieces) -> tuple[str, ...]:
        left = len(sample.tokens) - len(row.first)
        if left:
            return (f"{STAGE}: the last {left} words did not fit into {self.max_pieces} pieces",)
        return (f"{STAGE}: the last word did not fit into {self.max_pieces} pieces, and was cut",) if row.cut else ()


def sized_like(config: PretrainedConfig, channels: int, types: Sequence[str]) -> Sizes:
    """The sizes of a UMT over an encoder. Raises UserError unless that is a BERT."""
    if config.model_type != "bert":
        raise UserError(f"stage.encoder: is a {config.model_type}; UMT's layers are built on a BERT")
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
