"""Mentions as an answer may write them: words of the post that follow each other, and a type."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rivegs_mllm.answer.serialization import escape
from rivegs_mllm.data.mentions import find_spans
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.models.generation.writing import Ids, Room, Writing

_NOT_IN_A_WORD = re.compile("[ \ud800-\udfff]")


@dataclass(slots=True)
class _Reading:
    """One way to read what is written of a line: a mention from the word ``start`` on, its last word so far the one
    before ``end``. ``place`` tokens are written of ``ids``, which are those of that word or, if ``ending``, of what
    ends the line."""

    start: int
    end: int
    ids: Ids
    place: int = 0
    ending: bool = False


class Mentions:
    """The mentions of a post of these ``words``, each with one of ``types``."""

    def __init__(self, vocabulary: Vocabulary, words: Sequence[str], types: Sequence[str]):
        self.vocabulary = vocabulary
        self.words = tuple(words)
        self.types = tuple(types)
        self.texts = [f" {escape(word)}" if _can_be_written(word) else "" for word in words]
        self.ids = [ids or () for ids in vocabulary.spell_all(self.texts)]
        self.heads = _heads(self.ids)
        self.longest = max(map(len, self.ids), default=0)
        self.shortest = [*accumulate(reversed(self.ids), _shorter, initial=())][::-1]
        """From each word on the one of fewest tokens; none where there is none, as after the last."""
        self.counts = Counter(words)
        self.ends = [vocabulary.spell(_end(kind, None)) for kind in types]
        self.ending = max(len(vocabulary.spell(_end(kind, len(self.words)))) for kind in types)
        """The most tokens that a line's end may have."""

    def write(self, first: int, room: Room, after: int, begun: bytes = b"") -> Writing[int]:
        """From the label to the line's end: a mention from the word ``first`` or a later one on, and its type.

        Returns the first word at which it may begin. ``after`` is the least that follows the line, ``begun`` what of
        the mention is written already.
        """
        rests = self._rests(begun)
        heads = _heads(rests) if begun else self.heads
        if not room.fits(self.longest + self.ending, after):
            fitting = [ids if room.fits(len(ids) + self.ending, after) else () for ids in rests]
            heads = _heads(fitting)
        token = yield tuple([head for head, starts in heads.items() if starts[-1] >= first])
        ways = [_Reading(start, start + 1, rests[start], 1) for start in heads[token] if start >= first]
        while True:
            following = defaultdict(list)
            for way in ways:
                for on in self._ways_on(way, room, after):
                    following[on.ids[on.place]].append(on)
            token = yield tuple(following)
            ways = [_Reading(way.start, way.end, way.ids, way.place + 1, way.ending) for way in following[token]]
            ended = [way.start for way in ways if way.ending and way.place == len(way.ids)]
            if ended:
                return min(ended)

    def goes_on_from(self, begun: bytes) -> bool:
        """Whether there is a mention that begins so, its first word not yet whole."""
        return any(self._rests(begun))

    def _rests(self, begun: bytes) -> Sequence[Ids]:
        """Of each word the tokens after ``begun``, none where it does not begin so."""
        if not begun:
            return self.ids
        texts = [text.encode() if ids else b"" for text, ids in zip(self.texts, self.ids, strict=True)]
        rests = [text[len(begun) :] if text.startswith(begun) else b"" for text in texts]
        return [self.vocabulary.longest_in_turn(rest) or () for rest in rests]

    def _ways_on(self, way: _Reading, room: Room, after: int) -> Iterable[_Reading]:
        """Within a text the way itself; after a word each end of the line, and the next word if it has room."""
        if way.place < len(way.ids):
            return [way]
        ways = [_Reading(way.start, way.end, ids, ending=True) for ids in self._ends(way)]
        word = self.ids[way.end] if way.end < len(self.words) else ()
        if word and room.fits(len(word) + self.ending, after):
            ways.append(_Reading(way.start, way.end + 1, word))
        return ways

    def _ends(self, way: _Reading) -> Iterable[Ids]:
        run = self.words[way.start : way.end]
        if min(self.counts[word] for word in run) == 1 or (count := len(find_spans(self.words, run))) == 1:
            return self.ends
        numbers = [None, *range(1, count + 1)]
        return self.vocabulary.spell_all([_end(kind, number) for kind in self.types for number in numbers])


def _heads(words: Sequence[Ids]) -> dict[int, list[int]]:
    """The places of the words by their first token."""
    heads = defaultdict(list)
    for place, ids in enumerate(words):
        if ids:
            heads[ids[0]].append(place)
    return heads


def _shorter(one: Ids, other: Ids) -> Ids:
    return min(filter(None, (one, other)), key=len, default=())


def _end(kind: str, occurrence: int | None) -> str:
    return f" ({kind})\n" if occurrence is None else f" ({kind}, {occurrence})\n"


def _can_be_written(word: str) -> bool:
    """Whether a mention can have the word: ``parse`` splits at blanks, and half a surrogate pair is no text."""
    return word != "" and not _NOT_IN_A_WORD.search(word)
