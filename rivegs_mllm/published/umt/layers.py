"""A BERT layer whose keys and values may come from elsewhere, under the names of the published weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.umt.sizes import Sizes

_EPSILON = 1e-12  # BERT's
_DROPOUT = 0.1  # BERT's, too


class _Heads(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.heads = heads

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            layer(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, own in ((self.query, states), (self.key, others), (self.value, others))
        )
        dropout = _DROPOUT if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], dropout)
        return found.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """A linear layer, the sum with what it is added to, and the sum's normalisation."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, _EPSILON)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, states: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(to + self.dropout(self.dense(states)))


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.self = _Heads(sizes.width, sizes.heads)
        self.output = _Output(sizes.width, sizes.width)


class _Intermediate(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.dense = nn.Linear(sizes.width, sizes.ffn)


class _Layer(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.attention = _Attention(sizes)
        self.intermediate = _Intermediate(sizes)
        self.output = _Output(sizes.ffn, sizes.width)

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states = self.attention.output(self.attention.self(states, others, mask), states)
        return self.output(F.gelu(self.intermediate.dense(states)), states)


class Layer(nn.Module):
    """One layer: ``states`` (B, n, width) attend to ``others`` (B, m, width) where ``mask`` (B, m) is true."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.layer = nn.ModuleList([_Layer(sizes)])

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, n, width)."""
        return self.layer[0](states, others, mask)
