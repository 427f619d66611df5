"""The boxes that a detector proposes for each picture, as JSON lines: for the protocol `hindex` and Top-N-Prec."""

from __future__ import annotations

import math
from pathlib import Path

import orjson

from rivegs_mllm.runtime.foreign import numbered_lines, shown
from rivegs_mllm.types import Box, UserError


def read_candidates(path: Path | str) -> dict[str, tuple[Box, ...]]:
    """``{post id: boxes, best first}`` from lines ``{"id": ..., "boxes": [[xmin, ymin, xmax, ymax], ...]}``.

    Boxes are in pixels of the original picture. Raises UserError that names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found: dict[str, tuple[Box, ...]] = {}
    for number, line in numbered_lines(path):
        name, boxes = _line(line, f"{path}:{number}")
        if name in found:
            raise UserError(f"{path}:{number}: the id {shown(name)} comes twice")
        found[name] = boxes
    return found


def _line(line: bytes, where: str) -> tuple[str, tuple[Box, ...]]:
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str) or not isinstance(raw.get("boxes"), list):
        raise UserError(f'{where}: not {{"id": "...", "boxes": [[xmin, ymin, xmax, ymax], ...]}}')
    for box in raw["boxes"]:
        if not isinstance(box, list) or len(box) != 4 or not all(type(edge) in (int, float) for edge in box):
            raise UserError(f"{where}: {shown(box)} is not [xmin, ymin, xmax, ymax]")
        if not all(map(math.isfinite, box)):
            raise UserError(f"{where}: {shown(box)} has an edge that is no finite number")
    return raw["id"], tuple(Box(*box) for box in raw["boxes"])
