"""The optimiser that the published models were trained with: BERT's Adam, without correction of its bias."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

WARM_UP = 0.1  # the share of all steps, as published
_DECAY = 0.01  # as published


class BertAdam(torch.optim.Optimizer):
    """Adam whose gradients are clipped to length 1 tensor by tensor, with decay added to the step."""

    def __init__(self, groups: Iterable[dict], lr: float):
        super().__init__(groups, {"lr": lr, "weight_decay": _DECAY})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all parameters that have a gradient."""
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    self._move(value, group["lr"], group["weight_decay"])

    def _move(self, value: nn.Parameter, rate: float, decay: float) -> None:
        state = self.state[value]
        if not state:
            state.update(mean=torch.zeros_like(value), square=torch.zeros_like(value))
        torch.nn.utils.clip_grad_norm_(value, 1.0)
        # BERT's betas of 0.9 and 0.999, and its epsilon.
        state["mean"].lerp_(value.grad, 0.1)
        state["square"].mul_(0.999).addcmul_(value.grad, value.grad, value=0.001)
        move = state["mean"] / (state["square"].sqrt() + 1e-6) + decay * value
        value.sub_(rate * move)


def learning_rate_factor(done: float) -> float:
    """The factor of the learning rate when a share of all steps is done: 0 at the first step, up to 1 in the warm-up.

    BERT's first schedule continues from 0.9, as it counts the warm-up among the decay.
    """
    return done / WARM_UP if done < WARM_UP else 1 - done


def groups(model: nn.Module) -> list[dict]:
    """The parameters as the published optimiser groups them: biases and LayerNorm's weights without decay."""
    kept = {name: value for name, value in model.named_parameters() if value.requires_grad}
    free = {name for name in kept if "bias" in name or "LayerNorm.weight" in name}
    return [
        {"params": [value for name, value in kept.items() if name not in free]},
        {"params": [value for name, value in kept.items() if name in free], "weight_decay": 0.0},
    ]
