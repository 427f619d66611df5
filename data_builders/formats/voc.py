"""Boxes in VOC XML, as labelImg writes them: one file a picture, one <object> a box.

Edges are taken as labelImg writes them, pixels with the right and lower edge exclusive: the box of a whole
picture ends at its width and height. Entities are not expanded, nothing is fetched, a document type is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lxml import etree

from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Box, UserError

_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
MAX_COORDINATE = 10_000_000
"""Of an edge or a side: no picture is so long, and what is longer is a slip."""

_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Annotation:
    """A file as it stands: ``size`` is (width, height), None where the file says 0 or nothing.

    ``objects`` are (name, box) in the order of the file, whether or not the boxes make sense.
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, Box], ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """A box that was changed or dropped.

    ``kind`` is "placeholder box", "box without area", "box outside" or "repeated box".
    """

    kind: str
    message: str


def read_annotation(path: Path | str) -> Annotation:
    """Raises UserError naming the file where it cannot be read, does not parse or lacks a number."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (thousands of small files: a Path each is a tenth of the time)
            root = etree.fromstring(file.read(), _PARSER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except etree.XMLSyntaxError as error:
        raise UserError(f"{path}: not well-formed XML ({error.msg}); correct it or delete it") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise UserError(f"{path}: has a document type, which no VOC file needs; delete its <!DOCTYPE ...>")
    width, height = _numbers(path, root.find("size"), ("width", "height"), "0")
    return Annotation(
        size=(int(width), int(height)) if width >= 1 and height >= 1 else None,
        objects=tuple([_object(path, element) for element in root.iterchildren("object")]),
    )


def usable_boxes(annotation: Annotation) -> tuple[dict[str, tuple[Box, ...]], list[Fault]]:
    """The boxes by name, in pixels of the picture as annotated and clipped to it, and what was changed or dropped.

    Several boxes of a name stay in the order of the file.
    """
    boxes: dict[str, tuple[Box, ...]] = {}
    faults: list[Fault] = []
    for name, box in annotation.objects:
        usable = _usable(box, annotation.size)
        if usable != box:
            faults.append(_fault(name, box, usable, annotation.size))
        if usable is None:
            continue
        if usable in boxes.get(name, ()):
            faults.append(Fault("repeated box", f"{shown(name)} has a box twice; it is kept once"))
        else:
            boxes[name] = (*boxes.get(name, ()), usable)
    return boxes, faults


def _usable(box: Box, size: tuple[int, int] | None) -> Box | None:
    width, height = size or (math.inf, math.inf)
    if box.xmin >= 0 and box.ymin >= 0 and box.xmax <= width and box.ymax <= height:
        clipped = box
    else:
        clipped = Box(max(box.xmin, 0), max(box.ymin, 0), min(box.xmax, width), min(box.ymax, height))
    return clipped if clipped.xmin < clipped.xmax and clipped.ymin < clipped.ymax else None


def _fault(name: str, box: Box, usable: Box | None, size: tuple[int, int] | None) -> Fault:
    edges = [box.xmin, box.ymin, box.xmax, box.ymax]
    if not any(edges):
        return Fault("placeholder box", f"{shown(name)} has the box {edges}, which marks nothing; it is left out")
    if box.xmin >= box.xmax or box.ymin >= box.ymax:
        return Fault("box without area", f"{shown(name)} has the box {edges}; it is left out")
    outcome = "it is left out" if usable is None else "it is clipped"
    within = "" if size is None else f" in a picture of {size[0]} x {size[1]}"
    return Fault("box outside", f"{shown(name)} has the box {edges}{within}; {outcome}")


def _object(path: Path | str, element: etree._Element) -> tuple[str, Box]:
    # One pass over the children: lxml's find compiles a path each time.
    children = {child.tag: child for child in element}
    if "name" not in children or "bndbox" not in children:
        raise UserError(f"{path}:{element.sourceline}: an <object> without <name> or <bndbox>")
    return children["name"].text or "", Box(*_numbers(path, children["bndbox"], _EDGES, ""))


def _numbers(
    path: Path | str, element: etree._Element | None, tags: tuple[str, ...], default: str
) -> list[int | float]:
    """The numbers that the children named ``tags`` hold, ``default`` where one is missing."""
    texts = {} if element is None else {child.tag: child.text for child in element}
    numbers: list[int | float] = []
    for tag in tags:
        text = texts.get(tag) or default
        try:
            # Whole numbers, nearly all there are, stay whole.
            number = int(text) if text.isdecimal() else float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= MAX_COORDINATE:
            line = "" if element is None else f":{element.sourceline}"
            raise UserError(f"{path}{line}: <{tag}> is {shown(text)}, not a number of pixels")
        numbers.append(number)
    return numbers
