"""How the published models were trained: the optimiser, its rates, and the averaged weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

RATE = 5e-4
MOST_NORM = 0.15
EPOCHS = {"box": 60, "mask": 90, "both": 60}
DROP = {"box": 49, "mask": 74, "both": 49}
"""The epoch, from 0, with which the rate falls to a tenth."""

_WARM_UP = 5
_DECAY = 0.999


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam with the published settings."""
    return torch.optim.Adam(parameters, lr=RATE, betas=(0.9, 0.98), eps=1e-9, amsgrad=True)


def rate_factor(epoch: int, task: str) -> float:
    """What the rate is multiplied by in an epoch, from 0."""
    return (epoch + 1) / (_WARM_UP + 1) if epoch < _WARM_UP else 0.1 if epoch >= DROP[task] else 1.0


class Average:
    """The exponential moving average of a model's whole state, counters of batches among it."""

    def __init__(self, model: nn.Module):
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the model as it is after a step."""
        decay = min(_DECAY, (self.steps + 1) / (self.steps + 10))
        for name, value in model.state_dict().items():
            mean = self.state[name]
            mean.copy_(decay * mean + (1 - decay) * value)
        self.steps += 1
