"""The settings of a recipe of ``rivegs distill``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rivegs_mllm.config.bounds import Concurrency, NonNegativeFloat, NonNegativeInt, PositiveInt, check_bounds
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.distill.tasks import Task
from rivegs_mllm.llm.client import Chat, RetryPolicy, Sampling
from rivegs_mllm.types import UserError


@dataclass
class DistillData:
    """A dataset folder, which of its splits, and how many posts of each from its start; null for all."""

    folder: Path
    splits: list[str] = field(default_factory=lambda: ["train"])
    posts: PositiveInt | None = None
    image_root: Path | None = None
    """A folder whose pictures may be sent too; others from outside ``folder`` are not."""


@dataclass
class Prices:
    """What a million tokens cost, in any currency; 0 for a teacher that you run yourself."""

    prompt: NonNegativeFloat = 0.0
    completion: NonNegativeFloat = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """The cost of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Limits:
    """How many questions and retries the teacher is sent, and when a run stops by itself."""

    max_concurrency: Concurrency = 16
    """How many questions are open at a time."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_consecutive_failures: PositiveInt = 50
    """So many questions that failed one after the other stop the run: something is wrong with the teacher."""
    max_requests: NonNegativeInt | None = None
    """Requests that this run may send, those that are tried again among them."""
    max_cost: NonNegativeFloat | None = None
    """The most that the store may cost in all its runs together; a run stops before that could be exceeded."""


@dataclass
class DistillRecipe:
    """A teacher is asked about every post of a dataset, and its answers are kept in a store."""

    data: DistillData
    store: Path
    task: Task
    teacher: Chat
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    prices: Prices = field(default_factory=Prices)
    licence: str = ""
    """The licence of the teacher's answers, as far as it is known, for the dataset card."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.limits.max_cost is not None and not (self.prices.prompt or self.prices.completion):
            raise UserError("limits.max_cost: nothing costs anything; say prices.prompt and prices.completion")


def read_distill(path: Path | str, overrides: Sequence[str] = ()) -> DistillRecipe:
    """The recipe in a YAML file. Raises UserError that names file and key."""
    return parse_recipe(DistillRecipe, path, overrides)
