"""How four numbers are a box, and which way a whole set of them most likely means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import Box, UserError

LAYOUTS = ("xyxy", "xywh", "cxcywh", "yxyx")
UNITS = {"": None, "-1": 1.0, "-100": 100.0, "-1000": 1000.0}
_ENOUGH = 0.95
_SEPARATE = 0.05
_MANY = 10
_FIRST_PIXEL = 1.05  # with the slip of a share of 1
_SPECK = 2
"""Pixels a side up to which a picture is so small that a part of a pixel is a box like others."""


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """``layout`` is "xyxy" (two corners), "xywh" (upper left corner and sides), "cxcywh" (centre and sides) or "yxyx"
    (two corners, y first); ``unit`` what the picture's whole width and height count, None for pixels.
    """

    layout: str
    unit: float | None = None

    def __str__(self) -> str:
        return self.layout if self.unit is None else f"{self.layout}-{self.unit:.0f}"

    def in_words(self) -> str:
        unit = "pixels" if self.unit is None else f"0 to {self.unit:.0f}"
        return f"{self} ({_WORDS[self.layout]}, {unit})"

    def to_pixels(self, numbers: Sequence[float], size: tuple[int, int] | None) -> Box:
        """The box in pixels of a picture of ``size`` (width, height), which only pixels can do without."""
        left, top, right, bottom = _edges(np.array([numbers], float), self.layout)[0].tolist()
        if self.unit is None:
            return Box(*map(_whole, (left, top, right, bottom)))
        across, down = size[0] / self.unit, size[1] / self.unit
        edges = (left * across, top * down, right * across, bottom * down)
        return Box(*(_whole(round(edge, 6)) for edge in edges))  # but for what floats make of shares

    def point_to_pixels(self, point: tuple[float, float], size: tuple[int, int] | None) -> tuple[float, float]:
        """A polygon's point, x first."""
        if self.unit is None:
            return point
        return point[0] * size[0] / self.unit, point[1] * size[1] / self.unit


_WORDS = {
    "xyxy": "left, top, right, bottom",
    "xywh": "left, top, width, height",
    "cxcywh": "centre x, centre y, width, height",
    "yxyx": "top, left, bottom, right",
}
PIXELS = BoxFormat("xyxy")
NAMES = tuple(f"{layout}{unit}" for layout in LAYOUTS for unit in UNITS)


def parse(name: str) -> BoxFormat:
    """A format by its name, such as "xywh" or "xyxy-1000". Raises UserError."""
    layout, dash, unit = name.partition("-")
    if layout not in LAYOUTS or dash + unit not in UNITS:
        raise UserError(f"--boxes: {name!r} is none of {', '.join(NAMES)}")
    return BoxFormat(layout, UNITS[dash + unit])


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many of ``total`` boxes lie within their pictures, and have an area, in each format."""

    total: int
    fits: dict[BoxFormat, int]

    def in_words(self, known: BoxFormat) -> str:
        others = sorted((count for other, count in self.fits.items() if other != known), reverse=True)
        every = plural(self.total, "box", "boxes")
        return f"fits {self.fits[known]} of {every}" + (f", the next best {others[0]}" if others else "")


def weigh(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int] | None], layout: str = "") -> Evidence:
    """The evidence for every format that the numbers, and a layout that is known, leave open."""
    numbers = np.array(boxes, float).reshape(-1, 4)
    sides = np.array([size or (math.inf, math.inf) for size in sizes], float).reshape(-1, 2)
    layouts = (layout,) if layout else ("xyxy", "xywh", "cxcywh")
    formats = [BoxFormat(layout, unit) for unit in _units(numbers, sides) for layout in layouts]
    return Evidence(len(numbers), {own: count_fitting(numbers, sides, own) for own in formats})


def count_fitting(numbers: np.ndarray, sides: np.ndarray, own: BoxFormat) -> int:
    """How many boxes have an area and lie within the picture, but for a slip of 2 pixels or 1 %."""
    edges = _edges(numbers, own.layout)
    limits = sides if own.unit is None else np.full_like(sides, own.unit)
    slip = limits * 0.01 if own.unit else np.maximum(limits * 0.01, 2)
    slip = np.where(np.isfinite(slip), slip, 2)
    inside = (edges[:, :2] >= -slip) & (edges[:, 2:] <= limits + slip)
    return int((inside & (edges[:, 2:] > edges[:, :2])).all(axis=1).sum())


def guess(evidence: Evidence) -> BoxFormat:
    """The one format that fits. Raises UserError, which asks for ``--boxes``, where none or several do."""
    best = max(evidence.fits.values(), default=0)
    close = max(1, round(_SEPARATE * evidence.total))
    likely = [own for own, count in evidence.fits.items() if count > best - close]
    if best >= _ENOUGH * evidence.total and len(likely) == 1:
        return likely[0]
    counts = ", ".join(f"{own} fits {count}" for own, count in sorted(evidence.fits.items(), key=lambda one: -one[1]))
    raise UserError(f"cannot tell what the boxes mean: of {evidence.total}, {counts}; say so by --boxes")


def seem_shares(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int] | None]) -> bool:
    """Whether boxes that should be pixels are shares: of those on pictures that are more than specks, none reaches
    beyond the first pixel, and some end within it."""
    edges = [edge for box, size in zip(boxes, sizes, strict=True) if size is None or max(size) > _SPECK for edge in box]
    return bool(edges) and max(edges) <= _FIRST_PIXEL and any(edge % 1 for edge in edges)


def _units(numbers: np.ndarray, sides: np.ndarray) -> list[float | None]:
    """The units that the largest numbers allow, beside how large the pictures are."""
    largest = float(numbers.max(initial=0))
    smallest_side = float(sides.min(initial=math.inf))
    if largest <= _FIRST_PIXEL:
        return [1.0]
    if largest <= 101 and 200 <= smallest_side < math.inf:
        # So many boxes do not all lie in the upper left corner.
        return [100.0] if len(numbers) >= _MANY else [None, 100.0]
    if largest > 1010:
        return [None]
    best = max(count_fitting(numbers, sides, BoxFormat(layout)) for layout in ("xyxy", "xywh", "cxcywh"))
    in_pixels = best >= _ENOUGH * len(numbers)
    # A set of pixels always fits into 0 to 1000 where the pictures are smaller, so that says nothing.
    if in_pixels and smallest_side < 1000:
        return [None]
    return [None, 1000.0] if in_pixels else [1000.0, None]


def _edges(numbers: np.ndarray, layout: str) -> np.ndarray:
    """Left, top, right and bottom of boxes (n, 4)."""
    first, second = numbers[:, :2], numbers[:, 2:]
    if layout == "yxyx":
        return numbers[:, [1, 0, 3, 2]]
    if layout == "xywh":
        return np.hstack([first, first + second])
    if layout == "cxcywh":
        return np.hstack([first - second / 2, first + second / 2])
    return numbers


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number
