"""A recipe's values as the dataclasses that they are for, held against their types and rules key by key.

draccus's own decoder would take a text for a list of letters, a list for a text, true for 1 and null for anything; here
each is refused with its key and what is right.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import os
import re
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from rivegs_mllm.config.bounds import NO_RULES, FieldRules, NotEmpty, broken, is_union
from rivegs_mllm.config.reading.yaml_text import Written, YamlError, plain, read_value
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

Settings = TypeVar("Settings")

_MOST_NAMES = 12
_LONGEST = 400
_WORDS_WITH_COMMAS = re.compile(r"[\w.-]+(?:,[\w.-]+)+")
_LISTS = (list, set, tuple, Sequence)
_MAPPINGS = (dict, Mapping)


class UnknownKeyError(UserError):
    """A key that its section has not. ``key`` is its whole name, ``hint`` says what there is, and ``named`` adds to the
    message where the key was written."""

    def __init__(self, key: str, hint: str, named: Callable[[str], UserError] = UserError):
        super().__init__(str(named(f"{key}: no such key; {hint}")))
        self.key = key
        self.hint = hint


class Choices:
    """Settings of one of several types, chosen by ``type:``, of a schema without the classes that it is for."""

    BY_TYPE: typing.ClassVar[Mapping[str, type]]


def resolve(hint: object, value: object, key: str = "") -> object:
    """The value converted to the type ``hint``. Raises UserError that names the key.

    ``hint`` is a type hint with its annotations (``bounds``), ``value`` what ``yaml_text`` read.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _annotated(arguments, value, key)
    if is_union(hint):
        return _of_union(arguments, value, key)
    if hint in (str, Path):
        text = _text(value, key, hint is Path)
        return Path(text) if hint is Path else text
    if hint in (bool, int, float):
        return _scalar(hint, value, key)
    if origin is Literal:
        return _named(arguments, value, key)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _named([one.value for one in hint], value, key)
    if (origin or hint) in _LISTS:
        found = _list(arguments, value, key)
        return found if origin is Sequence else (origin or hint)(found)
    if (origin or hint) in _MAPPINGS and len(arguments) == 2:
        return {name: resolve(arguments[1], own, _below(key, name)) for name, own in _mapping(value, key).items()}
    if (kinds := types_of(hint)) is not None:
        return _choice(kinds, value, key)
    if dataclasses.is_dataclass(hint):
        return build(hint, _mapping(value, key), key)
    return _plain(value, key)


def build(kind: type[Settings], content: Mapping[str, object], key: str = "", rules: FieldRules = NO_RULES) -> Settings:
    """A dataclass of a mapping's values. Raises UserError for an unknown, a missing and a wrong key, naming it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in content:
        if name not in fields:
            raise UnknownKeyError(_below(key, name), _nearest(name, fields))
    values = {name: resolve(hints[name], value, _below(key, name)) for name, value in content.items()}
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{_below(key, name)}: missing, and there is no default; say what it is")
    for name, rule in rules.rules.items():
        own = values.get(name)
        if (own is not None or isinstance(rule, NotEmpty)) and (fault := broken(rule, own)):
            raise UserError(f"{_below(key, name)}: {fault}")
    try:
        return kind(**values)
    except UserError:
        raise  # names its key
    except Exception as error:  # the libraries' own dataclasses raise whatever they like
        message = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key or 'recipe'}: {message[:_LONGEST]}") from error


def types_of(hint: object) -> Mapping[str, type] | None:
    """The dataclasses by ``type:`` of a hint that leaves a choice, None of others: also of a class that is chosen."""
    if isinstance(hint, type) and issubclass(hint, Choices):
        return hint.BY_TYPE
    if _is_registry(hint):
        known = hint.get_known_choices()
        return None if hint in known.values() else known
    return None


def _is_registry(hint: object) -> bool:
    """Whether a hint is a class of draccus that knows its types; there is none before draccus is imported, which takes
    a third of the time to the first message."""
    choices = sys.modules.get("draccus.choice_types")
    return choices is not None and isinstance(hint, type) and issubclass(hint, choices.ChoiceType)


def check_saved(kind: type, content: Mapping[str, object], key: str) -> None:
    """Raises UserError where settings that a dataclass wrote lack one of its fields, or one is wrong.

    What is a dataclass itself is left to who loads it: libraries write fields that they do not take.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name not in content:
            raise UserError(f"{_below(key, field.name)}: missing")
        hint = hints[field.name]
        if not dataclasses.is_dataclass(hint) and not _is_registry(hint):
            resolve(hint, content[field.name], _below(key, field.name))


def _annotated(arguments: Sequence[object], value: object, key: str) -> object:
    hint, rule = arguments
    if isinstance(rule, FieldRules):
        return build(hint, _mapping(value, key), key, rule)
    found = resolve(hint, value, key)
    if fault := broken(rule, found):
        raise UserError(f"{key}: {fault}")
    return found


def _of_union(hints: Sequence[object], value: object, key: str) -> object:
    """The value as the one of several types that it has; a text where it has none and one of them is text."""
    content = value.value if isinstance(value, Written) else value
    if content is None and type(None) in hints:
        return None
    hints = [hint for hint in hints if hint is not type(None)]
    if len(hints) == 1:
        return resolve(hints[0], value, key)
    lists = [hint for hint in hints if (typing.get_origin(hint) or hint) in _LISTS]
    if lists and _is_override(value) and (str not in hints or _WORDS_WITH_COMMAS.fullmatch(content)):
        return resolve(lists[0], value, key)
    for hint in hints:
        if _is_of(hint, content):
            return resolve(hint, value, key)
    kinds = [hint for hint in hints if isinstance(hint, type) and issubclass(hint, enum.Enum)]
    if kinds:
        return resolve(kinds[0], value, key)
    if str in hints:
        return _text(value, key)
    raise UserError(f"{key}: {shown(_plain(value, key))} is none of what it can be: {_words(hints)}")


def _is_override(value: object) -> bool:
    """Whether a value is a word of the command line, where a list is written ``A,B``; in files words are texts."""
    return isinstance(value, Written) and isinstance(value.value, str)


def _is_of(hint: object, content: object) -> bool:
    """Whether a value, as YAML reads it, is of a type without any doubt; true is no int, a list no text."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return any(type(content) is type(one) and content == one for one in typing.get_args(hint))
    if origin in (bool, int):
        return type(content) is origin
    if origin is float:
        return type(content) in (int, float)
    if origin in _LISTS:
        return isinstance(content, list)
    return isinstance(content, dict) and (origin in _MAPPINGS or dataclasses.is_dataclass(origin))


def _text(value: object, key: str, is_path: bool = False) -> str:
    """A text: what was written, even if it reads as a number or a boolean."""
    if isinstance(value, Written):
        if value.value is None:
            raise UserError(f"{key}: null, but it needs a {'path' if is_path else 'text'}")
        value = value.value if is_path and isinstance(value.value, (dict, list)) else value.text
    if not isinstance(value, str):
        raise UserError(f"{key}: {_kind(value)} where a {'path' if is_path else 'text'} belongs")
    try:
        (os.fsencode if is_path else str.encode)(value)
    except UnicodeEncodeError:
        raise UserError(f"{key}: {shown(value)} holds half a character (a lone surrogate)") from None
    if "\0" in value:
        raise UserError(f"{key}: {shown(value)} holds a NUL character, which no file name and no text can")
    if is_path and not value:
        raise UserError(f"{key}: empty, but it needs a path")
    return value


def _scalar(kind: type, value: object, key: str) -> object:
    content = _plain(value, key)
    if not _is_of(kind, content):
        raise UserError(f"{key}: {shown(content)} is not {_WORDS[kind]}")
    if kind is float and not math.isfinite(content):
        raise UserError(f"{key}: {content} is not a finite number")
    return content


def _named(names: Collection[object], value: object, key: str) -> object:
    """A value that is one of ``names``, texts among them."""
    for given in (value.text, value.value) if isinstance(value, Written) else (value,):
        for name in names:
            if type(given) is type(name) and given == name:
                return name
    given = value.text if isinstance(value, Written) else value
    raise UserError(f"{key}: {shown(given)} is none of {', '.join(map(str, names))}{_hint(given, names)}")


def _list(arguments: Sequence[object], value: object, key: str) -> list:
    content = value.value if isinstance(value, Written) else value
    if _is_override(value):
        content = [read_value(part) for part in content.split(",")]
    if not isinstance(content, list):
        raise UserError(f"{key}: {_kind(_plain(value, key))} where a list belongs, such as [a, b]")
    hint = arguments[0] if arguments else object
    return [resolve(hint, own, f"{key}[{place}]") for place, own in enumerate(content)]


def _choice(kinds: Mapping[str, type], value: object, key: str) -> object:
    """The settings of one of several types, chosen by ``type:``."""
    content = dict(_mapping(value, key))
    known = sorted(kinds)
    if "type" not in content:
        raise UserError(f"{_below(key, 'type')}: missing; it is one of {', '.join(known)}")
    name = _named(known, content.pop("type"), _below(key, "type"))
    return build(kinds[name], content, key)


def _mapping(value: object, key: str) -> dict:
    content = value.value if isinstance(value, Written) else value
    if not isinstance(content, dict):
        raise UserError(f"{key}: {_kind(_plain(value, key))} where keys with values belong")
    return content


def _plain(value: object, key: str) -> object:
    try:
        return plain(value)
    except YamlError as fault:
        raise UserError(f"{key}: {fault}") from None


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}


def _words(hints: Sequence[object]) -> str:
    return ", ".join(_WORDS.get(typing.get_origin(hint) or hint, "keys with values") for hint in hints)


def _kind(value: object) -> str:
    """A value in a message: what it is, where showing it would not help."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "a mapping"
    return "null" if value is None else shown(value)


def _below(key: str, name: str) -> str:
    name = name if len(name) <= 80 else f"{name[:80]}..."
    return f"{key}.{name}" if key else name


def _nearest(name: str, known: Collection[str]) -> str:
    if hint := _hint(name, known):
        return hint.removeprefix("; ")
    if not known:
        return "nothing can be set here"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"known are {', '.join(list(known)[:_MOST_NAMES])}{more}"


def _hint(name: object, known: Collection[object]) -> str:
    names = [one for one in known if isinstance(one, str)]
    near = difflib.get_close_matches(name[:80], names, 1) if isinstance(name, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""
