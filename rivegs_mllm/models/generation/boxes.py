"""Boxes as an answer may write them: within the picture, and with an area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.models.generation.writing import Ids, Room, Writing, choose, write


class LocationBoxes:
    """Boxes of four location tokens, whose ids are ``locations``."""

    def __init__(self, vocabulary: Vocabulary, locations: Sequence[int]):
        self.locations = np.array(locations)
        self.places = {token: place for place, token in enumerate(locations)}
        self.blank, self.end = vocabulary.spell(" "), vocabulary.spell("\n")
        self.most = len(self.blank) + 4
        """Tokens of a box and what comes before it."""
        self.least_line = self.most + len(self.end)

    def write(self, room: Room, after: int) -> Writing[None]:
        """From the label to the line's end; ``after`` is the least that follows the line."""
        yield from write(self.blank)
        while True:
            left = self.places[(yield self.locations[:-1])]
            upper = self.places[(yield self.locations[:-1])]
            yield self.locations[left + 1 :]
            yield self.locations[upper + 1 :]
            options = [self.end, self.blank] if room.fits(self.least_line, after) else [self.end]
            if (yield from choose(options)) == 0:
                return


class NumberBoxes:
    """Boxes of four numbers on a grid of (across, down) steps."""

    def __init__(self, vocabulary: Vocabulary, grid: tuple[int, int]):
        self.digits = vocabulary.digits
        self.across, self.down = grid
        texts = (" [", ", ", "], [", "]\n")
        self.begin, self.comma, self.between, self.end = map(vocabulary.spell, texts)
        numbers = 2 * sum(len(str(limit)) for limit in grid) + 3 * len(self.comma)
        self.most = max(len(self.begin), len(self.between)) + numbers
        self.least_line = self.most + len(self.end)

    def write(self, room: Room, after: int) -> Writing[None]:
        """From the label to the line's end; ``after`` is the least that follows the line."""
        yield from write(self.begin)
        while True:
            left, _ = yield from self._number(0, self.across - 1, [self.comma])
            upper, _ = yield from self._number(0, self.down - 1, [self.comma])
            yield from self._number(left + 1, self.across, [self.comma])
            digits = len(str(self.down))
            options = [self.end, self.between] if room.fits(digits + self.least_line, after) else [self.end]
            _, option = yield from self._number(upper + 1, self.down, options)
            if option == 0:
                return

    def _number(self, low: int, high: int, after: Sequence[Ids]) -> Writing[tuple[int, int]]:
        """A number from ``low`` to ``high``, and one of ``after``; returns it, and which."""
        text = ""
        while True:
            ends = {ids[0] for ids in after} if text and low <= int(text) else set()
            more = [token for token, digits in self.digits.items() if _can_begin(text + digits, low, high)]
            token = yield (*ends, *more)
            if token in ends:
                return int(text), (yield from choose(after, first=token))
            text += self.digits[token]


def _can_begin(text: str, low: int, high: int) -> bool:
    """Whether a number from ``low`` to ``high`` begins with these digits."""
    number, more = int(text), len(str(high)) - len(text)
    if text[0] == "0":
        return text == "0" and low == 0
    return any(number * 10**n <= high and (number + 1) * 10**n > low for n in range(more + 1))


def boxes_of(
    vocabulary: Vocabulary, answer_format: AnswerFormat, size: tuple[int, int], locations: Sequence[int]
) -> LocationBoxes | NumberBoxes:
    """The boxes of a picture of ``size`` = (width, height) in the format's box language."""
    if answer_format.encoding == "loc":
        return LocationBoxes(vocabulary, locations)
    return NumberBoxes(vocabulary, answer_format.grid(size))
