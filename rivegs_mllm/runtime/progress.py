"""Progress: a bar on a terminal; elsewhere, as in a batch job's log, nothing or a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import rich.progress
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

SECONDS = 30.0
"""Between two lines, at least."""

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int | None = None, quiet: bool = False) -> Iterable[Item]:
    """The items, with a bar that disappears after the last; without one where ``quiet`` or off a terminal."""
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    return rich.progress.track(items, what, total, console=console, transient=True, disable=hidden)


class RateColumn(ProgressColumn):
    """Items a second; rich has such a column for bytes only."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def progress(quiet: bool = False) -> Progress:
    """A bar a task, with how many are done, how many a second, and the time that is left; nothing where ``quiet``."""
    return Progress(TextColumn("{task.description}"), *_columns(), console=Console(stderr=True), disable=quiet)


def _columns() -> tuple[ProgressColumn, ...]:
    return BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn()


class ProgressReporter:
    """``with ProgressReporter(questions) as live``, and ``live.advance(...)`` with each answer."""

    def __init__(self, total: int, console: Console | None = None):
        self.total = total
        self.console = console or Console(stderr=True, soft_wrap=True)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.progress = Progress(
            TextColumn("{task.description}"), *columns, console=self.console, disable=not self.console.is_terminal
        )
        self.bar = self.progress.add_task("answers", total=total, note="")
        self.done = 0
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> ProgressReporter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, cost: float, failed: int) -> None:
        """One more answer. ``cost`` is what the store has cost so far, ``failed`` how many questions failed."""
        self.done += 1
        note = ", ".join(
            part for part in (f"cost {cost:,.2f}" if cost else "", f"{failed:,} failed" if failed else "") if part
        )
        self.progress.update(self.bar, advance=1, note=note)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.printed >= SECONDS:
            self.printed = now
            rate = self.done / (now - self.started)
            left = timedelta(seconds=round((self.total - self.done) / rate))
            line = f"{self.done:,} of {self.total:,} answers, {rate:.1f}/s, {left} left"
            self.console.print(f"{line}, {note}" if note else line, highlight=False)
