"""Writing that is held to something: a generator that yields the tokens that may follow, and is sent the chosen one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class AllBut:
    """Any token may follow but those of which ``table`` (columns,) says so."""

    table: np.ndarray
    tokens: np.ndarray
    """Their ids."""


Allowed: TypeAlias = "tuple[int, ...] | np.ndarray | AllBut"
"""The tokens that may follow, or those that may not."""
Ids: TypeAlias = tuple[int, ...]
Result = TypeVar("Result")
Writing: TypeAlias = Generator[Allowed, int, Result]


@dataclass
class Room:
    """How many tokens may still be written; ``short`` once something could not be written for want of them."""

    left: int
    short: bool = False

    def fits(self, tokens: int, after: int) -> bool:
        """Whether so many tokens can be written, and then ``after`` more."""
        fits = tokens + after <= self.left
        self.short |= not fits
        return fits


def goes_on(writing: Writing, allowed: Allowed, token: int) -> Allowed | None:
    """What may follow the token, None at the end. Raises RuntimeError for one that is not among ``allowed``."""
    if allowed.table[token] if isinstance(allowed, AllBut) else token not in allowed:
        raise RuntimeError(f"token {token} was chosen, which the grammar of answers does not allow there")
    try:
        return writing.send(token)
    except StopIteration:
        return None


def choose(options: Iterable[Ids], first: int | None = None) -> Writing[int]:
    """One of several texts is written; returns its place among them. None is the beginning of another.

    ``first`` is its first token where that is written already.
    """
    alive = [(number, ids) for number, ids in enumerate(options) if first is None or ids[0] == first]
    place = 0 if first is None else 1
    while len(alive[0][1]) > place:
        following = defaultdict(list)
        for option in alive:
            following[option[1][place]].append(option)
        alive = following[(yield tuple(following))]
        place += 1
    return alive[0][0]


def write(ids: Ids) -> Writing[None]:
    """This text is written."""
    for token in ids:
        yield (token,)
