"""The encyclopedia: each name's type, look and what is known of it. It stands in for an LLM that knows the names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import orjson

from data_builders.emblems.language import describe, invent_names
from data_builders.emblems.looks import Look, all_looks
from rivegs_mllm.runtime.files import write_bytes
from rivegs_mllm.types import TYPES, UserError

SHARES = {"PER": 0.375, "LOC": 0.1875, "ORG": 0.25, "OTHER": 0.1875}
"""The shares of the types among names, flatter than among mentions, so that each type has several names."""


@dataclass(frozen=True, slots=True)
class NameEntry:
    """A name. ``seen`` names may occur in every split, the others only in the posts of test marked "unseen".

    ``knowledge`` holds one text a teacher.
    """

    name: str
    type: str
    seen: bool
    look: Look
    knowledge: tuple[str, ...]


def make_encyclopedia(rng: Random, names: int, unseen: int) -> tuple[NameEntry, ...]:
    """``names`` seen and ``unseen`` unseen entries.

    Looks of one type differ in two parts or more as long as there are such looks, and always in one. Raises
    UserError when a type would get no name, or more names than it has looks.
    """
    kinds = [*_kinds(names), *_kinds(unseen)]
    looks = {kind: _distinct_looks(rng, kind, kinds.count(kind)) for kind in TYPES}
    entries = []
    for index, (name, kind) in enumerate(zip(invent_names(rng, kinds), kinds, strict=True)):
        entries.append(NameEntry(name, kind, index < names, looks[kind].pop(), describe(rng, name, kind)))
    return tuple(entries)


def write_encyclopedia(path: Path, entries: tuple[NameEntry, ...]) -> None:
    """One JSON object a line: name, type, seen, expression, knowledge."""
    lines = [
        {
            "name": entry.name,
            "type": entry.type,
            "seen": entry.seen,
            "expression": entry.look.expression,
            "knowledge": entry.knowledge,
        }
        for entry in entries
    ]
    write_bytes(path, b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))


def _kinds(count: int) -> list[str]:
    """``count`` types, divided by SHARES."""
    numbers = {kind: int(count * share) for kind, share in SHARES.items()}
    for kind in sorted(TYPES, key=lambda kind: numbers[kind] - count * SHARES[kind])[: count - sum(numbers.values())]:
        numbers[kind] += 1
    if min(numbers.values()) < 1:
        raise UserError(
            f"{count} names are too few to give each of the types {', '.join(TYPES)} one; ask for 8 or more"
        )
    return [kind for kind in TYPES for _ in range(numbers[kind])]


def _distinct_looks(rng: Random, kind: str, count: int) -> list[Look]:
    every = list(all_looks(kind))
    if count > len(every):
        raise UserError(f"{count} names of type {kind}, but only {len(every)} looks; ask for fewer names")
    rng.shuffle(every)
    apart: list[Look] = []
    for look in every:
        if all(look.distance(other) > 1 for other in apart):
            apart.append(look)
    chosen = set(apart)
    close = [look for look in every if look not in chosen]
    return [*apart, *close][:count]
