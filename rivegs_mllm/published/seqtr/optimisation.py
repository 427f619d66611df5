"""The training of the published models: the optimiser, its rates, and the averaged weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK

_EPOCHS = {BOX: 60, BOTH: 60, MASK: 90}  # as published, like all that follows
_DROP = {BOX: 49, BOTH: 49, MASK: 74}
"""The epoch, from 0, with which the rate falls to a tenth."""

_WARM_UP = 5  # epochs
_DECAY = 0.999  # of the averaged weights, a step


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
    """Adam with the published settings."""
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.98), eps=1e-9, amsgrad=True)


def learning_rate_factor(done: float, task: str) -> float:
    """The factor of the learning rate when a share of all epochs is done."""
    epoch = int(done * _EPOCHS[task] + 1e-6)  # 49/90 of 90 comes back just below 49
    return (epoch + 1) / (_WARM_UP + 1) if epoch < _WARM_UP else 0.1 if epoch >= _DROP[task] else 1.0


class WithAveragedWeights(nn.Module):
    """A model in training, and the exponential moving average of its whole state, counters of batches among it.

    ``follow`` updates the average after a step. ``mean`` is what is evaluated and saved.
    """

    def __init__(self, model: SeqTR):
        super().__init__()
        self.model = model
        self.mean = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def train(self, mode: bool = True) -> WithAveragedWeights:
        """Training mode, in which the average is only kept."""
        super().train(mode)
        self.mean.eval()
        return self

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of the model."""
        return self.model(**batch)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the average."""
        # At first the average follows quickly, or it would long be that of the untrained weights.
        decay = min(_DECAY, float((self.steps + 1) / (self.steps + 10)))
        state = self.model.state_dict()
        for name, mean in self.mean.state_dict().items():
            mean.copy_(decay * mean + (1 - decay) * state[name])
        self.steps += 1
