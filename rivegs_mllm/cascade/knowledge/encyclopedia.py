"""An encyclopedia of names: what each looks like and what is known of it, found in posts however they write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from rivegs_mllm.runtime.foreign import numbered_lines, shown
from rivegs_mllm.types import UserError

_POSSESSIVES = ("'s", "’s")


@dataclass(frozen=True, slots=True)
class Entry:
    """A name, its ``expression``, and ``knowledge``: one text a teacher."""

    name: str
    expression: str
    knowledge: tuple[str, ...]


class Encyclopedia:
    """Entries by name. Case, a possessive ending and punctuation around words make no difference."""

    def __init__(self, entries: Sequence[Entry]):
        self.entries = {_words(entry.name.split()): entry for entry in entries}
        self.longest = max(map(len, self.entries), default=0)

    def find(self, mention: str) -> Entry | None:
        """The entry of a mention, None where there is none."""
        return self.entries.get(_words(mention.split()))

    def names_in(self, tokens: Sequence[str]) -> list[Entry]:
        """The entries whose names the tokens hold, each once, in the order of the text; of two the longer name."""
        words = [_word(token) for token in tokens]
        found: list[Entry] = []
        index = 0
        while index < len(words):
            for length in range(min(self.longest, len(words) - index), 0, -1):
                entry = self.entries.get(tuple(words[index : index + length]))
                if entry is not None:
                    found.append(entry)
                    index += length - 1
                    break
            index += 1
        return list(dict.fromkeys(found))


def read_encyclopedia(path: Path) -> Encyclopedia:
    """Reads one JSON object a line: ``name``, and ``expression`` and ``knowledge`` (a list) where there are any.

    Other keys are left alone. Raises UserError naming file and line, also for a name that comes twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    entries: dict[tuple[str, ...], Entry] = {}
    for number, line in numbered_lines(path):
        entry = _entry(line, f"{path}:{number}")
        words = _words(entry.name.split())
        if words in entries:
            other = entries[words].name
            raise UserError(f"{path}:{number}: {shown(entry.name)} is the same name as {shown(other)}")
        entries[words] = entry
    return Encyclopedia(tuple(entries.values()))


def _entry(line: bytes, where: str) -> Entry:
    try:
        raw = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if type(raw) is not dict:
        raise UserError(f"{where}: not a JSON object")
    given = {key: value for key, value in raw.items() if value is not None}  # null is left out, as pandas writes it
    name, expression, knowledge = given.get("name"), given.get("expression", ""), given.get("knowledge", [])
    if type(name) is not str or not _words(name.split()):
        raise UserError(f"{where}: name: {shown(name)} is no name")
    if type(expression) is not str:
        raise UserError(f"{where}: expression: {shown(expression)} is not a string")
    if type(knowledge) is not list or not all(type(text) is str for text in knowledge):
        raise UserError(f"{where}: knowledge: {shown(knowledge)} is not a list of strings")
    return Entry(name, expression, tuple(knowledge))


def _words(tokens: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in map(_word, tokens) if word)


def _word(token: str) -> str:
    """The token as names are compared: "Tutus's," and "TUTUS" are the same word; a lone "'s" is none."""
    word = token.casefold()
    while word and not word[-1].isalnum():
        word = word[:-1]
    for ending in _POSSESSIVES:
        word = word.removesuffix(ending)
    while word and not word[0].isalnum():
        word = word[1:]
    return word
