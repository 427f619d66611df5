"""Boxes and outlines as tokens and back, and the loss.

Coordinates are pixels of the prepared picture, x before y; a token is the step of a coordinate in the picture's own
padded size, before it is padded to its batch's.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from rivegs_mllm.published.seqtr.sizes import BOX, MASK, Sizes

MISSING = -1.0
"""The coordinate of a point that an outline does not have."""

SMOOTHING = 0.1  # as published, like the weights
FIRST_WEIGHT = 1.5  # of a box's first token in the loss
END_WEIGHT = 0.1  # of an outline's ends, which missing points are, too
_TINY = 1.2e-7  # float32's epsilon, which the original adds to what it divides by


def quantise(points: torch.Tensor, padded: torch.Tensor, sizes: Sizes, as_published: bool = False) -> torch.Tensor:
    """Tokens of coordinates (B, 2 n), x and y by turns, in pictures padded to ``padded`` (B, 2), height and width.

    What is missing becomes the end. ``as_published``: -1 is truncated first, so that on a side longer than ``bins`` it
    becomes 0; and an edge on the border of the padded picture becomes the end, where else it is the last step.
    """
    sides = padded.flip(-1).repeat(1, points.shape[1] // 2).to(points)
    steps = (points / sides * sizes.bins).long()
    if as_published:
        return steps.masked_fill(steps < 0, sizes.end)
    return steps.clamp(0, sizes.bins - 1).masked_fill(points < 0, sizes.end)


def restore(tokens: torch.Tensor, padded: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """The coordinates (B, 2 n), in float64, of tokens, x and y by turns, in pixels of the padded picture."""
    sides = padded.flip(-1).repeat(1, tokens.shape[1] // 2)
    return (tokens * sides.float() / sizes.bins).double()


def targets(boxes: torch.Tensor, outlines: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """(B, places): the sequence to be written, of quantised boxes (B, 4) and outlines (B, 2 points).

    Of those only what the task asks for is read.
    """
    end = torch.full_like((outlines if sizes.task == MASK else boxes)[:, :1], sizes.end)
    if sizes.task == BOX:
        return torch.cat((boxes, end), 1)
    if sizes.task == MASK:
        return torch.cat((outlines, end), 1)
    return torch.cat((boxes, end, outlines, end), 1)


def decoder_inputs(sequence: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """The decoder's input under teacher forcing, tokens (B, length): edges and points of ``targets`` (B, places),
    without the ends that close box and mask."""
    if sizes.task in (BOX, MASK):
        return sequence[:, :-1]
    return torch.cat((sequence[:, :4], sequence[:, 5:-1]), 1)


def loss(scores: torch.Tensor, sequence: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Smoothed cross-entropy of scores (B, places, bins + 1), weighted and averaged over tokens.

    The smoothed target sums to less than one, as published: the right token's share of the smoothing is left out.
    """
    logs = F.log_softmax(scores.float(), -1)
    right = logs.gather(-1, sequence[..., None])[..., 0]
    each = -(1 - SMOOTHING) * right - SMOOTHING / logs.shape[-1] * (logs.sum(-1) - right)
    return (each * _weights(sequence, sizes)).sum() / (sequence.numel() + _TINY)


def _weights(sequence: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    weights = torch.ones_like(sequence, dtype=torch.float)
    if sizes.task == MASK:
        return weights.masked_fill(sequence == sizes.end, END_WEIGHT)
    weights[:, 0] = FIRST_WEIGHT
    return weights
