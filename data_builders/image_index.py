"""Work on many picture files at once, with a progress bar on the error stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rivegs_mllm.data.images import PictureError
from rivegs_mllm.runtime.progress import progress

Result = TypeVar("Result")


def for_each_picture(work: Callable[[str], Result], paths: Sequence[str], threads: int) -> list[Result | PictureError]:
    """``work(path)`` of each path, in their order; the PictureError where it raises one.

    Threads, not processes: Pillow and the file system release the interpreter's lock while they work.
    """

    def result_or_error(path: str) -> Result | PictureError:
        try:
            return work(path)
        except PictureError as error:
            return error

    with progress() as bars, ThreadPoolExecutor(threads) as pool:
        return list(bars.track(pool.map(result_or_error, paths), total=len(paths), description="pictures"))
