"""Pictures and masks made small enough to be carried inside a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from rivegs_mllm.data.images import open_picture
from rivegs_mllm.types import Mask


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG as a data URI; ``width`` and ``height`` are those of the ORIGINAL, upright, in pixels."""

    uri: str
    width: int
    height: int


def small_picture(path: Path, max_side: int = 560) -> Picture:
    """The picture at ``path``, upright, its longer side at most ``max_side`` pixels. Raises PictureError."""
    upright = open_picture(path)
    width, height = upright.size
    upright.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=80, optimize=True)
    return Picture(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height)


def outline(mask: Mask, steps: int = 280) -> str:
    """The mask's border as the path of an SVG, in pixels of the original, to be filled by the rule "evenodd".

    It lies on a grid of at most ``steps`` cells a side; a mask without area is "". The mask must have been checked.
    """
    from contourpy import contour_generator
    from matplotlib.path import Path as Outline

    height, width = mask.size
    cell = max(1.0, max(mask.size) / steps)
    rows, columns = (np.arange(0, side, cell).astype(int) for side in (height, width))
    inside = coco.decode({"size": mask.size, "counts": mask.counts})[np.ix_(rows, columns)]
    # A rim of zeros closes outlines at the picture's edge. It shifts them by a cell; half of that remains to be taken
    # off below, since a cell's value stands at its centre.
    lines = contour_generator(z=np.pad(inside, 1).astype(float)).lines(0.5)
    parts = []
    for line in lines:
        path = Outline((line - 0.5) * cell)
        path.simplify_threshold = cell
        corners = path.cleaned(simplify=True).vertices[:-1]  # the last vertex only marks the end
        points = [f"{x:.0f} {y:.0f}" for x, y in corners]
        parts.append(f"M{'L'.join(point for point, _ in groupby(points))}Z")
    return "".join(parts)
