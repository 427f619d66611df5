"""The values that a setting can have, as annotations of its field: ``batch_size: PositiveInt = 8``.

A recipe's values are held to them where it is read (``check``), and its dataclasses hold themselves to them
through ``check_bounds``, so that a recipe made in Python cannot be wrong either.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Union

from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError


@dataclass(frozen=True)
class Bounds:
    """A number from ``low`` to ``high``, both included; ``above`` and ``below`` are bounds that are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def fits(self, value: float) -> bool:
        """Whether a number lies within the bounds; NaN and infinity never do."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {"at least": self.low, "more than": self.above, "at most": self.high, "less than": self.below}
        return "a number of " + " and ".join(f"{word} {bound:,}" for word, bound in words.items() if bound is not None)


@dataclass(frozen=True)
class OneOf:
    """A text that is one of ``names``."""

    names: tuple[str, ...]

    def fits(self, value: str) -> bool:
        """Whether it is one of them."""
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class NotEmpty:
    """A text that must be given, for a field that its library leaves optional."""

    def fits(self, value: str | None) -> bool:
        """Whether there is anything in it."""
        return bool(value)

    def __str__(self) -> str:
        return "a text that says something"


Rule = Bounds | OneOf | NotEmpty


@dataclass(frozen=True)
class FieldRules:
    """Rules for fields of a library's dataclass, which has none of its own."""

    rules: Mapping[str, Rule]


NO_RULES = FieldRules({})


# Upper bounds are beyond any use: they are for mistyped numbers, which would fail late or run for ever.
PositiveInt = Annotated[int, Bounds(1, 10**9)]
NonNegativeInt = Annotated[int, Bounds(0, 10**9)]
Seed = Annotated[int, Bounds(0, 2**32 - 1)]  # NumPy takes no other
PositiveFloat = Annotated[float, Bounds(above=0, high=1e9)]
NonNegativeFloat = Annotated[float, Bounds(0, 1e9)]
Probability = Annotated[float, Bounds(0, 1)]
Dropout = Annotated[float, Bounds(0, below=1)]
BatchSize = Annotated[int, Bounds(1, 2**16)]
TokenCount = Annotated[int, Bounds(1, 2**20)]
Pixels = Annotated[int, Bounds(1, 2**27)]  # as MOST_PIXELS of the answer format
Side = Annotated[int, Bounds(1, 2**16)]
Concurrency = Annotated[int, Bounds(1, 10_000)]


def check_bounds(settings: object) -> None:
    """Raises UserError that names the first field of a dataclass, or of those in it, whose value breaks its rule."""
    for key, fault in _faults(type(settings), settings, ""):
        raise UserError(f"{key}: {fault}")


def broken(rule: Rule, value: object) -> str:
    """The message about a value that breaks a rule, "" where it does not."""
    return "" if rule.fits(value) else f"{shown(value)} is not {rule}"


def is_union(hint: object) -> bool:
    """Whether a type hint is a union, ``Optional`` among them."""
    return typing.get_origin(hint) in (Union, UnionType)


def _faults(hint: object, value: object, key: str) -> Iterator[tuple[str, str]]:
    """The keys and faults of a value, by its type hint."""
    if value is None:
        return
    if typing.get_origin(hint) is Annotated:
        hint, *rules = typing.get_args(hint)
        for rule in rules:
            if isinstance(rule, FieldRules):
                yield from _library_faults(rule, value, key)
            elif fault := broken(rule, value):
                yield key, fault
        if any(isinstance(rule, FieldRules) for rule in rules):
            return  # a library's own dataclass is its own business
    if is_union(hint):
        (hint, *others) = [one for one in typing.get_args(hint) if one is not type(None)]
        if others:
            return
        yield from _faults(hint, value, key)
    elif dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value), include_extras=True)
        for field in dataclasses.fields(value):
            own = f"{key}.{field.name}" if key else field.name
            yield from _faults(hints[field.name], getattr(value, field.name), own)
    elif isinstance(value, Mapping) and len(typing.get_args(hint)) == 2:
        for name, own in value.items():
            yield from _faults(typing.get_args(hint)[1], own, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(typing.get_args(hint)) == 1:
        for place, own in enumerate(value):
            yield from _faults(typing.get_args(hint)[0], own, f"{key}[{place}]")


def _library_faults(fields: FieldRules, value: object, key: str) -> Iterator[tuple[str, str]]:
    for name, rule in fields.rules.items():
        own = getattr(value, name)
        if own is not None and (fault := broken(rule, own)):
            yield f"{key}.{name}", fault
