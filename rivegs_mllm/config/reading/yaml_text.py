"""YAML as recipes are written in it: version 1.2's core schema, short, without tags or repeated keys.

What a word such as ``007`` or ``no`` stands for depends on the field that it is for, so it stays as it was written
(``Written``) until the field is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from rivegs_mllm.types import UserError

MOST_BYTES = 2**20
MOST_VALUES = 20_000
"""Of a recipe, what an alias stands for counted each time: nine lines of aliases can stand for a billion values."""
MOST_DEEP = 50
"""Levels; Python's own recursion ends at a thousand frames, and the composer takes several a level."""
LONGEST_INTEGER = 25
"""Digits; more than any setting has, and far below the 4300 from which on int() raises."""
LONGEST_FLOAT = 50

_PREFIX = "tag:yaml.org,2002:"
_WORDS = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_ODD_FLOATS = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")


class YamlError(UserError):
    """The fault of a text, in one line."""


@dataclass(frozen=True, slots=True)
class Written:
    """A value that is a text to a field of text, and to others what YAML reads it as: ``value``."""

    text: str
    value: object


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of the value of an override that is no YAML: it may be a text all the same."""

    fault: str


class _Loader(yaml.SafeLoader):
    """Reads no meaning into words; that is done here."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


def read_file(path: Path) -> object:
    """The content of a YAML file: mappings with text keys, lists, texts, and ``Written`` for words without quotes.

    Raises UserError naming the file, and where it is known the line.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: no such recipe (it is {'a folder' if path.is_dir() else 'no plain file'})")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no such recipe ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: not a recipe: it is longer than {MOST_BYTES:,} bytes")
    try:
        node = _compose(data.decode("utf-8-sig"))
        return None if node is None else _Reader().read(node, 0)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except YamlError as fault:
        raise UserError(f"{path}: not YAML: {fault}") from None


def read_value(text: str) -> object:
    """The value of an override: as YAML where it is for a field of numbers or lists, itself for a field of text.

    Quotes around all of it are removed. Never raises: what is not YAML is a text, or an error once its field is known.
    """
    bare = text.strip()
    try:
        node = _compose(bare) if bare[:1] in tuple("[{\"'") else None
        value = _word(bare) if node is None else _Reader().read(node, 0)
    except YamlError as fault:
        return Written(text, Unreadable(str(fault)))
    if node is not None and node.end_mark.index < len(bare):
        return Written(text, Unreadable("a # after a space begins a comment; put quotes around what holds it"))
    if node is not None and isinstance(value, str):
        return value  # in quotes from end to end
    return Written(text, value.value if isinstance(value, Written) else value)


def plain(value: object) -> object:
    """A value with YAML's own reading of all that was written without quotes. Raises YamlError for what is no YAML."""
    if isinstance(value, Written):
        value = value.value
    if isinstance(value, Unreadable):
        raise YamlError(f"not YAML: {value.fault}")
    if isinstance(value, dict):
        return {key: plain(own) for key, own in value.items()}
    return [plain(own) for own in value] if isinstance(value, list) else value


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "cannot be read"
        if "\\t" in problem:
            problem = "a tab stands where only spaces may; indent with spaces"
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{where}{problem[:200]}") from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())[:200]) from None
    except RecursionError:
        raise YamlError(f"nested deeper than {MOST_DEEP} levels") from None


class _Reader:
    """One text's nodes as values."""

    def __init__(self):
        self.left = MOST_VALUES

    def read(self, node: yaml.Node, depth: int) -> object:
        """A node and all below it."""
        self.left -= 1
        if self.left < 0:
            raise YamlError(f"more than {MOST_VALUES:,} values, aliases counted each time")
        if depth > MOST_DEEP:
            raise _fault(node, f"nested deeper than {MOST_DEEP} levels")
        if isinstance(node, yaml.SequenceNode):
            _check_tag(node, "seq")
            return [self.read(own, depth + 1) for own in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        _check_tag(node, "str")
        if node.style is not None:
            return node.value
        try:
            return _word(node.value)
        except YamlError as fault:
            raise _fault(node, str(fault)) from None

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, object]:
        _check_tag(node, "map")
        found: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(key, "a key is a word, not a list or a mapping")
            read = self.read(value, depth + 1)
            if key.value == "<<" and key.style is None:
                for part in read if isinstance(read, list) else [read]:
                    if not isinstance(part, dict):
                        raise _fault(value, "<< merges mappings alone")
                    merged = {**part, **merged}
            elif key.value in found:
                raise _fault(key, f"the key {key.value[:80]!r} comes twice")
            else:
                found[key.value] = read
        return {**merged, **found}


def _word(text: str) -> object:
    """A word without quotes: itself, or with its reading as null, a boolean or a number."""
    if text in _WORDS:
        return Written(text, _WORDS[text])
    if _INTEGER.fullmatch(text):
        if len(text) > LONGEST_INTEGER:
            raise YamlError(f"an integer of {len(text):,} digits")
        return Written(text, int(text, 0))
    if _FLOAT.fullmatch(text) and len(text) <= LONGEST_FLOAT:
        return Written(text, float(text))
    if odd := _ODD_FLOATS.fullmatch(text):
        return Written(text, float(f"{odd[1]}{odd[2].lower()}"))
    return text


def _check_tag(node: yaml.Node, own: str) -> None:
    if node.tag not in ("!", f"{_PREFIX}{own}"):
        raise _fault(node, f"the tag {node.tag.replace(_PREFIX, '!!')[:80]} has no place in a recipe")


def _fault(node: yaml.Node, problem: str) -> YamlError:
    return YamlError(f"line {node.start_mark.line + 1}: {problem}")
