"""Masks as COCO run-length codes: written, read, and checked before they are read.

A mask is one where its runs add up to its size; nothing is allocated by what a mask says of itself.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from rivegs_mllm.types import MAX_PIXELS, Box, Mask, UserError


def check_mask(mask: Mask, size: tuple[int, int], where: str) -> int:
    """The area of ``mask`` in pixels. Raises UserError unless it has ``size`` (height, width) and its runs fill it."""
    if mask.size != size:
        raise UserError(f"{where}: mask of height x width {mask.size}, but the picture has {size}")
    return mask_area(mask, where)


def mask_area(mask: Mask, where: str) -> int:
    """The area of ``mask`` in pixels. Raises UserError unless its runs fill its own size.

    Given other masks, pycocotools writes outside its memory or does not return.
    """
    height, width = mask.size
    if height * width > MAX_PIXELS:
        raise UserError(f"{where}: a mask of height x width {mask.size} has more than {MAX_PIXELS:,} pixels")
    runs = _runs(mask.counts)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        raise UserError(
            f"{where}: counts {mask.counts[:40]!r} are no COCO run-length code of {height} x {width} pixels; "
            "encode them again with pycocotools.mask.encode, as text and not as the repr of bytes"
        )
    return int(runs[1::2].sum())  # every second run is foreground


def _runs(counts: str) -> np.ndarray | None:
    """The run lengths that the compressed string holds, background first; None where it is no such string.

    COCO's code: six bits a character from "0" on, five of value and one that says that the number continues,
    low part first, signed; from the fourth number on, the difference to the last but one is written.
    """
    if not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    goes_on = (codes & 0x20) != 0
    if codes.min() < 0 or codes.max() >= 64 or goes_on[-1]:
        return None
    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits, more than a run of any picture needs; long numbers would overflow the shift
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    # The last character's highest bit of value is the sign, in two's complement.
    runs -= ((codes[ends] & 0x10) != 0).astype(np.int64) << (5 * lengths)
    # The differences summed, odd and even places apart; the first number is in neither chain, as in COCO's own reader.
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def encode(mask: np.ndarray) -> Mask:
    """A bool mask (height, width) as a COCO run-length code."""
    coded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))  # COCO's runs go down the columns
    return Mask((int(coded["size"][0]), int(coded["size"][1])), coded["counts"].decode("ascii"))


def decode(mask: Mask) -> np.ndarray:
    """The bool mask (height, width) of a COCO run-length code, one that ``mask_area`` accepts."""
    pixels: np.ndarray = coco.decode({"size": list(mask.size), "counts": mask.counts.encode("ascii")})
    return pixels.astype(bool)


def filled(box: Box, size: tuple[int, int]) -> np.ndarray:
    """A box of a picture of ``size`` = (width, height) as a bool mask (height, width).

    It covers the pixels whose centres are in the box, at least one.
    """
    width, height = size
    mask = np.zeros((height, width), dtype=bool)
    left, top = min(round(box.xmin), width - 1), min(round(box.ymin), height - 1)
    mask[top : max(round(box.ymax), top + 1), left : max(round(box.xmax), left + 1)] = True
    return mask


def box_of(mask: Mask) -> Box:
    """The box around a mask that covers at least a pixel, in the mask's pixels, right and lower edge exclusive."""
    left, top, width, height = map(int, coco.toBbox({"size": list(mask.size), "counts": mask.counts.encode("ascii")}))
    return Box(left, top, left + width, top + height)
