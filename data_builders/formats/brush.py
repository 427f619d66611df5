"""Label Studio's brush strokes: the values of a picture's pixels, four channels each, row by row, in runs.

The code is a sequence of bits: how many values (32), the bits of a value less one (5), and four times the bits of a
run's length less one (4). Then runs: a bit that tells equal values (1) from different ones (0), which of the four
lengths' bits follow (2), the length less one, and the value, or all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rivegs_mllm.types import UserError

_CHANNELS = 4  # red, green, blue and opacity, the one that counts
_VALUE_BITS = 8
_LENGTH_BITS = (3, 7, 11, 16)  # any four would do, since the code names them


def encode_brush(pixels: np.ndarray) -> list[int]:
    """A bool mask (height, width) as the list of bytes that Label Studio has under ``rle``."""
    values = np.repeat(pixels.ravel().astype(np.uint8) * 255, _CHANNELS)
    bits = [f"{len(values):032b}", f"{_VALUE_BITS - 1:05b}", *(f"{length - 1:04b}" for length in _LENGTH_BITS)]
    edges = np.flatnonzero(np.diff(values)) + 1
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(values)], strict=True):
        for first in range(start, end, 1 << _LENGTH_BITS[-1]):
            length = min(end - first, 1 << _LENGTH_BITS[-1])
            which = next(place for place, most in enumerate(_LENGTH_BITS) if length <= 1 << most)
            bits.append(f"1{which:02b}{length - 1:0{_LENGTH_BITS[which]}b}{values[first]:08b}")
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return list(int(joined, 2).to_bytes(len(joined) // 8, "big"))


def decode_brush(code: Sequence[int], size: tuple[int, int], place: str) -> np.ndarray:
    """The bool mask (height, width) of a picture of ``size`` (width, height). Raises UserError for any other code."""
    width, height = size
    fault = UserError(f"{place}: rle: not Label Studio's run-length code of {width} x {height} pixels")
    if not all(type(byte) is int and 0 <= byte < 256 for byte in code):
        raise fault
    bits = _Bits(bytes(code), fault)
    # The header: how many bytes there are, the bits of a value, and those of the four lengths of runs, each less one.
    count = bits.take(32)
    value_bits = bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in _LENGTH_BITS]
    if count != width * height * _CHANNELS:
        raise fault
    values = np.zeros(count, bool)
    start = 0
    while start < count:
        equal = bits.take(1)
        end = start + 1 + bits.take(lengths[bits.take(2)])
        if end > count:
            raise fault
        if equal:
            values[start:end] = bits.take(value_bits) > 0
        else:
            values[start:end] = [bits.take(value_bits) > 0 for _ in range(end - start)]
        start = end
    return values.reshape(height, width, _CHANNELS)[..., -1]  # the opacity


class _Bits:
    """Numbers of some bits each, taken one after the other; ``fault`` is raised after the last."""

    def __init__(self, content: bytes, fault: UserError):
        self._bits = "".join(f"{byte:08b}" for byte in content)
        self._place = 0
        self._fault = fault

    def take(self, count: int) -> int:
        end = self._place + count
        if end > len(self._bits):
            raise self._fault
        number = int(self._bits[self._place : end], 2)
        self._place = end
        return number
