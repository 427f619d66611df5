"""Feature extractors: posts and examples as comparable vectors. ``type:`` is text, image, fused, mllm or umt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import draccus
import numpy as np

from rivegs_mllm.config.bounds import BatchSize, OneOf, TokenCount
from rivegs_mllm.types import Sample, UserError


@dataclass(frozen=True, slots=True)
class TextImagePair:
    """A text and its picture, None without one."""

    id: str
    text: str
    picture: Path | None


class FeatureExtractor(draccus.ChoiceRegistry):
    """The settings of a feature extractor."""

    @abstractmethod
    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """(contents, d), each row of length 1, or 0 where there is no content. Raises UserError."""


@FeatureExtractor.register_subclass("text")
@dataclass
class TextFeatures(FeatureExtractor):
    """Any sentence encoder: the mean of its last hidden states over the tokens.

    ``model`` is a folder, a hub id, or ``package:NAME/FOLDER``, a folder inside an installed package.
    """

    model: str
    revision: str | None = None
    batch_size: BatchSize = 64
    max_length: TokenCount = 256

    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """Features of the texts, (contents, d)."""
        from rivegs_mllm.llm.encode import encode_texts

        return encode_texts(self, [content.text for content in contents])


@FeatureExtractor.register_subclass("image")
@dataclass
class ImageFeatures(FeatureExtractor):
    """The image encoder of CLIP, SigLIP or a similar model, a folder or a hub id."""

    model: str
    revision: str | None = None
    batch_size: BatchSize = 32

    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """Features of the pictures, (contents, d), zeros where there is none."""
        from rivegs_mllm.llm.encode import encode_pictures

        return encode_pictures(self, [content.picture for content in contents])


@FeatureExtractor.register_subclass("fused")
@dataclass
class FusedFeatures(FeatureExtractor):
    """Text and picture beside each other, each of length 1, so that both count the same."""

    text: TextFeatures
    image: ImageFeatures

    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """Both features, concatenated to (contents, d) and brought to length 1 again."""
        return normalize_rows(np.concatenate([self.text.make(contents), self.image.make(contents)], axis=1))


@FeatureExtractor.register_subclass("mllm")
@dataclass
class MLLMFeatures(FeatureExtractor):
    """The mean of a fine-tuned model's hidden states over prompt and picture."""

    recipe: Path
    adapter: Path

    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """Features of text and picture together, (contents, d)."""
        from rivegs_mllm.llm.encode import encode_by_mllm

        return encode_by_mllm(self.recipe, self.adapter, contents)


@FeatureExtractor.register_subclass("umt")
@dataclass
class UmtFeatures(FeatureExtractor):
    """The states of a UMT tagger, by which the paper chooses examples (MSEA): those of the text, of the picture, or of
    both, ``fused``. ``checkpoint`` is the folder that ``rivegs train`` wrote."""

    checkpoint: Path
    states: Annotated[str, OneOf(("fused", "text", "image"))] = "fused"
    types: list[str] | None = None
    batch_size: BatchSize = 16

    def make(self, contents: Sequence[TextImagePair]) -> np.ndarray:
        """The means over a text's tokens or a picture's regions, (contents, d)."""
        from rivegs_mllm.llm.encode import encode_by_umt

        return encode_by_umt(self, contents)


def pairs_of(samples: Sequence[Sample], folder: Path) -> list[TextImagePair]:
    """The texts and pictures of posts."""
    return [
        TextImagePair(sample.id, sample.text, folder / sample.image if sample.image else None) for sample in samples
    ]


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """The rows of (rows, d) at length 1, in float32; rows of zeros stay. Raises UserError for what is not finite."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise UserError(f"the features of post {row} are not finite; take another encoder or dtype")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
