"""CVAT's XML for images 1.1: boxes, ellipses, polygons and masks of every picture, in pixels.

A label is a type or a mention; an attribute called mention, text, phrase or name names the mention. CVAT has no texts,
so that its files are regions for texts that come from elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lxml import etree

from data_builders.importing.fields import Fields, is_number, read_bytes
from data_builders.importing.readers.coco import MENTION
from data_builders.importing.records import Left, Post, Region, Source
from data_builders.importing.regions.box_formats import PIXELS
from data_builders.importing.regions.ellipses import half_sides
from rivegs_mllm.data.masks import encode
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Mask, UserError

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)


def read_cvat(path: Path, _: Mapping[str, str]) -> Source:
    """A post without text a picture. Raises UserError."""
    try:
        root = etree.fromstring(read_bytes(path), _PARSER)
    except etree.XMLSyntaxError as error:
        raise UserError(f"{path}: not well-formed XML ({error.msg})") from None
    if root.tag != "annotations" or root.getroottree().docinfo.internalDTD is not None:
        raise UserError(f"{path}: not CVAT's XML for images: its root is <annotations>, and it has no document type")
    if root.find("track") is not None and root.find("image") is None:
        raise UserError(f"{path}: tracks of a video; export it as CVAT for images 1.1")
    return Source([_post(path, image) for image in root.iterchildren("image")], PIXELS)


def _post(path: Path, image: etree._Element) -> Post:
    place = f"{path}:{image.sourceline}"
    sides = {name: _number(image, name, place) for name in ("width", "height")}
    size = Fields(sides, place).size("width", "height")
    regions = []
    for shape in image:
        where = f"{path}:{shape.sourceline}"
        if shape.tag == "box":
            regions.append(_region(shape, box=_box(shape, where)))
        elif shape.tag == "ellipse":
            regions.append(_region(shape, box=_around(shape, where)))
        elif shape.tag == "polygon":
            regions.append(_region(shape, polygons=(_points(shape, where),)))
        elif shape.tag == "mask":
            regions.append(_region(shape, mask=_mask(shape, size, where)))
        elif shape.tag != "tag":
            message = f"{shown(shape.get('label', ''))} is a {shown(shape.tag)}; it is left out"
            regions.append(_region(shape, left=Left("unknown shape", where, message)))
    return Post(place, image=image.get("name", ""), regions=tuple(regions), size=size, split=image.get("subset", ""))


def _region(shape: etree._Element, **geometry: object) -> Region:
    named = {own.get("name", "").casefold(): (own.text or "").strip() for own in shape.iterchildren("attribute")}
    mention = next((named[name] for name in MENTION if named.get(name)), "")
    return Region(shape.get("label", ""), mention, **geometry)


def _box(shape: etree._Element, place: str) -> tuple[float, float, float, float]:
    """The upright box around one that may be turned about its centre, clockwise."""
    left, top, right, bottom = (_number(shape, name, place) for name in ("xtl", "ytl", "xbr", "ybr"))
    turn = math.radians(_turn(shape, place))
    if not turn:
        return left, top, right, bottom
    across, down = (right - left) / 2, (bottom - top) / 2
    wide = abs(across * math.cos(turn)) + abs(down * math.sin(turn))
    high = abs(across * math.sin(turn)) + abs(down * math.cos(turn))
    x, y = (left + right) / 2, (top + bottom) / 2
    return x - wide, y - high, x + wide, y + high


def _around(shape: etree._Element, place: str) -> tuple[float, float, float, float]:
    """The upright box around an ellipse that may be turned."""
    x, y, wide, high = (_number(shape, name, place) for name in ("cx", "cy", "rx", "ry"))
    wide, high = half_sides(wide, high, _turn(shape, place))
    return x - wide, y - high, x + wide, y + high


def _turn(shape: etree._Element, place: str) -> float:
    """In degrees."""
    return _number(shape, "rotation", place) if shape.get("rotation") else 0.0


def _points(shape: etree._Element, place: str) -> tuple[tuple[float, float], ...]:
    points = [pair.split(",") for pair in shape.get("points", "").split(";")]
    if not all(len(pair) == 2 for pair in points):
        raise UserError(f"{place}: points: {shown(shape.get('points'))} is not x,y;x,y and so on")
    return tuple((_parse(x, "points", place), _parse(y, "points", place)) for x, y in points)


def _mask(shape: etree._Element, size: tuple[int, int] | None, place: str) -> Mask:
    """The runs of a window of the picture, row by row, background first."""
    left, top, width, height = (int(_number(shape, name, place)) for name in ("left", "top", "width", "height"))
    runs = [_parse(run, "rle", place) for run in shape.get("rle", "").split(",")]
    inside = size is not None and min(left, top) >= 0 and left + width <= size[0] and top + height <= size[1]
    if not inside or min(runs) < 0 or any(run != int(run) for run in runs) or sum(runs) != width * height:
        raise UserError(f"{place}: rle: no runs of a window of {width} x {height} within the picture")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, int))
    pixels = np.zeros(size[::-1], bool)
    pixels[top : top + height, left : left + width] = values.reshape(height, width)
    return encode(pixels)


def _number(element: etree._Element, name: str, place: str) -> float:
    return _parse(element.get(name, ""), name, place)


def _parse(text: str, name: str, place: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not is_number(number):
        raise UserError(f"{place}: {name}: {shown(text)} is not a number")
    return int(number) if number == int(number) else number
