"""Work on many picture files at once, with a progress bar on the error stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from rivegs_mllm.data.images import PictureError

Result = TypeVar("Result")


class _Rate(ProgressColumn):
    """rich has a rate for bytes only."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f}/s")


def for_each_picture(work: Callable[[str], Result], paths: Sequence[str], threads: int) -> list[Result | PictureError]:
    """``work(path)`` of each path, in their order; the PictureError where it raises one.

    Threads, not processes: Pillow and the file system let go of the interpreter while they work.
    """

    def result_or_error(path: str) -> Result | PictureError:
        try:
            return work(path)
        except PictureError as error:
            return error

    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, ThreadPoolExecutor(threads) as pool:
        return list(progress.track(pool.map(result_or_error, paths), total=len(paths)))
