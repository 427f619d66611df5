"""Pictures however they are given, as files that every stage can open."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from rivegs_mllm.data.images import as_rgb, open_picture
from rivegs_mllm.types import UserError

Picture: TypeAlias = "str | Path | bytes | Image.Image | np.ndarray | None"
"""A file; a file's bytes; a picture of Pillow in any mode; an array of (height, width), (height, width, 3) or (height,
width, 4), uint8 or floats from 0 to 1; None for none."""


@contextmanager
def as_file(picture: Picture) -> Iterator[str]:
    """The absolute path of a picture's file, "" for None; within the block only where it was no file before.

    A file is not opened here: a missing one is reported by the stage that opens it. Raises UserError for what is of
    none of the kinds above.
    """
    if picture is None:
        yield ""
    elif isinstance(picture, (str, Path)):
        yield str(Path(picture).absolute())
    else:
        content = picture if isinstance(picture, bytes) else _png(_decoded(picture))
        with tempfile.NamedTemporaryFile(prefix="rivegs-", suffix=".png") as file:
            file.write(content)
            file.flush()
            yield file.name


def in_memory(picture: Picture) -> Image.Image | None:
    """The picture decoded, upright, in mode RGB. Raises PictureError for a file or bytes that are none."""
    return None if picture is None else _decoded(picture)


def _decoded(picture: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, (str, Path)):
        return open_picture(picture)
    if isinstance(picture, bytes):
        return open_picture(io.BytesIO(picture))
    if isinstance(picture, Image.Image):
        return as_rgb(picture)
    if isinstance(picture, np.ndarray):
        return as_rgb(_from_array(picture))
    raise UserError(f"a picture is a path, bytes, a PIL.Image or a NumPy array, not {type(picture).__name__}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise UserError(
            f"a picture's array has the shape (height, width) or (height, width, 3 or 4), not {array.shape}"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UserError("a picture's array of floats has values from 0 to 1; divide it by 255")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"a picture's array is of uint8, or of floats from 0 to 1, not {array.dtype}")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # without loss, and quick
    return buffer.getvalue()
