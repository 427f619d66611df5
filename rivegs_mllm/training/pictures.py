"""The pictures of samples, checked before the first step: each is there, intact, and of the recorded size."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from accelerate import PartialState

from rivegs_mllm.data.images import check_aspect, open_picture
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.training.run.folder import on_main
from rivegs_mllm.types import Sample, UserError

Size = tuple[int, int]

_MAX_LISTED = 20


def check_pictures(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The samples, each with the size of its picture, which is decoded to its end.

    Raises UserError that lists the samples whose picture is missing, damaged, of another size than recorded, or of a
    shape that no model takes, and those with a mask of another size.
    """
    looked = on_main(lambda: measure_pictures(samples, folder, lambda path: open_picture(path).size))
    faults = [fault for _, fault in looked if fault]
    if faults:
        shown = "\n  ".join(faults[:_MAX_LISTED])
        raise UserError(
            f"{len(faults)} of {len(samples)} samples have no usable picture:\n  {shown}\n"
            f"`rivegs audit {folder}` lists them all"
        )
    return [sample for sample, _ in looked]


def measure_pictures(
    samples: Sequence[Sample], folder: Path, measure: Callable[[Path], Size]
) -> list[tuple[Sample, str]]:
    """Each sample with the size of its picture, and what is wrong with that, "" for nothing.

    ``measure`` gives a picture's (width, height) or raises UserError; each picture is measured once.
    """
    sizes = _measured({folder / sample.image for sample in samples if sample.image}, measure)
    return [_with_fault(sample, sizes.get(folder / sample.image)) for sample in samples]


def _with_fault(sample: Sample, size: Size | UserError | None) -> tuple[Sample, str]:
    if not sample.image:
        return sample, ""
    try:
        if isinstance(size, UserError):
            raise size
        check_aspect(size)
        if sample.size not in (None, size):
            raise UserError(f"recorded as {sample.size}, but {sample.image} is {size}")
        for mask in (mask for entity in sample.entities for mask in entity.masks):
            if mask.size != (size[1], size[0]):
                raise UserError(f"a mask of height x width {mask.size}, but {sample.image} is {size}")
    except UserError as error:
        return sample, f"{sample.id}: {error}"
    return dataclasses.replace(sample, size=size), ""


def _measured(paths: Iterable[Path], measure: Callable[[Path], Size]) -> dict[Path, Size | UserError]:
    """Threads are enough, since decoders release the interpreter's lock."""

    def size_or_error(path: Path) -> Size | UserError:
        try:
            return measure(path)
        except UserError as error:
            return error

    paths, quiet = list(paths), not PartialState().is_local_main_process
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = pool.map(size_or_error, paths)
        return dict(zip(paths, track(sizes, "pictures", len(paths), quiet), strict=True))
