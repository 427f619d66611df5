"""Pictures for reports: opened upright, made small, carried inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps


class PictureError(Exception):
    """A picture that cannot be shown; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG as a data URI; ``width`` and ``height`` are those of the ORIGINAL, upright, in pixels."""

    uri: str
    width: int
    height: int


def small_picture(path: Path, max_side: int = 560) -> Picture:
    """The picture at ``path``, EXIF orientation applied, its longer side at most ``max_side`` pixels.

    Raises PictureError for a file that is missing, truncated, too large to be decoded safely or no picture.
    """
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PictureError(f"{path}: {error}") from error
    width, height = upright.size
    upright.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=82)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height)
