"""The answer format: what must be the same wherever a model's answers are written and read, and how boxes are written.

It is saved in the adapter folder as ``rivegs_contract.json``. Training, prediction, export and serving read it from
there and refuse any other, because a picture resized by other limits than in training shifts every box.

Boxes are pixels of the original picture (see ``types.Box``) on the outside. Inside, an edge is a whole number on a grid
that covers the picture: ``bins`` steps each way as location tokens (``loc``), or the numbers that the base family was
pre-trained with (``native``): pixels of the resized picture for Qwen2.5-VL, thousandths for Qwen2-VL and Qwen3-VL.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.runtime.foreign import read_object, shown
from rivegs_mllm.types import NOT_IN_A_TYPE, TYPES, Box, UserError

VERSION = 1
FILE_NAME = "rivegs_contract.json"
SEGMENTS = ("knowledge", "entities", "expressions", "visible", "boxes")
"""The parts of an answer, in the order in which a model writes them."""
ENCODINGS = ("loc", "native")
MOST_PIXELS = 2**27
"""Of a picture, at most; the largest that is opened has MAX_PIXELS."""
NATIVE_STEPS = {"qwen2_vl": 1000, "qwen2_5_vl": None, "qwen3_vl": 1000}
"""Steps of a family's own box grid, by the ``model_type`` of the base; None: the pixels of the resized picture."""

_CURE = "copy it from the folder that the model was trained in, or train again"
_NUMBER = r"-?[0-9]{1,6}"  # more digits than a grid needs; int() raises from 4300 on
_LOC_BOX = re.compile(r"<loc_([0-9]{1,6})>" * 4)
_NATIVE_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")


class AnswerFormatError(UserError):
    """An answer format that is missing, unreadable, or not the one in use."""


@dataclass(frozen=True)
class AnswerFormat:
    """How answers and boxes are written for one model.

    ``segments`` is the parts of an answer, a selection of ``SEGMENTS`` in their order; ``types`` the entity types.
    ``encoding`` is ``loc`` with ``bins`` steps each way, or ``native``, where ``bins`` is None.
    ``family`` is the ``model_type`` of the base. ``min_pixels`` and ``max_pixels`` bound the area of the resized
    picture, whose sides are multiples of ``patch_factor`` (patch size times merge size).
    Raises AnswerFormatError for values that do not fit together.
    """

    family: str
    encoding: str
    min_pixels: int
    max_pixels: int
    patch_factor: int
    bins: int | None = None
    segments: tuple[str, ...] = SEGMENTS
    types: tuple[str, ...] = TYPES
    version: int = VERSION

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise AnswerFormatError(f"answer format: {fault}")

    def _faults(self) -> Iterator[str]:
        if self.version != VERSION:
            yield f"version {self.version!r}; this release reads version {VERSION}"
        if self.family not in NATIVE_STEPS:
            yield f"family {shown(self.family)}; known are {', '.join(NATIVE_STEPS)}"
        if self.encoding not in ENCODINGS:
            yield f"encoding {shown(self.encoding)}; known are {', '.join(ENCODINGS)}"
        if not self.segments or list(self.segments) != [name for name in SEGMENTS if name in self.segments]:
            yield f"segments {shown(list(self.segments))} are not a selection of {', '.join(SEGMENTS)} in this order"
        if "entities" not in self.segments and set(self.segments) != {"knowledge"}:
            yield f"segments {list(self.segments)}: those about entities need 'entities' before them"
        if not self.types or len(set(self.types)) < len(self.types):
            yield f"types {shown(list(self.types))}: needs at least one type, and each only once"
        for name in self.types:
            if type(name) is not str or not name or NOT_IN_A_TYPE.search(name):
                yield f"types: {shown(name)} is empty, or holds one of ( ) , \\ < | or more than single spaces"
        if self.encoding == "loc" and not (type(self.bins) is int and 1 <= self.bins <= 9999):
            yield f"bins {shown(self.bins)}: the encoding 'loc' needs a whole number from 1 to 9999"
        if self.encoding == "native" and self.bins is not None:
            yield f"bins {shown(self.bins)}: only the encoding 'loc' has bins"
        for field in ("min_pixels", "max_pixels", "patch_factor"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                yield f"{field} {shown(value)} is not a positive whole number"
            elif value > MOST_PIXELS:
                yield f"{field} {shown(value)} is more than {MOST_PIXELS:,}, and no picture is"
        if self.min_pixels > self.max_pixels:
            yield f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}"

    def up_to(self, segment: str) -> AnswerFormat:
        """The same format for answers that end after ``segment``, as when only their beginning is given or read.

        Raises ValueError for a segment that the format does not have.
        """
        return dataclasses.replace(self, segments=self.segments[: self.segments.index(segment) + 1])

    def save(self, folder: Path | str) -> None:
        """Writes ``folder/rivegs_contract.json``, atomically. Raises WriteError."""
        content = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_text(Path(folder) / FILE_NAME, content + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> AnswerFormat:
        """The format in an adapter folder. Raises AnswerFormatError where there is none of this version."""
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise AnswerFormatError(
                f"{path}: no such file. Without it the boxes of this model cannot be read. Give the folder that "
                f"`rivegs train` saved, or copy {FILE_NAME} there from the folder it was trained in"
            )
        return cls._from_json(read_object(path, _CURE, AnswerFormatError), path)

    @classmethod
    def _from_json(cls, raw: dict[str, object], path: Path) -> AnswerFormat:
        if type(raw.get("version")) is not int or raw["version"] != VERSION:
            raise AnswerFormatError(
                f"{path}: version {shown(raw.get('version'))}; this release reads version {VERSION}. "
                "Use the release that trained the adapter, or train it again"
            )
        fields = {field.name for field in dataclasses.fields(cls)}
        if raw.keys() != fields:
            raise AnswerFormatError(
                f"{path}: missing fields {sorted(fields - raw.keys())}, unknown fields {sorted(raw.keys() - fields)}"
            )
        for name in ("segments", "types"):
            if type(raw[name]) is not list or not all(type(item) is str for item in raw[name]):
                raise AnswerFormatError(f"{path}: {name}: {shown(raw[name])} is not a list of strings")
        for name in ("family", "encoding"):
            if type(raw[name]) is not str:
                raise AnswerFormatError(f"{path}: {name}: {shown(raw[name])} is not a text")
        try:
            return cls(**{**raw, "segments": tuple(raw["segments"]), "types": tuple(raw["types"])})
        except AnswerFormatError as error:
            raise AnswerFormatError(f"{path}: {error}") from None

    def check(self, other: AnswerFormat, here: str, there: str) -> None:
        """Raises AnswerFormatError listing each field that differs; ``here`` and ``there`` say whose the values are.

        The order of the types makes no difference: answers name them.
        """
        if sorted(self.types) != sorted(other.types):
            raise AnswerFormatError(
                f"{here} has the types {', '.join(self.types)}, and {there} {', '.join(other.types)}: they must be the "
                "same; leave `answer.types` out of the recipe, or train a model on its types"
            )
        differing = [
            f"  {name}: {getattr(self, name)!r} in {here}, {getattr(other, name)!r} in {there}"
            for name in (field.name for field in dataclasses.fields(self))
            if name != "types" and getattr(self, name) != getattr(other, name)
        ]
        if differing:
            raise AnswerFormatError(
                "\n".join(
                    [f"the answer formats of {here} and {there} differ, so answers would be misread:", *differing]
                )
            )

    def check_processor(self, processor: Any) -> None:
        """Raises AnswerFormatError where a Qwen-VL processor of transformers resizes pictures by other limits."""
        images = processor.image_processor
        found = {
            "do_resize": images.do_resize,
            "min_pixels": images.size["shortest_edge"],
            "max_pixels": images.size["longest_edge"],
            "patch_factor": images.patch_size * images.merge_size,
        }
        agreed = {name: True if name == "do_resize" else getattr(self, name) for name in found}
        wrong = [
            f"  {name}: {agreed[name]!r} in the answer format, {found[name]!r} in the processor"
            for name in found
            if found[name] != agreed[name]
        ]
        if wrong:
            head = "the processor resizes pictures otherwise than the answer format, so boxes would be wrong:"
            raise AnswerFormatError("\n".join([head, *wrong, f"load the processor with the limits of {FILE_NAME}"]))

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that the family's image processor resizes a picture of ``size`` = (width, height) to.

        The rule is ``smart_resize`` of Qwen2-VL (arXiv 2409.12191, section 2.1), the same in all three families.
        Raises UserError for a picture that it refuses.
        """
        from rivegs_mllm.data.images import check_aspect  # here: PIL takes longer to import than all this file needs

        width, height = size
        check_aspect(size)
        factor = self.patch_factor
        columns, rows = round(width / factor), round(height / factor)
        area = columns * rows * factor * factor
        if area > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            columns = max(1, math.floor(width / shrink / factor))
            rows = max(1, math.floor(height / shrink / factor))
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            columns, rows = math.ceil(width * grow / factor), math.ceil(height * grow / factor)
        return columns * factor, rows * factor

    def picture_tokens(self, size: tuple[int, int]) -> int:
        """Tokens of a picture of ``size`` = (width, height). Raises UserError for one that ``resized`` refuses."""
        width, height = self.resized(size)
        return width * height // self.patch_factor**2

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The steps (across, down) that cover a picture of ``size`` = (width, height); an edge is a whole number from 0
        to that, both included. Raises UserError for a picture that ``resized`` refuses."""
        if self.encoding == "loc":
            return self.bins, self.bins
        steps = NATIVE_STEPS[self.family]
        return self.resized(size) if steps is None else (steps, steps)

    def rounding(self, size: tuple[int, int]) -> tuple[float, float]:
        """(dx, dy): the greatest error of an edge, in pixels of the original picture of ``size`` = (width, height),
        after a box is encoded and decoded.

        That is half a step of the grid, and a whole one for a box thinner than a step.
        """
        (across, down), (width, height) = self.grid(size), size
        return width / across / 2, height / down / 2

    def encode_box(self, box: Box, size: tuple[int, int]) -> str:
        """A box, in pixels of a picture of ``size`` = (width, height), as text, its edges rounded to the grid.

        The box is clipped to the picture. One thinner than a step is widened to a step.
        Raises UserError for a box that lies wholly outside, or whose edges are not finite.
        """
        (across, down), (width, height) = self.grid(size), size
        edges = (box.xmin, box.ymin, box.xmax, box.ymax)
        if not all(map(math.isfinite, edges)):
            raise UserError(f"{box} is not made of finite numbers")
        columns = _interval(box.xmin / width * across, box.xmax / width * across, across)
        rows = _interval(box.ymin / height * down, box.ymax / height * down, down)
        if columns is None or rows is None:
            raise UserError(f"{box} covers nothing of the picture of {width} x {height}")
        numbers = (columns[0], rows[0], columns[1], rows[1])
        if self.encoding == "loc":
            return "".join([f"<loc_{number}>" for number in numbers])
        return str(list(numbers))

    def encode_boxes(self, boxes: tuple[Box, ...], size: tuple[int, int]) -> str:
        """Several boxes of a picture of ``size`` = (width, height) on one line, as ``encode_box`` writes each."""
        separator = " " if self.encoding == "loc" else ", "
        return separator.join([self.encode_box(box, size) for box in boxes])

    def decode_boxes(self, text: str, size: tuple[int, int]) -> tuple[list[Box], list[str]]:
        """The boxes in a text, in pixels of the original picture of ``size`` = (width, height), and the errors.

        Any text is accepted; what is no box is an error. Numbers outside the grid are moved to its border, and a box
        without area is left out; both are among the errors.
        """
        pattern = _LOC_BOX if self.encoding == "loc" else _NATIVE_BOX
        boxes = []
        between = [part.strip(" ,") for part in pattern.sub("\n", text).split("\n")]
        errors = [f"not a box: {part[:80]!r}" for part in between if part]
        for match in pattern.finditer(text):
            numbers = [int(number) for number in match.groups()]
            limits = self.grid(size) * 2  # (across, down, across, down), as the numbers come
            inside = [min(max(number, 0), limit) for number, limit in zip(numbers, limits, strict=True)]
            if inside != numbers:
                errors.append(f"box {match[0]} reaches outside 0 to {limits[0]} across, 0 to {limits[1]} down")
            edges = [number * side / limit for number, side, limit in zip(inside, size * 2, limits, strict=True)]
            if edges[0] < edges[2] and edges[1] < edges[3]:
                boxes.append(Box(*edges))
            else:
                errors.append(f"box {match[0]} has no area")
        if not boxes and not errors:
            errors.append("no box")
        return boxes, errors


def loc_tokens(bins: int) -> list[str]:
    """The location tokens of the encoding ``loc`` with ``bins`` steps: ``bins`` + 1, as both borders have one."""
    return [f"<loc_{number}>" for number in range(bins + 1)]


def _interval(low: float, high: float, steps: int) -> tuple[int, int] | None:
    """The whole numbers nearest to ``low`` and ``high`` in [0, steps], different ones; None where nothing is inside."""
    low, high = max(low, 0.0), min(high, float(steps))
    if low >= high:
        return None
    first, last = round(low), round(high)
    if first < last:
        return first, last
    # Towards the middle of the box, which keeps it within [0, steps], too.
    return (first, first + 1) if low + high > 2 * first else (first - 1, first)
