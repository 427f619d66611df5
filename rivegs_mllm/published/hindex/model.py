"""The model. The names of the weights are those of the published checkpoints, after ``seq2seq_model.``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.hindex.bart import Decoder, Encoder
from rivegs_mllm.published.hindex.sizes import CLOSE, END, PAD, REGION, Sizes

HEAD_DROPOUT = 0.3  # as published
# As in the original, with whose scores the tests compare these.
_MASKED_WORD_SCORE = -1e32
_MASKED_START_SCORE = -1e24
_MASKED_BOX_SCORE = -1e4


@dataclass(frozen=True)
class Memory:
    """The encoded batch: ``states`` (B, boxes + L, width) and their attention ``mask``, the projected
    ``regions`` (B, boxes, width), of which those that are ``present`` (B, boxes) can be written, and the source's
    ``ids`` (B, L)."""

    states: torch.Tensor
    mask: torch.Tensor
    regions: torch.Tensor
    present: torch.Tensor
    ids: torch.Tensor

    @property
    def boxes(self) -> int:
        """How many regions stand in front of the text."""
        return self.regions.shape[1]


@dataclass(frozen=True)
class Scores:
    """The scores at each place of the sequence: of the indices (B, n, words + L) and of the boxes (B, n, boxes)."""

    indices: torch.Tensor
    boxes: torch.Tensor


class _Encoder(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.bart_encoder = Encoder(sizes)


class _Decoder(nn.Module):
    """BART's decoder and what scores the indices."""

    def __init__(self, sizes: Sizes, first_label: int):
        super().__init__()
        self.decoder = Decoder(sizes)
        width = sizes.width
        self.encoder_mlp = nn.Sequential(
            nn.Linear(width, width), nn.Dropout(HEAD_DROPOUT), nn.ReLU(), nn.Linear(width, width)
        )
        own = [first_label + number for number in range(sizes.labels)]
        self.register_buffer("mapping", torch.tensor([0, CLOSE, *own]))
        self.dropout = nn.Dropout(HEAD_DROPOUT)


class HIndex(nn.Module):
    """Writes a post's names, types and regions. ``first_label`` is the table's row of the first label.

    ``as_published``: the encoder masks the present regions and attends to the missing ones; a missing one can be
    generated; and a region is present when its features sum to more than 0, by default when any is not 0. ``overlap``
    trains by which boxes overlap the entity's at all, and not by how much each does.
    """

    def __init__(self, sizes: Sizes, first_label: int, as_published: bool = False, overlap: bool = False):
        super().__init__()
        self.sizes = sizes
        self.as_published = as_published
        self.region_loss = overlap_loss if overlap else share_loss
        self.encoder = _Encoder(sizes)
        self.decoder = _Decoder(sizes, first_label)

    @property
    def table(self) -> nn.Embedding:
        """The rows of words and labels."""
        return self.encoder.bart_encoder.embed_tokens

    def present(self, features: torch.Tensor) -> torch.Tensor:
        """(B, boxes): which regions are present, of features (B, boxes, region)."""
        return features.sum(-1) > 0 if self.as_published else (features != 0).any(-1)

    def encode(self, ids: torch.Tensor, features: torch.Tensor) -> Memory:
        """The decoder's memory of texts ``ids`` (B, L), ended by CLOSE and padded, and of region ``features``
        (B, boxes, region)."""
        present, words = self.present(features), ids != PAD
        regions = self.encoder.bart_encoder.img_proj(features)
        shown = torch.cat((~present if self.as_published else present, words), 1)
        states = self.encoder.bart_encoder(ids, regions, shown)
        written = torch.ones_like(present) if self.as_published else present
        return Memory(states, torch.cat((present, words), 1), regions, written, ids)

    def score(self, indices: torch.Tensor, memory: Memory) -> Scores:
        """The scores of what follows each place of sequences (B, n) that begin with START."""
        states = self.decoder.dropout(self.states(indices, memory))
        drop, table = self.decoder.dropout, self.table
        mixed = self.decoder.encoder_mlp(memory.states)
        boxes = (mixed[:, : memory.boxes] + memory.regions) / 2
        words = (mixed[:, memory.boxes :] + drop(table(memory.ids))) / 2
        labels = drop(table(self.decoder.mapping[END:]))
        start = torch.full_like(states[..., :1], _MASKED_START_SCORE)
        of_words = (states @ words.mT).masked_fill(~_writable(memory.ids)[:, None], _MASKED_WORD_SCORE)
        of_boxes = (states @ boxes.mT).masked_fill(~memory.present[:, None], _MASKED_BOX_SCORE)
        return Scores(torch.cat((start, states @ labels.T, of_words), -1), of_boxes)

    def states(self, indices: torch.Tensor, memory: Memory) -> torch.Tensor:
        """(B, n, width): the decoder's states of sequences of indices."""
        ids = self.ids_of(indices, memory.ids)
        return self.decoder.decoder(ids, self.table(ids), memory.states, memory.mask)

    def ids_of(self, indices: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """BART's ids (B, n) of indices (B, n): labels' rows, the source's tokens, and padding after the first end."""
        labels = self.decoder.mapping[indices.clamp(max=self.sizes.words - 1)]
        words = source.gather(1, (indices - self.sizes.words).clamp(min=0))
        ids = torch.where(indices < self.sizes.words, labels, words)
        return ids.masked_fill((indices == END).cumsum(1) > 1, PAD)

    def forward(
        self, ids: torch.Tensor, features: torch.Tensor, indices: torch.Tensor, shares: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The loss of sequences ``indices`` (B, n) from START to END and padded with END.

        ``shares`` (regions, boxes) has a row for each REGION of the sequences, in their order: how much each box is
        the entity's. ``shares`` of no row leave the boxes' part 0.
        """
        scores = self.score(indices[:, :-1], self.encode(ids, features))
        tokens = token_loss(scores.indices, indices)
        boxes = scores.boxes[indices[:, :-1] == REGION]
        return {"loss": tokens + self.region_loss(boxes, shares), "tokens": tokens}


def _writable(ids: torch.Tensor) -> torch.Tensor:
    """(B, L): which places of the source can be written: its words' pieces, not its first or last token."""
    following = ids.roll(-1, 1).masked_fill(torch.arange(ids.shape[1], device=ids.device) == ids.shape[1] - 1, PAD)
    lasts = (ids == CLOSE) & (following == PAD)
    found = (ids != PAD) & ~lasts
    found[:, 0] = False
    return found


def token_loss(scores: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of scores (B, n - 1, ...) for sequences (B, n), up to each one's first END."""
    ended = (indices == END).cumsum(1)[:, :-1] > 0
    wanted = indices[:, 1:].masked_fill(ended, -100)
    return F.cross_entropy(scores.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100)


def share_loss(scores: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The divergence of the boxes' scores (regions, boxes) from what they should be, a mean over regions."""
    if len(shares) == 0:
        return scores.sum()
    return F.kl_div(scores.float().log_softmax(-1), shares, reduction="batchmean")


def overlap_loss(scores: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The published alternative: whether each box is any of the entity's, of (regions, boxes), a mean over all."""
    if len(shares) == 0:
        return scores.sum()
    return F.binary_cross_entropy_with_logits(scores.float(), (shares > 0).to(scores.dtype))
