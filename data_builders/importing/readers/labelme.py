"""labelme's JSON files, one a picture: regions for texts that come from elsewhere, or beside a text of the file's own.

A label is a mention or a type. Rectangles are boxes; polygons and bitmaps are masks, and boxes around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_builders.formats.labelme import read_regions
from data_builders.importing.fields import Fields, read_json
from data_builders.importing.records import Left, Post, Region, Source
from data_builders.importing.regions.box_formats import PIXELS
from rivegs_mllm.data.masks import encode
from rivegs_mllm.types import UserError

_TEXT = ("text", "caption", "tweet")


def read_labelme(path: Path, _: Mapping[str, str]) -> Source:
    """A post a file. Raises UserError."""
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    if not files:
        raise UserError(f"{path}: has no .json file")
    left: list[Left] = []
    return Source([_post(file, left) for file in files], PIXELS, left=left)


def _post(path: Path, left: list[Left]) -> Post:
    found = read_regions(path)
    lost = [fault for _, fault in found.lost]
    left += [Left(fault.kind, str(path), fault.message) for fault in found.faults if fault not in lost]
    own = Fields(read_json(path), str(path))
    flags = own.fields("flags") if type(own.raw.get("flags")) is dict else own
    beside = own if own.has(*_TEXT) else flags
    text = beside.raw.get(beside.first(*_TEXT))
    regions = []
    for region in found.regions:
        box = region.box
        if box is not None:
            regions.append(Region(region.label, box=(box.xmin, box.ymin, box.xmax, box.ymax)))
        else:
            regions.append(Region(region.label, mask=encode(region.pixels)))
    for label, fault in found.lost:
        regions.append(Region(label, left=Left(fault.kind, str(path), fault.message)))
    return Post(
        place=str(path),
        id=path.stem,
        text=text if type(text) is str else None,
        regions=tuple(regions),
        image=own.string("imagePath") or path.stem,
        size=found.size,
    )
