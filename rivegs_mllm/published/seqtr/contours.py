"""The outlines of masks, pixel by pixel (border following: Suzuki and Abe 1985)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_TURN = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))
"""The neighbours (row, column) of a pixel, counter-clockwise as one looks at the picture, from the left one on."""


def largest_outline(mask: np.ndarray) -> np.ndarray:
    """(n, 2): x and y of the pixels of the outer outline of greatest area, from the uppermost left one down."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    outlines = [_follow(parts == number) for number in range(1, count + 1)]
    return max(outlines, key=area, default=np.zeros((0, 2), dtype=int))


def area(points: np.ndarray) -> float:
    """The area in pixels that a closed outline of points (n, 2) encloses, by the shoelace formula."""
    x, y = points.astype(float).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _follow(part: np.ndarray) -> np.ndarray:
    """The outer outline of one connected part."""
    inside = np.pad(part, 1)
    start = tuple(np.argwhere(inside)[0])
    last = _next(inside, start, [_TURN[-step % 8] for step in range(8)])
    if last is None:
        return np.array([start])[:, ::-1] - 1
    found, before, now = [start], last, start
    while True:
        place = _TURN.index((before[0] - now[0], before[1] - now[1]))
        after = _next(inside, now, [_TURN[(place + step) % 8] for step in range(1, 9)])
        # Back at the start from its predecessor; a thin part passes the start more than once.
        if after == start and now == last:
            return np.array(found)[:, ::-1] - 1
        found.append(after)
        before, now = now, after


def _next(inside: np.ndarray, pixel: tuple[int, int], turns: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first of a pixel's neighbours that is inside, as one turns."""
    around = ((pixel[0] + row, pixel[1] + column) for row, column in turns)
    return next((one for one in around if inside[one]), None)
