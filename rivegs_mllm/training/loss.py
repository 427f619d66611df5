"""The loss of an answer, from logits at the answer's positions only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from rivegs_mllm.training.dataset.rows import IGNORED
from rivegs_mllm.types import UserError


def answer_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, count: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Weighted cross-entropy of the next token, summed over the targets and divided by ``count``.

    ``logits`` (rows, columns, vocabulary) are of the batch's last columns, as ``logits_to_keep = columns`` gives them,
    ``labels`` and ``weights`` (rows, columns) of the same columns, as the collator makes them: column i predicts the
    label of column i + 1. ``count`` is the number of targets in the whole step, over all processes and accumulated
    batches; None takes those of this batch. Weights are not divided by again, so they scale a segment's share of the
    loss. Only the targets' logits are converted to float32, which of a vocabulary of 152k is what takes memory.
    """
    targets = labels[:, 1:]
    used = targets.ne(IGNORED)
    losses = cross_entropy(logits[:, :-1][used].float(), targets[used], reduction="none")
    return (losses * weights[:, 1:][used]).sum() / (used.sum() if count is None else count)


def check_finite(loss: torch.Tensor, step: int, posts: Sequence[str]) -> None:
    """Raises UserError with the ids of the batch's ``posts`` where the loss of ``step`` is infinite or no number, since
    the gradients of such a step would leave no weight a number."""
    if not torch.isfinite(loss):
        raise UserError(
            f"step {step}: the loss is {loss.item()}; the posts of this batch are {', '.join(posts)}. Look at them "
            "(`rivegs preview`), lower train.learning_rate, or train in bfloat16 or float32 if it was float16"
        )
