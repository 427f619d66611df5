"""The grammar of an answer: which tokens may come next, so that whatever a model writes can be read.

What comes next depends on what was written before: an expression for each entity, a box for each visible one, mentions
in the order of the post. So the grammar is a program that writes an answer and asks for each token: a generator that
yields what may follow, and is sent the token that was chosen. Labels, words and types are written in the tokens that
they have in training, so it is known how many tokens an ending takes, and nothing is begun that leaves no room for it.

Of what ``serialization.parse`` reads without an error, this leaves out: entities that begin no later than the one
before, and in free text control characters and the "<" that could open a control token or a location.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.serialization import NO, NO_ENTITY, YES, line_start
from rivegs_mllm.models.generation.boxes import boxes_of
from rivegs_mllm.models.generation.mentions import Mentions
from rivegs_mllm.models.generation.vocabulary import Vocabulary, open_end
from rivegs_mllm.models.generation.writing import Ids, Room, Writing, choose, write

_TO_FINISH = 4
"""Tokens before a text must end from which no character is begun that a token does not finish: the most of one."""

_LINE_FEED = ord("\n")
_Line = tuple[str, int]
"""A line by its segment and the number of its entity."""


class Grammar:
    """The answers that a prompt may have, in at most ``max_new_tokens``, the end token among them.

    ``segments`` are those that are written, ``words`` those of the post, ``size`` is (width, height) of its picture,
    None without one, ``locations`` the ids of the location tokens, if there are any. ``given`` are the entities of a
    forced prefix by their numbers, and whether each is visible, None where that is not said.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        answer_format: AnswerFormat,
        segments: Sequence[str],
        words: Sequence[str],
        size: tuple[int, int] | None,
        locations: Sequence[int],
        max_new_tokens: int,
        given: Mapping[int, bool | None],
    ):
        self.vocabulary = vocabulary
        self.segments = [segment for segment in segments if segment != "boxes" or size is not None]
        self.mentions = Mentions(vocabulary, words, answer_format.types) if "entities" in segments else None
        boxed = size is not None and "boxes" in segments
        self.boxes = boxes_of(vocabulary, answer_format, size, locations) if boxed else None
        self.max_new_tokens = max_new_tokens
        self.room = Room(max_new_tokens)
        self.visible = dict(given)
        self.begun: _Line | None = None  # a line whose label the model has chosen before its turn
        self.ended = False
        self.none, self.yes, self.no = (vocabulary.spell(f"{text}\n") for text in (NO_ENTITY, YES, NO))
        self.newline, self.end = vocabulary.spell("\n"), (vocabulary.eos,)

    def writing(self) -> Writing[None]:
        """Writes the answer and its end token. Knowledge may take a half of the tokens, an expression an eighth."""
        if "knowledge" in self.segments:
            yield from write(self.vocabulary.spell(line_start("knowledge")))
            yield from self._text(self.max_new_tokens // 2, 1 + len(self.none) * (self.mentions is not None))
        if self.mentions:
            yield from self._entities(self.mentions)
        numbers = list(self.visible)
        for place, number in enumerate(numbers if "expressions" in self.segments else ()):
            yield from self._begin("expressions", number)
            yield from self._text(self.max_new_tokens // 8, self._least(numbers[place + 1 :], numbers))
        for place, number in enumerate(numbers if "visible" in self.segments else ()):
            yield from self._begin("visible", number)
            yield from self._decision(number, numbers[place + 1 :])
        if self.boxes:
            yield from self._boxes()
        if not self.ended:
            yield from write(self.end)

    def _label(self, segment: str, number: int) -> Ids:
        return self.vocabulary.spell(line_start(segment, number))

    def _begin(self, segment: str, number: int) -> Writing[None]:
        if self.begun != (segment, number):
            yield from write(self._label(segment, number))
        self.begun = None

    def _least(self, expressions: Iterable[int] = (), visible: Iterable[int] = ()) -> int:
        """The fewest tokens in which an answer ends that still has these lines to write, and a box for each entity
        that is visible so far."""
        least = len(self.end)
        if "expressions" in self.segments:
            least += sum(len(self._label("expressions", number) + self.newline) for number in expressions)
        if "visible" in self.segments:
            least += sum(len(self._label("visible", number) + self.no) for number in visible)
        return least + sum(map(self._least_boxes, [number for number, seen in self.visible.items() if seen]))

    def _least_boxes(self, number: int) -> int:
        return len(self._label("boxes", number)) + self.boxes.least_line if self.boxes else 0

    def _text(self, most: int, after: int) -> Writing[None]:
        """Free text to the line's end, of at most so many tokens; ``after`` is the least that follows."""
        most = min(most, self.room.left - after - len(self.newline))
        before = b""
        for left in range(most, 0, -1):
            token = yield self.vocabulary.text(before, left <= _TO_FINISH)
            written = before + self.vocabulary.bytes[token]
            if written[-1] == _LINE_FEED:
                return
            before = open_end(written)
        self.room.short = True
        yield from write(self.newline)

    def _entities(self, mentions: Mentions) -> Writing[None]:
        """Lines of entities that begin one after the other in the post, or that of none; perhaps the next label.

        As each begins after the one before, no mention is written more often than it occurs.
        """
        first = 0
        while True:
            lines = self._after_entities()
            number = len(self.visible) + 1
            label, word = self._label("entities", number), mentions.shortest[first]
            after = self._least(range(1, number + 1), range(1, number + 1))
            if word and self.room.fits(len(label + word) + mentions.ending, after):
                lines["entities", number] = label
            line = list(lines)[(yield from choose(lines.values()))]
            if line != ("entities", number):
                self.begun, self.ended = line, line is None and number > 1
                return
            self.visible[number] = None
            first = 1 + (yield from mentions.write(first, self.room, after))

    def _after_entities(self) -> dict[_Line | None, Ids]:
        """What may follow the entities so far: the next label, or None, the end of the answer or of the segment."""
        if not self.visible:
            return {None: self.none}
        for segment in ("expressions", "visible"):
            if segment in self.segments:
                return {(segment, 1): self._label(segment, 1)}
        return {None: self.end, **self._next_boxes(list(self.visible))}

    def _decision(self, number: int, others: Sequence[int]) -> Writing[None]:
        after = self._least(visible=others) + self._least_boxes(number)
        options = [self.no, self.yes] if self.room.fits(len(self.yes), after) else [self.no]
        self.visible[number] = (yield from choose(options)) == 1

    def _boxes(self) -> Writing[None]:
        """A line for each entity that is visible, and for those where that is not said if the model likes."""
        numbers = list(self.visible)
        while numbers and not self.ended:
            if self.begun is None:
                lines = self._next_boxes(numbers)
                if not any(self.visible[number] for number in numbers):
                    lines = {None: self.end, **lines}
                line = list(lines)[(yield from choose(lines.values()))]
                self.begun, self.ended = line, line is None
            if self.begun:
                number, self.begun = self.begun[1], None
                numbers = numbers[numbers.index(number) + 1 :]
                self.visible[number] = False  # its box is no longer to be written
                yield from self.boxes.write(self.room, self._least())

    def _next_boxes(self, numbers: Sequence[int]) -> dict[_Line | None, Ids]:
        """The labels of boxes that may come next: none beyond an entity that is visible."""
        lines: dict[_Line | None, Ids] = {}
        for number in [number for number in numbers if self.boxes and self.visible[number] is not False]:
            if self.visible[number] or self.room.fits(self._least_boxes(number), self._least()):
                lines["boxes", number] = self._label("boxes", number)
            if self.visible[number]:
                break
        return lines
