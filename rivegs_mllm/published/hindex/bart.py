"""BART's layers (arXiv 1910.13461), normalised after each sum, under the names of transformers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.hindex.sizes import PAD, Sizes

DROPOUT = 0.1  # BART's
_OFFSET = 2  # BART's table of positions begins with two rows that no position uses


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = sizes.heads

    def forward(self, states: torch.Tensor, others: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, n, width): ``states`` attend to ``others`` (B, m, width) where ``mask``, (B or 1, n or 1, m), is true."""
        query, key, value = (
            layer(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, own in ((self.q_proj, states), (self.k_proj, others), (self.v_proj, others))
        )
        found = F.scaled_dot_product_attention(query, key, value, mask[:, None])
        return self.out_proj(found.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Self-attention and the feed-forward part."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.self_attn = Attention(sizes)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1, self.fc2 = nn.Linear(sizes.width, sizes.ffn), nn.Linear(sizes.ffn, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)
        self.dropout = nn.Dropout(DROPOUT)

    def attended(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The states after self-attention, (B, n, width)."""
        return self.self_attn_layer_norm(states + self.dropout(self.self_attn(states, states, mask)))

    def widened(self, states: torch.Tensor) -> torch.Tensor:
        """The states after the feed-forward part, (B, n, width)."""
        return self.final_layer_norm(states + self.dropout(self.fc2(F.gelu(self.fc1(states)))))

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, n, width); ``mask`` as of ``Attention``."""
        return self.widened(self.attended(states, mask))


class DecoderLayer(EncoderLayer):
    """An encoder's layer with attention to the encoder's states between its two parts."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.encoder_attn = Attention(sizes)
        self.encoder_attn_layer_norm = nn.LayerNorm(sizes.width)

    def forward(
        self, states: torch.Tensor, mask: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> torch.Tensor:
        """(B, n, width); ``memory`` (B, m, width) is attended to where ``memory_mask`` (B, 1, m) is true."""
        states = self.attended(states, mask)
        found = self.encoder_attn(states, memory, memory_mask)
        return self.widened(self.encoder_attn_layer_norm(states + self.dropout(found)))


class _Stack(nn.Module):
    """Layers over embedded words with their places."""

    def __init__(self, sizes: Sizes, layer: type[EncoderLayer]):
        super().__init__()
        self.embed_positions = nn.Embedding(sizes.positions + _OFFSET, sizes.width)
        self.layernorm_embedding = nn.LayerNorm(sizes.width)
        self.layers = nn.ModuleList(layer(sizes) for _ in range(sizes.layers))
        self.dropout = nn.Dropout(DROPOUT)

    def placed(self, words: torch.Tensor) -> torch.Tensor:
        """(B, n, width), of the rows of words (B, n, width)."""
        places = self.embed_positions.weight[_OFFSET : _OFFSET + words.shape[1]]
        return self.dropout(self.layernorm_embedding(words + places))


class Encoder(_Stack):
    """BART's encoder, with regions in front of the text. It holds the rows of words, which the decoder reads by too."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes, EncoderLayer)
        self.embed_tokens = nn.Embedding(sizes.rows, sizes.width)
        self.img_proj = nn.Linear(sizes.region, sizes.width)

    def forward(self, ids: torch.Tensor, regions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, boxes + n, width), of ids (B, n) and projected regions (B, boxes, width); ``mask`` (B, boxes + n)."""
        states = torch.cat((regions, self.placed(self.embed_tokens(ids))), 1)
        for layer in self.layers:
            states = layer(states, mask[:, None])
        return states


class Decoder(_Stack):
    """BART's decoder."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes, DecoderLayer)

    def forward(
        self, ids: torch.Tensor, words: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor
    ) -> torch.Tensor:
        """(B, n, width), of ids (B, n) and their rows; ``memory_mask`` (B, m). Padding after the end is attended to
        by itself alone."""
        length = ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        mask = earlier & ((ids != PAD)[:, None] | itself)
        states = self.placed(words)
        for layer in self.layers:
            states = layer(states, mask, memory, memory_mask[:, None])
        return states
