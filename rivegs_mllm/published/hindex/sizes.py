"""The sizes of an H-Index model, by default those of the published one over BART-base and VinVL's regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rivegs_mllm.config.bounds import Bounds

START, END, REGION, NO_REGION = 0, 1, 2, 3
"""Indices of the output sequence; END is its padding too. The types follow, then the places of the source."""

TYPES = ("LOC", "PER", "OTHER", "ORG")
"""The entity types of the published models, in the order of their indices."""

LABELS = (
    "<<which region>>",
    "<<no region>>",
    "<<location>>",
    "<<person>>",
    "<<others>>",
    "<<organization>>",
)
"""The tokens that the published models add to BART's, from index REGION on."""

PAD, CLOSE = 1, 2
"""BART's padding and its end of a text."""

# Bounds for the numbers in a damaged file, which would otherwise ask for all memory.
Width = Annotated[int, Bounds(1, 100_000)]
Depth = Annotated[int, Bounds(1, 1000)]


@dataclass(frozen=True)
class Sizes:
    """``rows`` is the length of the embedding table with its added rows, ``labels`` how many indices have a row of
    their own, ``positions`` the longest text, ``region`` the width of a region's features."""

    rows: Annotated[int, Bounds(1, 10_000_000)] = 50_276
    labels: Depth = 6
    width: Width = 768
    layers: Depth = 6
    heads: Depth = 12
    ffn: Width = 3072
    positions: Width = 1024
    region: Width = 2048

    @property
    def words(self) -> int:
        """The index of the source's first place."""
        return REGION + self.labels
