"""Bilinear resizing in whole numbers, as OpenCV does it: with other roundings pictures differ from those trained on."""

from __future__ import annotations

import numpy as np

_BITS = 11  # of a weight: INTER_RESIZE_COEF_BITS


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (height, width, channels), uint8, as one of ``shape`` = (height, width)."""
    (top, bottom), (upper, lower) = _neighbours(image.shape[0], shape[0])
    (left, right), (near, far) = _neighbours(image.shape[1], shape[1])
    wide = image.astype(np.int64)
    # The shifts by 4, 16 and 2 are OpenCV's, 22 bits in all, those of two weights.
    rows = (wide[:, left] * near[:, None] + wide[:, right] * far[:, None]) >> 4
    above, below = rows[top] * upper[:, None, None], rows[bottom] * lower[:, None, None]
    return (((above >> 16) + (below >> 16) + 2) >> 2).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Which two pixels of an axis each new one lies between, (2, new), and their weights, (2, new), of 2 ** _BITS."""
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)  # float32, as OpenCV's
    first = np.floor(places).astype(int)
    share = places - first.astype(np.float32)
    weights = np.rint(np.stack((1 - share, share)) * 2**_BITS).astype(np.int64)
    return np.stack((first, first + 1)).clip(0, old - 1), weights
