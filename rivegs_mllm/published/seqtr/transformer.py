"""SeqTR's transformer: an encoder over the places of the fused map, a decoder over the sequence."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.seqtr.sizes import GROUPS, Sizes

_TEMPERATURE = 10_000  # DETR's


class _Layer(nn.Module):
    """The parts that encoder and decoder layers share: self-attention, the feed-forward part and its residual."""

    def __init__(self, sizes: Sizes, dropout: float, norms: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(sizes.width, sizes.heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(sizes.width, sizes.ffn)
        self.linear2 = nn.Linear(sizes.ffn, sizes.width)
        self.dropout = nn.Dropout(dropout)
        for number in range(1, norms + 1):
            self.add_module(f"norm{number}", nn.LayerNorm(sizes.width))

    def widened(self, states: torch.Tensor) -> torch.Tensor:
        """The feed-forward part of ``states``, to be added to them."""
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(states)))))


class EncoderLayer(_Layer):
    """Normalised after each sum; positions are added to queries and keys, not to values."""

    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__(sizes, dropout, norms=2)

    def forward(self, states: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """(B, places, width); ``padding`` (B, places) is true where attention is masked."""
        placed = states + positions
        attended, _ = self.self_attn(placed, placed, states, key_padding_mask=padding, need_weights=False)
        states = self.norm1(states + self.dropout(attended))
        return self.norm2(states + self.widened(states))


class DecoderLayer(_Layer):
    """Causal self-attention, attention to the picture, and the feed-forward part."""

    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__(sizes, dropout, norms=3)
        self.multihead_attn = nn.MultiheadAttention(sizes.width, sizes.heads, dropout, batch_first=True)

    def forward(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        memory: torch.Tensor,
        keys: torch.Tensor,
        padding: torch.Tensor,
    ) -> torch.Tensor:
        """(B, length, width); ``memory`` are the values and ``keys`` the keys of the picture's places."""
        length = states.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        placed = states + positions
        attended, _ = self.self_attn(placed, placed, states, attn_mask=later, need_weights=False)
        states = self.norm1(states + self.dropout(attended))
        attended, _ = self.multihead_attn(
            states + positions, keys, memory, key_padding_mask=padding, need_weights=False
        )
        states = self.norm2(states + self.dropout(attended))
        return self.norm3(states + self.widened(states))


class _Projection(nn.Module):
    """A 1x1 convolution to the transformer's width, normalised over all places."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)
        self.gn = nn.GroupNorm(GROUPS, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.gn(self.conv(maps))


class _Positions(nn.Module):
    """One learnt vector a place of the sequence."""

    def __init__(self, places: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(places, width)

    def forward(self, length: int) -> torch.Tensor:
        return self.embedding.weight[:length]


class _Encoder(nn.Module):
    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(sizes, dropout) for _ in range(sizes.encoder_layers))


class _Decoder(nn.Module):
    def __init__(self, sizes: Sizes, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(sizes, dropout) for _ in range(sizes.decoder_layers))
        self.norm = nn.LayerNorm(sizes.width)


class Transformer(nn.Module):
    """From a map of ``channels`` and embedded sequences to the sequences' states."""

    def __init__(self, sizes: Sizes, channels: int, dropout: float = 0.1):
        super().__init__()
        self.input_proj = _Projection(channels, sizes.width)
        self.encoder = _Encoder(sizes, dropout)
        self.decoder = _Decoder(sizes, dropout)
        self.query_embedding = nn.Embedding(sizes.bins + 1, sizes.width)
        self.seq_positional_encoding = _Positions(sizes.places, sizes.width)

    def encode(self, maps: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory and its keys, each (B, H * W, width), of maps (B, channels, H, W) and ``padding`` (B, H, W)."""
        states = self.input_proj(maps).flatten(2).transpose(1, 2)
        positions = sine_positions(padding, states.shape[-1]).to(states.dtype)
        for layer in self.encoder.layers:
            states = layer(states, positions, padding.flatten(1))
        return states, states + positions

    def decode(
        self, sequence: torch.Tensor, memory: torch.Tensor, keys: torch.Tensor, padding: torch.Tensor
    ) -> torch.Tensor:
        """(B, length, width): the states of an embedded sequence; ``padding`` (B, H * W)."""
        positions = self.seq_positional_encoding(sequence.shape[1])
        for layer in self.decoder.layers:
            sequence = layer(sequence, positions, memory, keys, padding)
        return self.decoder.norm(sequence)


def sine_positions(padding: torch.Tensor, width: int) -> torch.Tensor:
    """DETR's positions (arXiv 2005.12872) of places (B, H, W) that are not ignored: (B, H * W, width), y before x."""
    attended = (~padding).float()
    rows, columns = attended.cumsum(1), attended.cumsum(2)
    rows = rows / (rows[:, -1:] + 1e-6) * 2 * math.pi  # DETR's 1e-6: a column may be all padding
    columns = columns / (columns[:, :, -1:] + 1e-6) * 2 * math.pi
    steps = torch.arange(width // 2, device=padding.device)
    rates = _TEMPERATURE ** (2 * (steps // 2) / (width // 2))
    halves = []
    for counts in (rows, columns):
        angles = counts[..., None] / rates
        halves.append(torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), -1).flatten(3))
    return torch.cat(halves, -1).flatten(1, 2)


def padding_mask(shapes: torch.Tensor, size: tuple[int, int], places: tuple[int, int]) -> torch.Tensor:
    """(B, *places), true outside the picture.

    ``shapes`` (B, 2) are the pictures' heights and widths within the batch of ``size``; a cell's upper left pixel
    decides.
    """
    rows = torch.arange(size[0], device=shapes.device)[None, :, None] >= shapes[:, 0, None, None]
    columns = torch.arange(size[1], device=shapes.device)[None, None, :] >= shapes[:, 1, None, None]
    return F.interpolate((rows | columns).float()[:, None], places, mode="nearest")[:, 0].bool()
