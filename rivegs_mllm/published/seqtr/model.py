"""The model: picture and expression, fused by a product, and the sequence that is written from them.

The names of the weights are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.seqtr.darknet import FROZEN, Convolution, DarkNet53
from rivegs_mllm.published.seqtr.sizes import BOTH, Sizes
from rivegs_mllm.published.seqtr.tokens import decoder_inputs, loss
from rivegs_mllm.published.seqtr.transformer import Transformer, padding_mask

PAD, UNKNOWN = 0, 1


@dataclass(frozen=True)
class Memory:
    """A batch as the decoder sees it: values and keys (B, places, width), and which places are masked."""

    values: torch.Tensor
    keys: torch.Tensor
    padding: torch.Tensor


class LanguageEncoder(nn.Module):
    """Frozen word vectors and a bidirectional GRU over the padded row: the backward half begins in the padding."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.embedding = nn.Embedding(sizes.words, sizes.word_width)
        self.embedding.requires_grad_(False)
        self.lstm = nn.GRU(sizes.word_width, sizes.gru, batch_first=True, bidirectional=True)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """(B, 2 * gru): the maximum over the words of ``words`` (B, length), each row of which has one at least."""
        states, _ = self.lstm(self.embedding(words))
        return states.masked_fill((words == PAD)[..., None], -torch.inf).amax(1)


class Fusion(nn.Module):
    """The backbone's three maps, brought to the coarsest."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        fine, middle, coarse = widths
        self.down_bot2mid = nn.Sequential(nn.AvgPool2d(2), Convolution(fine, fine, 3))
        self.down_mid2top = nn.Sequential(nn.AvgPool2d(2), Convolution(fine + middle, fine + middle, 3))
        every = fine + middle + coarse
        self.top_project = nn.Sequential(Convolution(every, every, 3), Convolution(every, coarse, 1))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, coarse, H, W)."""
        fine, middle, coarse = maps
        middle = torch.cat((self.down_bot2mid(fine), middle), 1)
        coarse = torch.cat((self.down_mid2top(middle), coarse), 1)
        return self.top_project(coarse)


class MapFusion(nn.Module):
    """A single given map, brought to the expression's width."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.top_project = nn.Sequential(Convolution(channels, width, 3), Convolution(width, width, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) of ``maps`` (B, channels, H, W)."""
        return self.top_project(maps)


def product(maps: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
    """Maps (B, width, H, W) and expressions (B, width), each squashed to -1..1, multiplied."""
    return maps.tanh() * expression.tanh()[..., None, None]


class Predictor(nn.Module):
    """A fully connected layer."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.fc = nn.Linear(width, outputs)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., outputs) of states (..., width)."""
        return self.fc(states)


class Head(nn.Module):
    """The transformer, and what scores the tokens."""

    def __init__(self, sizes: Sizes, channels: int):
        super().__init__()
        self.transformer = Transformer(sizes, channels)
        width = sizes.width
        self.predictor = nn.ModuleList(Predictor(width, out) for out in (width, width, sizes.bins + 1))
        self.task_embedding = nn.Embedding(2, width) if sizes.task == BOTH else None

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """(..., bins + 1) of states (..., width)."""
        first, second, last = self.predictor
        return last(F.relu(second(F.relu(first(states)))))


class SeqTR(nn.Module):
    """Writes the box or mask of an expression. ``as_published`` keeps what is doubtful in the original:

    the frozen items' statistics drift in training; a missing point is cell 0 on a picture of more pixels than there
    are bins; an edge on the picture's border is the end of the sequence; an outline of two points is a box; and a mask
    in the original picture is that of the padded one, squeezed.
    """

    def __init__(self, sizes: Sizes, frozen: int = FROZEN, as_published: bool = False):
        super().__init__()
        self.sizes = sizes
        self.as_published = as_published
        self.lan_enc = LanguageEncoder(sizes)
        if sizes.darknet:
            self.vis_enc = DarkNet53(sizes.darknet, frozen, drift=as_published)
            self.fusion = Fusion(sizes.darknet[3:])
        else:
            self.vis_enc = nn.Identity()
            self.fusion = MapFusion(sizes.channels, 2 * sizes.gru)
        self.head = Head(sizes, sizes.darknet[-1] if sizes.darknet else 2 * sizes.gru)

    def fuse(self, pictures: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) of pictures (B, 3, height, width), or of the given maps, and words (B, length).

        A single picture is encoded once for all expressions.
        """
        return product(self.fusion(self.vis_enc(pictures)), self.lan_enc(words))

    def encode(self, pictures: torch.Tensor, words: torch.Tensor, shapes: torch.Tensor) -> Memory:
        """The decoder's memory. ``shapes`` (B, 2): height and width of each picture without its padding, or of
        the given maps. Arguments as of ``fuse``."""
        fused = self.fuse(pictures, words)
        return self.encode_fused(fused, shapes.expand(len(fused), -1), tuple(pictures.shape[-2:]))

    def encode_fused(self, fused: torch.Tensor, shapes: torch.Tensor, size: tuple[int, int]) -> Memory:
        """As ``encode``, of a fused map (B, channels, H, W); ``size`` is height and width of the batch's pictures."""
        padding = padding_mask(shapes, size, tuple(fused.shape[-2:]))
        values, keys = self.head.transformer.encode(fused, padding)
        return Memory(values, keys, padding.flatten(1))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, length + 1, width): a sequence's tokens (B, length) after its start, at most ``places`` long.

        A sequence of box and mask begins with the box's task; after the four edges comes the mask's, so that its
        tokens are edges and points alone.
        """
        embedded = self.head.transformer.query_embedding(tokens)
        if self.head.task_embedding is None:
            start = embedded.new_zeros(len(tokens), 1, self.sizes.width)
            return torch.cat((start, embedded), 1)
        box, mask = (task.expand(len(tokens), 1, -1) for task in self.head.task_embedding.weight)
        if tokens.shape[1] < 4:
            return torch.cat((box, embedded), 1)
        return torch.cat((box, embedded[:, :4], mask, embedded[:, 4:]), 1)

    def score(self, tokens: torch.Tensor, memory: Memory) -> torch.Tensor:
        """(B, length, bins + 1): the scores of the token that follows each place of ``embed(tokens)``."""
        states = self.head.transformer.decode(self.embed(tokens), memory.values, memory.keys, memory.padding)
        return self.head.scores(states)

    def forward(
        self, pictures: torch.Tensor, words: torch.Tensor, shapes: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Loss and scores (B, places, bins + 1), with teacher forcing; arguments as of ``encode`` and ``loss``."""
        scores = self.score(decoder_inputs(targets, self.sizes), self.encode(pictures, words, shapes))
        return {"loss": loss(scores, targets, self.sizes), "scores": scores}
