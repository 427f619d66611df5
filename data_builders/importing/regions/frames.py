"""Regions as a file has them in the frame of records: pixels of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from data_builders.importing.records import Polygon, Region
from data_builders.importing.regions.box_formats import BoxFormat
from rivegs_mllm.data.images import Header, upright, upright_box
from rivegs_mllm.data.masks import decode, encode, mask_area
from rivegs_mllm.types import Box, Mask, UserError

Frame = Literal["upright", "stored"]
_SAME_SHAPE = 0.02


@dataclass(frozen=True, slots=True)
class Placing:
    """From the frame of the annotations to that of the picture.

    ``annotated`` and ``size`` are (width, height) in these, None where nothing says them; ``orientation`` is the EXIF
    orientation by which the annotations are to be turned, 1 for not at all. ``remark`` says what is changed, "" for
    nothing.
    """

    annotated: tuple[int, int] | None
    size: tuple[int, int] | None
    orientation: int = 1
    remark: str = ""

    def box(self, numbers: Sequence[float], boxes: BoxFormat) -> Box:
        """A box in pixels of the upright picture."""
        return self._move(boxes.to_pixels(numbers, self.annotated))

    def mask_of_polygons(self, polygons: Sequence[Polygon], boxes: BoxFormat) -> Mask | None:
        """The pixels within polygons, None where they hold none or the picture's size is not known."""
        if self.size is None:
            return None
        width, height = self.size
        outlines = []
        for polygon in polygons:
            points = (boxes.point_to_pixels(point, self.annotated) for point in polygon)
            moved = [self._move(Box(x, y, x, y)) for x, y in points]
            outlines.append([edge for own in moved for edge in (_within(own.xmin, width), _within(own.ymin, height))])
        outlines = [outline for outline in outlines if len(outline) >= 6]
        if not outlines:
            return None
        mask = coco.merge(coco.frPyObjects(outlines, height, width))
        found = Mask((height, width), mask["counts"].decode())
        return found if mask_area(found, "polygon") else None

    def mask(self, mask: Mask, place: str) -> Mask | None:
        """A mask of the annotated frame; None where nothing is left of it. Raises UserError for a broken one."""
        if not mask_area(mask, place):
            return None
        if self.annotated is not None and mask.size != self.annotated[::-1]:
            raise UserError(
                f"{place}: a mask of {mask.size[1]} x {mask.size[0]} on a picture of "
                f"{self.annotated[0]} x {self.annotated[1]}"
            )
        if self.size in (None, mask.size[::-1]) and self.orientation == 1:
            return mask
        image = upright(Image.fromarray(decode(mask).astype(np.uint8)), self.orientation)
        pixels = np.asarray(image.resize(self.size, Image.Resampling.NEAREST)) > 0
        return encode(pixels) if pixels.any() else None

    def _move(self, box: Box) -> Box:
        if self.orientation != 1:
            box = upright_box(box, self.annotated, self.orientation)
        turned = self.annotated[::-1] if self.orientation >= 5 else self.annotated
        if turned == self.size or turned is None or self.size is None:
            return box
        across, down = self.size[0] / turned[0], self.size[1] / turned[1]
        return Box(box.xmin * across, box.ymin * down, box.xmax * across, box.ymax * down)


class FrameError(Exception):
    """Annotations of a picture that has another shape: nothing can be placed on it."""


def placing(said: tuple[int, int] | None, header: Header | None, frame: Frame) -> Placing:
    """How annotations on a picture whose size the file says to be ``said`` come to lie on the picture as it is.

    ``frame``: whether coordinates are of the upright picture, as most programs show it, or of the picture as stored.
    A size that is that of the stored picture is set right. Raises FrameError.
    """
    if header is None:
        return Placing(said, said)
    size = header.size
    stored = size[::-1] if header.orientation >= 5 else size
    if frame == "stored":
        annotated = stored if said in (None, size) else said
        if not _same_shape(annotated, stored):
            raise FrameError(f"annotated at {said}, but the picture is {stored} as stored")
        return Placing(annotated, size, header.orientation, _remark(said, size))
    if said is None or said == size:
        return Placing(size, size)
    if said == stored:
        return Placing(size, size, remark=_remark(said, size))
    if _same_shape(said, size):
        return Placing(said, size, remark=_remark(said, size))
    raise FrameError(f"annotated at {said[0]} x {said[1]}, but the picture is {size[0]} x {size[1]}")


def _remark(said: tuple[int, int] | None, size: tuple[int, int]) -> str:
    if said in (None, size):
        return ""
    if said == size[::-1]:
        return f"the size {list(said)} is that before EXIF rotation; it becomes {list(size)}"
    return f"annotated at {said[0]} x {said[1]}; scaled to the picture's {size[0]} x {size[1]}"


def _same_shape(said: tuple[int, int], size: tuple[int, int]) -> bool:
    return abs(said[0] * size[1] / (said[1] * size[0]) - 1) <= _SAME_SHAPE or _off_by_a_pixel(said, size)


def _off_by_a_pixel(said: tuple[int, int], size: tuple[int, int]) -> bool:
    """Small pictures: rounding alone changes the shape by more than the tolerance."""
    scale = said[0] / size[0]
    return abs(size[1] * scale - said[1]) <= 1


def _within(value: float, limit: int) -> float:
    return min(max(value, 0.0), float(limit))


def bounds(region: Region) -> tuple[float, float, float, float] | None:
    """The numbers of a box around a region's polygons, xyxy in the file's unit."""
    points = [point for polygon in region.polygons for point in polygon]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)
