"""The looks of emblems, part by part, and their descriptions in plain English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")

PARTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "PER": (
        ("hair colour", ("black", "brown", "blond", "red", "gray")),
        ("hair style", ("short", "long", "curly")),
        ("glasses", ("without", "with")),
        ("shirt", COLOURS),
    ),
    "LOC": (
        ("stripes", ("horizontal", "vertical")),
        ("first colour", COLOURS),
        ("second colour", COLOURS),
        ("third colour", ("none", *COLOURS)),
        ("charge", ("none", "star", "disc", "cross")),
    ),
    "ORG": (
        ("outline", ("round", "square", "triangular", "diamond-shaped", "shield-shaped")),
        ("colour", ("red", "green", "blue", "purple", "pink", "gray")),
        ("symbol", ("star", "bolt", "ring", "cross", "arrow")),
        ("symbol colour", ("white", "black", "yellow")),
    ),
    "OTHER": (
        (
            "object",
            ("car", "cup", "guitar", "ball", "boat", "house", "key", "book", "phone", "hat", "fish", "umbrella"),
        ),
        ("colour", COLOURS),
    ),
}
"""For each entity type, the parts of its looks in order: a person, a flag, a logo, a thing."""


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one emblem; ``parts`` are values aligned with ``PARTS[type]``.

    Raises ValueError for a value that is not of its part, and for a flag that uses one colour twice.
    """

    type: str
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        kinds = PARTS[self.type]
        if len(self.parts) != len(kinds):
            raise ValueError(f"a look of type {self.type} has {len(kinds)} parts, not {len(self.parts)}")
        for value, (name, values) in zip(self.parts, kinds, strict=True):
            if value not in values:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(values)}")
        if self.type == "LOC" and len(set(self.parts[1:4])) < 3:
            raise ValueError(f"a flag's colours differ, not {', '.join(self.parts[1:4])}")

    @property
    def expression(self) -> str:
        """The look in at most a dozen words; one to one with the parts."""
        return _DESCRIBE[self.type](*self.parts)

    def distance(self, other: Look) -> int:
        """The number of parts in which two looks of one type differ."""
        return sum(a != b for a, b in zip(self.parts, other.parts, strict=True))


def _person(hair: str, style: str, glasses: str, shirt: str) -> str:
    middle = ", glasses" if glasses == "with" else ""
    return f"a person with {style} {hair} hair{middle} and {_article(shirt)} {shirt} shirt"


def _flag(stripes: str, first: str, second: str, third: str, charge: str) -> str:
    colours = f"{first} and {second}" if third == "none" else f"{first}, {second} and {third}"
    ending = "" if charge == "none" else f" and a {charge}"
    return f"a flag with {colours} {stripes} stripes{ending}"


def _logo(outline: str, colour: str, symbol: str, symbol_colour: str) -> str:
    return f"a {outline} {colour} logo with a {symbol_colour} {symbol}"


def _thing(name: str, colour: str) -> str:
    return f"{_article(colour)} {colour} {name}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


_DESCRIBE = {"PER": _person, "LOC": _flag, "ORG": _logo, "OTHER": _thing}


def _values(kind: str, index: int) -> str:
    return "(" + "|".join(PARTS[kind][index][1]) + ")"


_PER_PATTERN = re.compile(
    f"a person with {_values('PER', 1)} {_values('PER', 0)} hair(, glasses)? and an? {_values('PER', 3)} shirt"
)
_LOC_PATTERN = re.compile(
    f"a flag with {_values('LOC', 1)}(?:, {_values('LOC', 2)})? and {_values('LOC', 2)} {_values('LOC', 0)} stripes"
    f"(?: and a {_values('LOC', 4)})?"
)
_ORG_PATTERN = re.compile(
    f"a {_values('ORG', 0)} {_values('ORG', 1)} logo with a {_values('ORG', 3)} {_values('ORG', 2)}"
)
_OTHER_PATTERN = re.compile(f"an? {_values('OTHER', 1)} {_values('OTHER', 0)}")


def parse_expression(text: str) -> Look | None:
    """The look whose expression is ``text``, or None when it is no look's expression."""
    try:
        look = _match(text)
    except ValueError:
        return None
    return look if look is not None and look.expression == text else None


def _match(text: str) -> Look | None:
    if found := _PER_PATTERN.fullmatch(text):
        style, hair, glasses, shirt = found.groups()
        return Look("PER", (hair, style, "with" if glasses else "without", shirt))
    if found := _LOC_PATTERN.fullmatch(text):
        first, middle, last, stripes, charge = found.groups()
        second, third = (last, "none") if middle is None else (middle, last)
        return Look("LOC", (stripes, first, second, third, charge or "none"))
    if found := _ORG_PATTERN.fullmatch(text):
        outline, colour, symbol_colour, symbol = found.groups()
        return Look("ORG", (outline, colour, symbol, symbol_colour))
    if found := _OTHER_PATTERN.fullmatch(text):
        colour, name = found.groups()
        return Look("OTHER", (name, colour))
    return None


def all_looks(kind: str) -> Iterator[Look]:
    """Every look of a type, in a fixed order."""
    for parts in product(*(values for _, values in PARTS[kind])):
        if kind != "LOC" or len(set(parts[1:4])) == 3:
            yield Look(kind, parts)


def random_look(rng: Random, kind: str) -> Look:
    """A look of a type, each part drawn evenly; flags have two or three stripes equally often."""
    parts = [rng.choice(values) for _, values in PARTS[kind]]
    if kind == "LOC":
        parts[1:4] = rng.sample(COLOURS, 3)
        if rng.random() < 0.5:
            parts[3] = "none"
    return Look(kind, tuple(parts))


def near_look(rng: Random, look: Look) -> Look:
    """A look of the same type that differs from ``look`` in one or two parts: a hard distractor."""
    kinds = PARTS[look.type]
    while True:
        parts = list(look.parts)
        for index in rng.sample(range(len(kinds)), rng.choice((1, 1, 2))):
            parts[index] = rng.choice([value for value in kinds[index][1] if value != parts[index]])
        if look.type != "LOC" or len(set(parts[1:4])) == 3:
            return Look(look.type, tuple(parts))
