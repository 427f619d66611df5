"""The sizes of a UMT model, by default those of the published one: BERT-base, cased, and ResNet-152."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rivegs_mllm.config.bounds import Bounds
from rivegs_mllm.published.umt.labels import AUXILIARY, TYPES, labels

NUM_REGIONS = 49
"""The regions of a picture: 7 rows of 7."""

# Bounds for the numbers in a damaged file, which would otherwise ask for all memory.
Width = Annotated[int, Bounds(1, 100_000)]
Depth = Annotated[int, Bounds(1, 1000)]


@dataclass(frozen=True)
class Sizes:
    """``words`` is the length of BERT's vocabulary, ``channels`` the width of a picture's regions, ``types`` the entity
    types in the order of their labels."""

    words: Annotated[int, Bounds(1, 10_000_000)] = 28_996
    width: Width = 768
    layers: Depth = 12
    heads: Depth = 12
    ffn: Width = 3072
    positions: Width = 512
    token_types: Depth = 2
    channels: Width = 2048
    types: tuple[str, ...] = TYPES

    @property
    def labels(self) -> list[str]:
        """The labels of the first field."""
        return labels(self.types)

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The labels of the second field."""
        return AUXILIARY
