r"""An answer is a cascade, written down: a record as text, and text as a record.

One line a thing, in five segments, every line ended by a line feed::

    knowledge: Kevin Durant played for the Warriors, the Rockets are their rivals.
    entity 1: Kevin Durant (PER)
    entity 2: Rockets (ORG)
    expression 1: a tall man in a white jersey
    expression 2: a red logo with an R
    visible 1: yes
    visible 2: no
    box 1: <loc_10><loc_20><loc_30><loc_40>

- A post without entity has ``entity: none`` as its entities segment, and nothing after it.
- The segments are those of the format. An entity has one line in each of them, in the boxes segment only if visible.
- Entities stand in the order of the text. An entity is at the first occurrence of its mention that starts at or after
  the end of the entity before it; if there is none, at the first that no earlier entity has. One that is elsewhere
  names its occurrence in the post, counted from 1: ``entity 2: Paris (LOC, 2)``.
- Line breaks, backslashes and the opening ``<|`` of a model's control tokens are escaped as in JSON, so that text stays
  on its line and stays text. Blanks survive, the leading and trailing ones too.
- ``boxes`` without ``visible``: an entity is visible if it has a box. Neither: visibility is not said.
- Without a size there is no picture: no box is written or read, and an undecided entity is written as not visible.

Masks and ``visible_score`` are no part of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rivegs_mllm.answer.format import SEGMENTS, AnswerFormat
from rivegs_mllm.data.mentions import find_spans
from rivegs_mllm.types import Box, Entity, Prediction, UserError

YES, NO = " yes", " no"
"""The words of the visibility decision as they follow ``line_start("visible", n)``: one token each."""
NO_ENTITY = "entity: none"
"""The line of a post without entity."""

_LABELS = dict(zip(SEGMENTS, ("knowledge", "entity", "expression", "visible", "box"), strict=True))
_DECISIONS = {YES.strip(): True, NO.strip(): False}
_SEGMENT_OF = {label: segment for segment, label in _LABELS.items()}
# At most six digits: no post has more entities, and int() raises from 4300 digits on.
_LINE = re.compile(r"(knowledge|entity|expression|visible|box)(?: ([0-9]{1,6}))?: ?(.*)")
# Greedy, so that the last bracket holds the type: a mention may have brackets of its own.
_ENTITY = re.compile(r"(.+) \(([^(),]+)(?:, ([0-9]{1,6}))?\)")

# What str.splitlines breaks at, the backslash itself, and "<" where it would open a control token.
_TO_ESCAPE = re.compile("[\\\\\n\r\v\f\x1c-\x1e\x85\u2028\u2029]|<(?=\\||loc_[0-9]|/?(?:tool_|think))")
_SHORT_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = re.compile(r"\\(?:([\\nr])|u([0-9a-f]{4}))")
_LETTERS = {"\\": "\\", "n": "\n", "r": "\r"}

Span = tuple[int, int]


@dataclass(frozen=True)
class AnswerLine:
    """A line of an answer with its line feed, and the segment it belongs to."""

    segment: str
    text: str


def in_text_order(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """The entities as an answer numbers them: by their spans, those without a span last, else as given."""
    return tuple(sorted(entities, key=text_order))


def text_order(entity: Entity) -> tuple:
    """What ``in_text_order`` sorts by."""
    return entity.span is None, entity.span or ()


def line_start(segment: str, number: int | None = None) -> str:
    """The beginning of a line, up to where the model decides: ``line_start("visible", 1)`` is ``"visible 1:"``.

    ``number`` is the entity's, from 1; None for the knowledge.
    """
    return f"{_LABELS[segment]}:" if number is None else f"{_LABELS[segment]} {number}:"


def render(
    tokens: Sequence[str],
    knowledge: str,
    entities: Iterable[Entity],
    answer_format: AnswerFormat,
    size: tuple[int, int] | None,
) -> tuple[AnswerLine, ...]:
    """The answer that says this, line by line; the texts of the lines joined are the answer.

    ``size`` is (width, height) of the original picture, None without one; boxes are in its pixels. The lines of the
    first segments do not depend on the later ones, so ``render(..., answer_format.up_to(segment), ...)`` gives the
    first lines of the whole. Raises UserError for what an answer of this format cannot express.
    """
    ordered = in_text_order(entities)
    writers = {
        "knowledge": lambda: [_line("knowledge", None, escape(knowledge))],
        "entities": lambda: _entity_lines(tokens, ordered, answer_format),
        "expressions": lambda: [
            _line("expressions", number, escape(entity.expression)) for number, entity in enumerate(ordered, 1)
        ],
        "visible": lambda: [
            _line("visible", number, "yes" if _is_visible(entity, size) else "no")
            for number, entity in enumerate(ordered, 1)
        ],
        "boxes": lambda: _box_lines(ordered, answer_format, size),
    }
    return tuple([piece for segment in answer_format.segments for piece in writers[segment]()])


def parse(
    id: str,
    text: str,
    tokens: Sequence[str],
    answer_format: AnswerFormat,
    size: tuple[int, int] | None,
    scores: Mapping[int, float] | None = None,
) -> Prediction:
    """The prediction in an answer about the post ``id`` with these tokens and a picture of ``size`` = (width, height).

    Never raises: any text is accepted and kept as ``raw``, and ``errors`` lists what could not be read. Lines may stand
    in any order; of two for the same field the first counts. A mention that is not in the post has no span; a type
    that the format does not have is kept; boxes of an entity that is predicted not to be visible are dropped. Boxes
    are in pixels of the original picture. ``scores`` is the probability of being visible by the number that the answer
    gives the entity.
    """
    lines, errors = _read_lines(text, answer_format)
    knowledge = lines.get(("knowledge", None))
    if "knowledge" in answer_format.segments and knowledge is None:
        errors.append("no knowledge line")
    entities, faults = _read_entities(lines, tokens, answer_format, size, scores or {})
    return Prediction(id, _unescape(knowledge or ""), entities, raw=text, errors=(*errors, *faults))


def given_entities(text: str, answer_format: AnswerFormat) -> dict[int, bool | None]:
    """The number of each entity in the beginning of an answer, and whether it is visible, None where not said."""
    lines, _ = _read_lines(text, answer_format)
    return {
        number: _DECISIONS.get(lines.get(("visible", number), "").strip())
        for segment, number in lines
        if segment == "entities" and number is not None
    }


def _line(segment: str, number: int | None, content: str) -> AnswerLine:
    start = line_start(segment, number)
    return AnswerLine(segment, f"{start} {content}\n" if content else f"{start}\n")


def _entity_lines(tokens: Sequence[str], entities: Sequence[Entity], answer_format: AnswerFormat) -> list[AnswerLine]:
    if not entities:
        return [AnswerLine("entities", f"{NO_ENTITY}\n")]
    pieces, spans = [], _Spans(tokens)
    for number, entity in enumerate(entities, 1):
        if entity.type not in answer_format.types:
            raise UserError(
                f"entity {entity.text!r}: type {entity.type!r} is not one of {', '.join(answer_format.types)}"
            )
        if not entity.text:
            raise UserError(f"entity {number} of type {entity.type} has no mention")
        kind, expected = entity.type, spans.expected(entity.text)
        if entity.span is not None and entity.span != expected:
            kind = f"{kind}, {spans.occurrence(entity.text, entity.span)}"
        spans.take(entity.span or expected)
        pieces.append(_line("entities", number, f"{escape(entity.text)} ({kind})"))
    return pieces


def _box_lines(
    entities: Sequence[Entity], answer_format: AnswerFormat, size: tuple[int, int] | None
) -> list[AnswerLine]:
    if size is None:
        return []
    pieces = []
    for number, entity in enumerate(entities, 1):
        if _is_visible(entity, size) and entity.boxes:
            pieces.append(_line("boxes", number, answer_format.encode_boxes(entity.boxes, size)))
        elif _is_visible(entity, size) and "visible" not in answer_format.segments:
            raise UserError(f"entity {entity.text!r} is visible without a box, which needs the segment 'visible'")
    return pieces


def _is_visible(entity: Entity, size: tuple[int, int] | None) -> bool:
    if entity.boxes:
        if entity.visible is False:
            raise UserError(f"entity {entity.text!r} has boxes, but is not visible")
        return True
    if entity.visible is None and size is not None:
        raise UserError(f"entity {entity.text!r}: whether it is visible is not known; leave out 'visible' and 'boxes'")
    return bool(entity.visible)


class _Spans:
    """The places of a post's entities, taken in the order of the answer. Spans are token offsets, end-exclusive."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self.taken: set[Span] = set()
        self.end = 0

    def occurrences(self, mention: str) -> list[Span]:
        return find_spans(self.tokens, mention.split(" "))

    def expected(self, mention: str) -> Span | None:
        """The span of the next entity if its line does not name the occurrence."""
        spans = self.occurrences(mention)
        ahead = [span for span in spans if span[0] >= self.end]
        free = [span for span in spans if span not in self.taken]
        return next(iter(ahead + free), None)

    def occurrence(self, mention: str, span: Span) -> int:
        """The number, from 1, of the occurrence at ``span``."""
        spans = self.occurrences(mention)
        if span not in spans:
            found = " ".join(self.tokens[slice(*span)])
            raise UserError(f"entity {mention!r}: the tokens of its span {list(span)} are {found!r}")
        return spans.index(span) + 1

    def find(self, mention: str, occurrence: int | None) -> tuple[Span | None, str]:
        """The span that an entity line gives its entity, and what is wrong with that, "" if nothing."""
        found = self.occurrences(mention)
        if not found:
            return None, f"{_shown(mention)} is not in the post"
        if occurrence is None:
            span = self.expected(mention)
            return span, "" if span else f"every {_shown(mention)} of the post has its entity already"
        if 1 <= occurrence <= len(found):
            return found[occurrence - 1], ""
        return self.expected(mention), f"{_shown(mention)} has no occurrence {occurrence} in the post"

    def take(self, span: Span | None) -> None:
        if span is not None:
            self.taken.add(span)
            self.end = span[1]


_Lines = dict[tuple[str, int | None], str]


def _read_lines(text: str, answer_format: AnswerFormat) -> tuple[_Lines, list[str]]:
    """The contents of the lines by segment and number, and the errors of lines that cannot be read."""
    lines: _Lines = {}
    errors = []
    *whole, rest = text.split("\n")
    if rest:
        whole.append(rest)
        errors.append(f"the last line is truncated: {_shown(rest)}")
    for line in whole:
        match = _LINE.fullmatch(line)
        segment = match and _SEGMENT_OF[match[1]]
        if match is None or (match[2] is None) != (segment == "knowledge" or line == NO_ENTITY):
            if line.strip():
                errors.append(f"not a line of an answer: {_shown(line)}")
            continue
        key = (segment, None if match[2] is None else int(match[2]))
        if segment not in answer_format.segments:
            errors.append(f"the answer format has no segment '{segment}': {_shown(line)}")
        elif key in lines:
            errors.append(f"comes twice: {_shown(line)}")
        else:
            lines[key] = match[3]
    return lines, errors


def _read_entities(
    lines: _Lines,
    tokens: Sequence[str],
    answer_format: AnswerFormat,
    size: tuple[int, int] | None,
    scores: Mapping[int, float],
) -> tuple[tuple[Entity, ...], list[str]]:
    """The entities, and the errors of the lines that describe them."""
    numbers = sorted(number for segment, number in lines if segment == "entities" and number is not None)
    errors = []
    if ("entities", None) not in lines and not numbers and "entities" in answer_format.segments:
        errors.append("no entity line")
    if ("entities", None) in lines and numbers:
        errors.append(f"'{NO_ENTITY}' beside entities")
    entities: dict[int, Entity] = {}
    spans = _Spans(tokens)
    for number in numbers:
        own = {segment: lines[segment, number] for segment in SEGMENTS if (segment, number) in lines}
        entity, faults = _read_entity(own, spans, answer_format, size, scores.get(number))
        if entity is not None:
            entities[number] = entity
        errors += [f"entity {number}: {fault}" for fault in faults]
    errors += [
        f"'{line_start(segment, number)}' belongs to no entity"
        for segment, number in lines
        if segment not in ("knowledge", "entities") and number not in entities
    ]
    return tuple(entities.values()), errors


def _read_entity(
    own: Mapping[str, str],
    spans: _Spans,
    answer_format: AnswerFormat,
    size: tuple[int, int] | None,
    score: float | None,
) -> tuple[Entity | None, list[str]]:
    """The entity that its own lines, by segment, describe; None where its entity line cannot be read."""
    match = _ENTITY.fullmatch(own["entities"])
    if match is None:
        return None, ["not 'mention (type)'"]
    mention, kind, occurrence = _unescape(match[1]), match[2], match[3]
    errors = [] if kind in answer_format.types else [f"unknown type {_shown(kind)}"]
    span, fault = spans.find(mention, None if occurrence is None else int(occurrence))
    spans.take(span)
    if fault:
        errors.append(fault)
    if "expressions" in answer_format.segments and "expressions" not in own:
        errors.append("no expression line")
    visible, boxes, faults = _read_regions(own, answer_format, size)
    expression = _unescape(own.get("expressions", ""))
    return Entity(mention, kind, span, expression, visible, score, boxes), errors + faults


def _read_regions(
    own: Mapping[str, str], answer_format: AnswerFormat, size: tuple[int, int] | None
) -> tuple[bool | None, tuple[Box, ...], list[str]]:
    """Whether the entity is visible, its boxes, and what is wrong with these lines."""
    boxes, errors = _read_boxes(own.get("boxes"), answer_format, size)
    boxed = "boxes" in answer_format.segments and size is not None
    if "visible" not in answer_format.segments:
        return (bool(boxes) if boxed else None), boxes, errors
    visible = _DECISIONS.get(own.get("visible", "").strip())
    if "visible" not in own:
        errors.append("no visible line")
    elif visible is None:
        errors.append(f"visible is {_shown(own['visible'])}, neither yes nor no")
    if visible is False and boxes:
        return visible, (), [*errors, f"not visible, so its {len(boxes)} boxes are left out"]
    if visible and not boxes and boxed:
        errors.append("visible without a box")
    return visible, boxes, errors


def _read_boxes(
    content: str | None, answer_format: AnswerFormat, size: tuple[int, int] | None
) -> tuple[tuple[Box, ...], list[str]]:
    if content is None:
        return (), []
    if size is None:
        return (), ["boxes without a picture"]
    boxes, errors = answer_format.decode_boxes(content, size)
    return tuple(boxes), errors


def escape(text: str) -> str:
    """Text that stays on its line and opens no control token; ``parse`` undoes it."""
    return _TO_ESCAPE.sub(lambda match: _SHORT_ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return _LETTERS[match[1]]
    character = chr(int(match[2], 16))
    return match[0] if "\ud800" <= character <= "\udfff" else character  # half a surrogate pair is no text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
