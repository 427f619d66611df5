"""A recipe as one YAML file again, with a comment after each value that names its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from rivegs_mllm.config.reading.layers import DEFAULTS, OVERRIDE, Layered, Section, Sourced
from rivegs_mllm.config.reading.yaml_text import Unreadable, Written, read_value

_PLAIN = re.compile(r"[\w./](?:[\w./+-]|:(?=\w)| (?=\w))*", re.ASCII)


def as_yaml(layered: Layered) -> str:
    """The complete recipe, which reads as the same: bases, overrides and the default of its folder written out."""
    return "".join(f"{line}\n" for line in _section(layered.sections, ""))


def recipe_file(predictions: Path) -> Path:
    """The path of the recipe that a file of predictions was made by."""
    return predictions.with_suffix(".recipe.yaml")


def _section(section: Section, indent: str) -> Iterator[str]:
    for name, own in section.items():
        start = f"{indent}{_text(name)}:"
        if not isinstance(own, Sourced):
            yield start if own else f"{start} {{}}"
            yield from _section(own, f"{indent}  ")
            continue
        from_where = f"  # {_shown_source(own.source)}"
        text = own.value
        if isinstance(text, str) and _is_block(text):
            yield f"{start} |-{from_where}"
            yield from (f"{indent}  {line}" if line else "" for line in text.split("\n"))
        else:
            yield f"{start} {_value(text)}{from_where}"


def _shown_source(source: str) -> str:
    if source in (OVERRIDE, *DEFAULTS):
        return source
    return f"from {source if source.isprintable() else ascii(source)}"


def _value(value: object) -> str:
    """A value on one line."""
    if isinstance(value, Written):
        return _word(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(name)}: {_value(own)}" for name, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(str(value))


def _word(written: Written) -> str:
    """What was written without quotes. In braces a text and a mapping look alike: ``{text}`` is taken for a text, and
    so is what holds it in brackets."""
    value = written.value
    if _holds_field(value):
        return _text(written.text)
    if isinstance(value, (dict, list)):
        return _value(value)
    if isinstance(value, (str, Unreadable)):
        return _text(written.text)
    return written.text.strip() or "null"


def _holds_field(value: object) -> bool:
    """Whether a value was ``{text}``, a mapping without values, or a list that holds it: no key takes either."""
    if isinstance(value, list):
        return any(map(_holds_field, value))
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(own, Written) and own.text == "" for own in value.values())
    )


def _text(text: str) -> str:
    """A text, without quotes where it reads as itself, to other readers of YAML too."""
    # PyYAML reads YAML 1.1, where more words are booleans and numbers than here.
    if _PLAIN.fullmatch(text) and read_value(text) == Written(text, text) and yaml.safe_load(text) == text:
        return text
    if text.isprintable() and text.isascii():
        return "'" + text.replace("'", "''") + "'"
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).removesuffix("\n")


def _is_block(text: str) -> bool:
    """Whether a text can stand as a block of lines and be read as it was."""
    lines = text.split("\n")
    return (
        len(lines) > 1
        and lines[0][:1].strip()
        and lines[-1]
        and all(line.isprintable() and line.isascii() for line in lines)
    )
