"""Values of files that others wrote, taken out by key: a wrong one is a UserError that names file, item and key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import orjson

from rivegs_mllm.data.images import MAX_PIXELS
from rivegs_mllm.runtime.foreign import numbered_lines, one_line, shown
from rivegs_mllm.types import UserError

MOST_BYTES = 2**30
"""Of a file of annotations; what is longer does not fit into memory as objects."""

LARGEST = 10_000_000
"""Of a coordinate; no picture is so long, and what is longer is a slip."""


class Fields:
    """An object of a file and where it stands. Values that are left out, or null, are the default."""

    def __init__(self, raw: object, place: str):
        if type(raw) is not dict:
            raise UserError(f"{place}: {shown(raw)} is not an object of keys and values")
        self.raw = raw
        self.place = place

    def has(self, *keys: str) -> bool:
        """Whether one of the keys has a value."""
        return any(self.raw.get(key) is not None for key in keys)

    def first(self, *keys: str) -> str:
        """The first of the keys that has a value, the last of them where none has."""
        return next((key for key in keys if self.raw.get(key) is not None), keys[-1])

    def fail(self, key: str, what: str) -> UserError:
        """The error to raise for a key's value: ``what`` it is not."""
        return UserError(f"{self.place}: {key}: {shown(self.raw.get(key))} is not {what}")

    def string(self, key: str, default: str = "") -> str:
        value = self._value(key, default)
        if type(value) is not str:
            raise self.fail(key, "a string")
        return value

    def name(self, key: str) -> str:
        """A string, or a whole number as one, such as ids are."""
        value = self._value(key, "")
        if type(value) is int:
            return str(value)
        if type(value) is not str:
            raise self.fail(key, "a string or a whole number")
        return value

    def integer(self, key: str) -> int:
        value = self.raw.get(key)
        if type(value) is not int:
            raise self.fail(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not is_number(value):
            raise self.fail(key, "a number")
        return value

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """``count`` numbers, such as those of a box."""
        return numbers_of(self._value(key, []), count, f"{self.place}: {key}")

    def truth(self, key: str) -> bool | None:
        value = self.raw.get(key)
        if value is not None and type(value) is not bool:
            raise self.fail(key, "true, false or null")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self._value(key, [])
        if type(value) is not list or not all(type(one) is str for one in value):
            raise self.fail(key, "a list of strings")
        return tuple(value)

    def list(self, key: str) -> list:
        value = self._value(key, [])
        if type(value) is not list:
            raise self.fail(key, "a list")
        return value

    def fields(self, key: str) -> Fields:
        """The object under a key, an empty one where there is none."""
        return Fields(self._value(key, {}), f"{self.place}: {key}")

    def each(self, key: str) -> Iterator[Fields]:
        """The objects of the list under a key."""
        for number, value in enumerate(self.list(key)):
            yield Fields(value, f"{self.place}: {key}[{number}]")

    def size(self, width: str, height: str) -> tuple[int, int] | None:
        """(width, height) of a picture, None where it is left out or 0."""
        sides = self._value(width, 0), self._value(height, 0)
        if sides == (0, 0):
            return None
        if not all(is_number(side) and side > 0 and side == int(side) for side in sides):
            raise UserError(f"{self.place}: {width}, {height}: {shown(sides)} is not a picture's size in pixels")
        if sides[0] * sides[1] > MAX_PIXELS:
            raise UserError(f"{self.place}: {width}, {height}: {shown(sides)} is more than {MAX_PIXELS:,} pixels")
        return int(sides[0]), int(sides[1])

    def _value(self, key: str, default: object) -> object:
        value = self.raw.get(key)
        return default if value is None else value


def is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= LARGEST


def is_offset(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def numbers_of(value: object, count: int, place: str) -> tuple[float, ...]:
    """``count`` numbers from a list. Raises UserError."""
    if type(value) is not list or len(value) != count or not all(map(is_number, value)):
        raise UserError(f"{place}: {shown(value)} is not {count} numbers")
    return tuple(value)


def offsets_of(first: object, last: object, length: int, place: str) -> tuple[int, int]:
    """(start, end), end-exclusive, of a text of ``length``. Raises UserError for what are no whole numbers."""
    if type(first) is not int or type(last) is not int:
        raise UserError(f"{place}: {shown([first, last])} is not a start and an end in whole numbers")
    if not 0 <= first <= last <= length:
        raise UserError(f"{place}: {shown([first, last])} does not lie within the {length} of the text")
    return first, last


def read_bytes(path: Path) -> bytes:
    """The content of a file of annotations. Raises UserError."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: longer than {MOST_BYTES:,} bytes; divide it")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_json(path: Path) -> object:
    """What a JSON file holds. Raises UserError."""
    return _parsed(read_bytes(path), str(path))


def read_items(path: Path) -> Iterator[tuple[str, object]]:
    """The items of a JSON file that is a list, or of JSON lines, each with its place. Raises UserError."""
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if path.suffix != ".jsonl":
        try:
            whole = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            if content.lstrip().startswith(b"["):
                raise UserError(f"{path}: not JSON: {one_line(error)}") from None
        else:
            items = whole if type(whole) is list else [whole]
            yield from ((f"{path}: item {number}", item) for number, item in enumerate(items))
            return
    yield from ((f"{path}:{number}", _parsed(line, f"{path}:{number}")) for number, line in numbered_lines(path))


def _parsed(content: bytes, place: str) -> object:
    try:
        return orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {one_line(error)}") from None
