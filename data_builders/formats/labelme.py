"""Masks in labelme's JSON: one file a picture, one shape an outline or a bitmap, named by its label.

Polygons and rectangles are filled as COCO fills them; a shape of type "mask" is a PNG in base64 that starts at the
upper left of its two points. Shapes of one label and one ``group_id`` are the parts of one object. The picture that
a file may hold (``imageData``) is not looked at.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from pycocotools import mask as coco

from data_builders.formats.voc import Fault
from rivegs_mllm.data.images import MAX_PIXELS, PictureError, open_picture
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Box, UserError


@dataclass(frozen=True, slots=True)
class LabelmeRegion:
    """``pixels``: bool, (height, width) of the picture; at least one is set. ``box``: of a rectangle, as it was drawn,
    within the picture."""

    label: str
    pixels: np.ndarray
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class LabelmeFile:
    """A file: ``size`` is (width, height) of the picture as it was annotated, ``faults`` what was left out or cut, and
    ``lost`` of these what was left out, each with the label of its shape."""

    size: tuple[int, int]
    regions: tuple[LabelmeRegion, ...]
    faults: tuple[Fault, ...]
    lost: tuple[tuple[str, Fault], ...]


def read_regions(path: Path | str) -> LabelmeFile:
    """The regions in the order of the file. Raises UserError naming file and shape where it is not labelme's form."""
    try:
        content = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{path}: not a file of labelme, which has a list of shapes")
    width, height = content.get("imageWidth"), content.get("imageHeight")
    if not all(isinstance(side, int) and side > 0 for side in (width, height)) or width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: imageWidth {shown(width)} and imageHeight {shown(height)} are not a picture's size in pixels"
        )
    parts: dict[tuple, tuple[str, np.ndarray, Box | None]] = {}
    faults: list[Fault] = []
    lost: list[tuple[str, Fault]] = []
    for index, shape in enumerate(content["shapes"]):
        place = f"{path}: shapes[{index}]"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise UserError(f"{place}: has no label")
        pixels = _pixels(shape, (height, width), place, faults)
        if pixels is None:
            lost.append((shape["label"], faults[-1]))
            continue
        group = shape.get("group_id")
        key = (index,) if group is None else (shape["label"], str(group))
        # A shape without a group is an object of its own.
        if key in parts:
            parts[key] = shape["label"], pixels | parts[key][1], None
        else:
            parts[key] = shape["label"], pixels, _box(shape, (width, height)) if group is None else None
    regions = tuple(LabelmeRegion(*part) for part in parts.values())
    return LabelmeFile((width, height), regions, tuple(faults), tuple(lost))


def _box(shape: dict, size: tuple[int, int]) -> Box | None:
    """A rectangle of two corners, clipped to the picture of ``size`` (width, height)."""
    points = np.array(shape["points"], float)
    if shape.get("shape_type") != "rectangle" or len(points) != 2:
        return None
    inside = np.clip(points, 0, size)
    return Box(*inside.min(axis=0).tolist(), *inside.max(axis=0).tolist())


def _pixels(shape: dict, size: tuple[int, int], place: str, faults: list[Fault]) -> np.ndarray | None:
    """The shape's pixels, ``size`` (height, width); None, and a fault, where it covers none."""
    kind, points = shape.get("shape_type", "polygon"), _points(shape, place)
    name = f"shape of {shown(shape['label'])}"
    height, width = size
    inside = np.clip(points, 0, (width, height))
    if (inside != points).any():
        faults.append(Fault("shape outside", f"{name} reaches out of the picture of {width} x {height}; it is cut"))
    if kind == "mask":
        pixels = _bitmap(shape, points, size, place)
    elif kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        pixels = _filled(inside, size)
    elif kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = inside
        pixels = _filled(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]), size)
    else:
        faults.append(Fault("unknown shape", f"{name} is a {shown(kind)} of {len(points)} points; it is left out"))
        return None
    if not pixels.any():
        faults.append(Fault("shape without area", f"{name} covers no pixel; it is left out"))
        return None
    return pixels


def _points(shape: dict, place: str) -> np.ndarray:
    try:
        points = np.array(shape.get("points"), float)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UserError(f"{place}: its points are not a list of [x, y]")
    return points


def _filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if len(points) < 3:
        return np.zeros(size, bool)
    return coco.decode(coco.frPyObjects([points.ravel().tolist()], *size))[..., 0].astype(bool)


def _bitmap(shape: dict, points: np.ndarray, size: tuple[int, int], place: str) -> np.ndarray:
    """The bitmap at its place, what of it lies outside the picture cut off."""
    try:
        image = open_picture(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True)))
    except (TypeError, binascii.Error, PictureError):
        raise UserError(f"{place}: its mask is not a PNG in base64") from None
    bitmap = np.asarray(image)[..., 0] > 0
    left, top = (math.floor(edge) for edge in points.min(axis=0))
    pixels = np.zeros(size, bool)
    rows, columns = pixels[max(top, 0) : max(top + len(bitmap), 0)], slice(max(left, 0), max(left + bitmap.shape[1], 0))
    window = rows[:, columns]
    window |= bitmap[max(-top, 0) :, max(-left, 0) :][: window.shape[0], : window.shape[1]]
    return pixels
