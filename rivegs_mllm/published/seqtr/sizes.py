"""The sizes of a SeqTR model, by default those of the published configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rivegs_mllm.config.bounds import Bounds, OneOf
from rivegs_mllm.types import UserError

BOX, MASK, BOTH = "box", "mask", "both"
TASKS = (BOX, MASK, BOTH)

GROUPS = 32
"""Of channels that are normalised together where the fused map enters the transformer."""

# Bounds for the numbers in a damaged file, which would otherwise ask for all memory.
Count = Annotated[int, Bounds(1, 10_000_000)]
Width = Annotated[int, Bounds(1, 100_000)]
Depth = Annotated[int, Bounds(1, 1000)]


@dataclass(frozen=True)
class Sizes:
    """``words`` is the length of the vocabulary; ``task`` what the sequence holds; ``bins`` the steps of a coordinate,
    ``points`` the points of a mask's outline.

    ``darknet`` has the six widths of DarkNet-53, or is empty for a model without a backbone of its own, which is given
    maps of ``channels`` instead.
    """

    words: Count
    task: Annotated[str, OneOf(TASKS)] = BOX
    points: Depth = 18
    bins: Width = 1000
    word_width: Width = 300
    gru: Width = 512
    darknet: tuple[Width, ...] = (32, 64, 128, 256, 512, 1024)
    channels: Annotated[int, Bounds(0, 100_000)] = 0
    width: Width = 256
    heads: Depth = 8
    ffn: Width = 1024
    encoder_layers: Depth = 6
    decoder_layers: Depth = 3

    def __post_init__(self) -> None:
        if self.darknet and self.darknet[-1] != 2 * self.gru:
            raise UserError(f"gru: {self.gru}; a word is multiplied with DarkNet's last map, so it is half its width")
        if self.width % self.heads or self.width % GROUPS:
            raise UserError(f"width: {self.width} is no multiple of heads, {self.heads}, and of {GROUPS}")

    @property
    def end(self) -> int:
        """The token that ends a sequence."""
        return self.bins

    @property
    def box_places(self) -> int:
        """The places of the sequence up to the end of its box."""
        return 0 if self.task == MASK else 5

    @property
    def mask_places(self) -> int:
        """The places of the sequence that are the mask's."""
        return 0 if self.task == BOX else 2 * self.points + 1

    @property
    def places(self) -> int:
        """The length of the sequence."""
        return self.box_places + self.mask_places
