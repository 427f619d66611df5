"""The keys of every kind of recipe and what values they take, known without importing the models that they are for.

``keys.json`` beside this file holds them; ``python -m rivegs_mllm.cli.write_key_table`` writes it from the dataclasses,
and has to whenever one of these changes. What is read from it are dataclasses of the same names, fields and rules.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.metadata
import json
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rivegs_mllm.config.bounds import Bounds, FieldRules, NotEmpty, OneOf, Rule, is_union
from rivegs_mllm.config.check import Choices, types_of
from rivegs_mllm.runtime.files import write_text

PATH = Path(__file__).with_name("keys.json")
LIBRARIES = {"train": "transformers", "lora": "peft"}
"""Sections whose settings are a library's own, which another version of it may have others of."""

_NAMES = {"bool": bool, "int": int, "float": float, "text": str, "path": Path, "null": type(None), "any": object}
_RULES = {"bounds": Bounds, "one of": OneOf, "not empty": NotEmpty}


def as_table(kinds: Iterable[type]) -> dict[str, dict[str, object]]:
    """The table of recipes' dataclasses, as JSON has it."""
    writer = _Writer()
    roots = {kind.__name__: writer.hint(kind) for kind in kinds}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES.values()}
    return {"versions": versions, "recipes": roots, "choices": writer.choices, "settings": writer.settings}


def write_table(table: Mapping[str, Mapping[str, object]]) -> None:
    """Writes ``keys.json``, a line an entry, so that a change is seen in a diff."""
    parts = []
    for name, entries in table.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(own, ensure_ascii=False)}" for key, own in entries.items()]
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    write_text(PATH, "{\n" + ",\n".join(parts) + "\n}\n")


@dataclass
class _Writer:
    """Type hints as JSON. ``settings`` has the fields of each dataclass, ``choices`` the dataclasses by type."""

    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    choices: dict[str, dict[str, object]] = field(default_factory=dict)

    def hint(self, hint: object) -> object:
        """One hint: a name, or a list of what it is and its parts."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            rule = arguments[1]
            if isinstance(rule, FieldRules):
                return ["rules", self.hint(arguments[0]), {name: _as_json(own) for name, own in rule.rules.items()}]
            return ["rule", self.hint(arguments[0]), _as_json(rule)]
        if is_union(hint):
            return ["union", *sorted(map(self.hint, arguments), key=json.dumps)]  # typing keeps no order of its own
        if origin is Literal:
            return ["literal", *arguments]
        if origin in (list, set, tuple, Sequence):
            return ["list", *map(self.hint, arguments[:1])]
        if origin in (dict, Mapping) and len(arguments) == 2:
            return ["mapping", self.hint(arguments[1])]
        if hint in (dict, list):
            return ["mapping"] if hint is dict else ["list"]
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return ["names", *(one.value for one in hint)]
        return self._named(hint)

    def _named(self, hint: object) -> object:
        for name, kind in _NAMES.items():
            if hint is kind:
                return name
        if (types := types_of(hint)) is not None:
            name = _name(hint)
            if name not in self.choices:
                self.choices[name] = {}
                self.choices[name] |= {own: self.hint(types[own]) for own in sorted(types)}
            return ["choice", name]
        if not dataclasses.is_dataclass(hint):
            return "any"
        name = _name(hint)
        if name not in self.settings:
            self.settings[name] = {}
            hints = typing.get_type_hints(hint, include_extras=True)
            for own in (own for own in dataclasses.fields(hint) if own.init):
                needed = own.default is own.default_factory is dataclasses.MISSING
                self.settings[name][own.name] = [self.hint(hints[own.name]), *(["needed"] if needed else [])]
        return ["settings", name]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _as_json(rule: Rule) -> list[object]:
    name = next(name for name, kind in _RULES.items() if isinstance(rule, kind))
    return [name, {key: own for key, own in dataclasses.asdict(rule).items() if own is not None}]


@dataclass(frozen=True)
class KeyTable:
    """``recipes``: a dataclass for each kind of recipe, by the name of the one that is decoded into. ``other``: the
    sections of libraries that are installed in another version than the table was made with, and the keys that the
    table has of them: the library may have more."""

    recipes: Mapping[str, type]
    other: Mapping[str, Collection[str]]


@functools.cache
def key_table() -> KeyTable:
    """What ``keys.json`` holds."""
    content = json.loads(PATH.read_bytes())
    reader = _Reader(content["settings"], content["choices"])
    recipes = {name: reader.hint(own) for name, own in content["recipes"].items()}
    versions = content["versions"]
    sections = {own.name: own.type for own in dataclasses.fields(recipes["Recipe"])}
    other = {
        key: [own.name for own in dataclasses.fields(typing.get_args(sections[key])[0])]
        for key, name in LIBRARIES.items()
        if versions[name] != importlib.metadata.version(name)
    }
    return KeyTable(recipes, other)


@dataclass
class _Reader:
    """Type hints of JSON; each dataclass and choice is made once."""

    settings: Mapping[str, Mapping[str, list]]
    choices: Mapping[str, Mapping[str, object]]
    made: dict[str, type] = field(default_factory=dict)

    def hint(self, written: object) -> object:
        """The hint that ``_Writer.hint`` has written."""
        if isinstance(written, str):
            return _NAMES[written]
        what, *parts = written
        if what == "rules":
            return Annotated[self.hint(parts[0]), FieldRules({name: _rule(own) for name, own in parts[1].items()})]
        if what == "rule":
            return Annotated[self.hint(parts[0]), _rule(parts[1])]
        if what == "union":
            return typing.Union[tuple(map(self.hint, parts))]  # noqa: UP007
        if what == "literal":
            return Literal[tuple(parts)]
        if what == "names":
            return enum.Enum("Names", {f"name{place}": own for place, own in enumerate(parts)})
        if what == "list":
            return list[self.hint(parts[0])] if parts else list
        if what == "mapping":
            return dict[str, self.hint(parts[0])] if parts else dict
        return self._choice(parts[0]) if what == "choice" else self._settings(parts[0])

    def _choice(self, name: str) -> type:
        if name not in self.made:
            self.made[name] = type(name, (Choices,), {"BY_TYPE": {}})
            self.made[name].BY_TYPE.update({own: self.hint(kind) for own, kind in self.choices[name].items()})
        return self.made[name]

    def _settings(self, name: str) -> type:
        if name not in self.made:
            fields = [
                (key, self.hint(hint), field(default=dataclasses.MISSING if needed else None))
                for key, (hint, *needed) in self.settings[name].items()
            ]
            self.made[name] = dataclasses.make_dataclass(name.rpartition(".")[2], fields, kw_only=True)
        return self.made[name]


def _rule(written: list) -> Rule:
    name, values = written
    return _RULES[name](**{key: tuple(own) if isinstance(own, list) else own for key, own in values.items()})
