"""DarkNet-53 (arXiv 1804.02767) as SeqTR uses it: three maps, of strides 8, 16 and 32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

OUTPUTS = (6, 8, 13)
"""The items whose output is taken as a map."""

FROZEN = 12
"""How many items, from the first, were not trained."""


class Convolution(nn.Module):
    """A convolution without bias, its normalisation, and a leaky rectifier."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, width, H / stride, W / stride)."""
        return nn.functional.leaky_relu(self.bn(self.conv(maps)), 0.1)


class Blocks(nn.Module):
    """Narrow and wide convolutions by turns, with or without a shortcut round each pair."""

    def __init__(self, width: int, count: int, shortcut: bool = True):
        super().__init__()
        pairs = [(Convolution(width, width // 2, 1), Convolution(width // 2, width, 3)) for _ in range(count)]
        self.module_list = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)
        self.shortcut = shortcut

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Of the shape of ``maps``."""
        for pair in self.module_list:
            maps = maps + pair(maps) if self.shortcut else pair(maps)
        return maps


class DarkNet53(nn.Module):
    """``widths`` are those of the stem and of the five levels; ``frozen`` items have no gradients.

    With ``drift`` the frozen items still normalise by their batch and updating their statistics in training, as the
    published training let them; else they stay as they were pre-trained.
    """

    def __init__(self, widths: Sequence[int], frozen: int = FROZEN, drift: bool = False):
        super().__init__()
        stem, first, second, third, fourth, fifth = widths
        self.darknet = nn.ModuleList(
            [
                Convolution(3, stem, 3),
                Convolution(stem, first, 3, 2),
                Blocks(first, 1),
                Convolution(first, second, 3, 2),
                Blocks(second, 2),
                Convolution(second, third, 3, 2),
                Blocks(third, 8),
                Convolution(third, fourth, 3, 2),
                Blocks(fourth, 8),
                Convolution(fourth, fifth, 3, 2),
                Blocks(fifth, 4),
                Blocks(fifth, 2, shortcut=False),
                Convolution(fifth, fourth, 1),
                Convolution(fourth, fifth, 3),
            ]
        )
        self.frozen, self.drift = frozen, drift
        for item in self.darknet[:frozen]:
            item.requires_grad_(False)

    def train(self, mode: bool = True) -> DarkNet53:
        """Training mode, in which frozen items stay in evaluation mode unless their statistics may drift."""
        super().train(mode)
        if not self.drift:
            for item in self.darknet[: self.frozen]:
                item.eval()
        return self

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Pictures (B, 3, H, W), RGB in 0..255, H and W multiples of 32, to the maps of OUTPUTS."""
        found, maps = [], pictures
        for number, item in enumerate(self.darknet):
            maps = item(maps)
            if number in OUTPUTS:
                found.append(maps)
        return found
