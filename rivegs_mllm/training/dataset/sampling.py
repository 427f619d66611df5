"""The order of the rows in an epoch, and the variant of each row that an epoch draws."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, Protocol, TypeVar

import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from rivegs_mllm.types import UserError

Row = TypeVar("Row")
VARIANT_STRATEGIES = ("draw", "copies", "first")


class EpochAware(Protocol):
    """A dataset with another content in each epoch, which is set before the epoch's batches are drawn."""

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch, which counts from 0."""


class LengthGroupedSampler(Sampler):
    """Indices in an order shuffled each epoch, in which ``batch_size`` neighbours are of about equal length.

    The longest row is in the first batch, so that memory runs out at once or never; the others come in any order.
    Sorted within each megabatch, as transformers draws them, they would take a model from long answers to short ones
    again and again, and end the epoch with the shortest.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the draw of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        # A prime, so that no two pairs of seed and epoch share an order before epoch 100,003.
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        first, *others = (order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size))
        short = [others.pop()] if others and len(others[-1]) < self.batch_size else []
        drawn = [others[place] for place in torch.randperm(len(others), generator=generator).tolist()]
        return chain(first, *drawn, *short)


class MultiVariantDataset(Dataset, Generic[Row]):
    """Training rows that each come in one or more variants, such as one a knowledge text (mixed-LLM augmentation).

    ``strategy`` is "draw": one variant of each row an epoch, by seed, epoch and the row's place, so that a resumed run
    draws the same; "copies": every variant is a row of its own, the fivefold copying of RiVEG; "first": always the
    first. ``variants`` holds each row's, at least one.
    """

    def __init__(self, variants: Sequence[Sequence[Row]], strategy: str, seed: int):
        if strategy not in VARIANT_STRATEGIES:
            raise UserError(f"{strategy!r} is none of {', '.join(map(repr, VARIANT_STRATEGIES))}")
        if strategy == "copies":
            variants = [(variant,) for row in variants for variant in row]
        elif strategy == "first":
            variants = [row[:1] for row in variants]
        self.variants = variants
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # for workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes the draw of this epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.variants)

    def __getitem__(self, index: int) -> Row:
        return random.Random(f"{self.seed}/{int(self.epoch)}/{index}").choice(self.variants[index])

    def lengths(self, measure: Callable[[Row], int]) -> list[int]:
        """The measure of each row's longest variant."""
        return [max(map(measure, row)) for row in self.variants]


class SetEpochCallback(TrainerCallback):
    """Tells sampler and dataset the epoch: accelerate's loaders reach one of them alone, on resume at times none."""

    def __init__(self, sampler: LengthGroupedSampler, dataset: EpochAware):
        self.sampler = sampler
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **_):
        """Called before the epoch's batches are drawn; a resumed run is some way into its epoch."""
        self.sampler.set_epoch(int(state.epoch))
        self.dataset.set_epoch(int(state.epoch))


def length_grouped_sampler(lengths: Sequence[int], arguments) -> LengthGroupedSampler:
    """The sampler of a run with these TrainingArguments: one step of all processes has rows of about equal length."""
    batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    return LengthGroupedSampler(lengths, batch_size, seed)
