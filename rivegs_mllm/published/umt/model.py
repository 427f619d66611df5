"""The model. The names of the weights are those of the published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import BertConfig, BertModel

from rivegs_mllm.published.umt.labels import auxiliary_label_weights
from rivegs_mllm.published.umt.layers import Layer
from rivegs_mllm.published.umt.sizes import Sizes

AUXILIARY_SHARE = 0.5
"""Of the auxiliary loss in the loss (alpha), and of the auxiliary scores in the scores (beta)."""


@dataclass(frozen=True)
class States:
    """The states of a batch: ``text`` (B, T, width) the words' own, ``picture`` (B, 49, width) the regions', ``fused``
    (B, T, 2 width) both; and the scores of the two fields, ``scores`` and ``auxiliary`` (B, T, labels)."""

    text: torch.Tensor
    picture: torch.Tensor
    fused: torch.Tensor
    scores: torch.Tensor
    auxiliary: torch.Tensor


@dataclass(frozen=True)
class Features:
    """One vector a post, (B, width), of ``fused`` (B, 2 width)."""

    text: torch.Tensor
    image: torch.Tensor
    fused: torch.Tensor


class UMT(nn.Module):
    """Text and the regions of a picture to the labels of word-pieces.

    ``text`` is an encoder that takes BERT's arguments, None for BERT of ``sizes``, as published.
    """

    def __init__(self, sizes: Sizes, text: nn.Module | None = None):
        from torchcrf import CRF  # of the extra `cascade`

        super().__init__()
        self.sizes = sizes
        self.bert = text or BertModel(bert_config(sizes))
        self.dropout = nn.Dropout(0.1)  # BERT's
        self.self_attention = Layer(sizes)
        self.self_attention_v2 = Layer(sizes)
        self.vismap2text = nn.Linear(sizes.channels, sizes.width)
        self.vismap2text_v2 = nn.Linear(sizes.channels, sizes.width)
        self.txt2img_attention = Layer(sizes)
        self.img2txt_attention = Layer(sizes)
        self.txt2txt_attention = Layer(sizes)
        self.gate = nn.Linear(2 * sizes.width, sizes.width)
        self.classifier = nn.Linear(2 * sizes.width, len(sizes.labels))
        self.aux_classifier = nn.Linear(sizes.width, len(sizes.auxiliary))
        self.crf = CRF(len(sizes.labels), batch_first=True)
        self.aux_crf = CRF(len(sizes.auxiliary), batch_first=True)
        self.register_buffer("spread", auxiliary_label_weights(sizes.types), persistent=False)

    def encode(
        self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, mask: torch.Tensor, regions: torch.Tensor
    ) -> States:
        """``input_ids``, ``token_type_ids`` and ``mask`` (B, T); ``regions`` (B, 49, channels), row by row."""
        states = self.bert(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=mask).last_hidden_state
        states, valid = self.dropout(states), mask.bool()
        everywhere = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        auxiliary = self.aux_classifier(self.self_attention(states, states, valid))
        text = self.self_attention_v2(states, states, valid)
        aware = self.txt2img_attention(text, self.vismap2text(regions), everywhere)
        picture = self.img2txt_attention(self.vismap2text_v2(regions), text, valid)
        through = self.txt2txt_attention(text, picture, everywhere)
        gate = self.gate(torch.cat((through, aware), -1)).sigmoid()
        fused = torch.cat((through, gate * aware), -1)
        known = AUXILIARY_SHARE * (auxiliary @ self.spread)
        scores = (1 - AUXILIARY_SHARE) * self.classifier(fused) + known
        return States(text, picture, fused, scores, auxiliary)

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor,
        mask: torch.Tensor,
        regions: torch.Tensor,
        tags: torch.Tensor,
        auxiliary_tags: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The loss, a mean over rows; tags (B, T) are indices of the fields' labels, other arguments of ``encode``."""
        states, valid = self.encode(input_ids, token_type_ids, mask, regions), mask.bool()
        # In float32, since the field sums over all paths.
        main = -self.crf(states.scores.float(), tags, valid, reduction="mean")
        auxiliary = -self.aux_crf(states.auxiliary.float(), auxiliary_tags, valid, reduction="mean")
        return {"loss": main + AUXILIARY_SHARE * auxiliary, "main": main, "auxiliary": auxiliary}

    def decode(self, states: States, mask: torch.Tensor) -> list[list[int]]:
        """The likeliest labels of each row's tokens, by the first field alone; ``mask`` (B, T)."""
        return self.crf.decode(states.scores.float(), mask.bool())


def features(states: States, mask: torch.Tensor) -> Features:
    """The means over tokens, special ones among them, where ``mask`` (B, T) is 1, and over regions."""
    weights = (mask / mask.sum(1, keepdim=True))[..., None].to(states.text)
    return Features((states.text * weights).sum(1), states.picture.mean(1), (states.fused * weights).sum(1))


def bert_config(sizes: Sizes) -> BertConfig:
    """BERT of these sizes."""
    return BertConfig(
        vocab_size=sizes.words,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.ffn,
        max_position_embeddings=sizes.positions,
        type_vocab_size=sizes.token_types,
    )
