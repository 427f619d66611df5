"""Predictions that are written as they come, so that a run goes on where it was cut off; and its progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.types import Prediction, Sample, UserError


def load_partial(partial: Path, samples: Sequence[Sample], cure: str) -> list[Prediction]:
    """The predictions that an earlier try left in ``partial``, its last line taken back where it was cut off.

    Raises UserError, with ``cure``, unless they are of the first of ``samples``, in their order.
    """
    if not partial.exists():
        return []
    with partial.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    done = read_predictions(partial)
    if [prediction.id for prediction in done] != [sample.id for sample in samples[: len(done)]]:
        raise UserError(f"{partial} does not hold these posts in this order; {cure}")
    return done


class _Rate(ProgressColumn):
    """Answers a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def progress() -> Progress:
    """A bar a task, with how many are done, how many a second, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
