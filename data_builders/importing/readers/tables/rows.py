"""Rows of a table as posts: a row a post, or a row a mention, whose rows of one post are put together."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import orjson

from data_builders.formats.tags import spans_of
from data_builders.importing.fields import Fields, is_number, numbers_of
from data_builders.importing.readers.tables.columns import Columns, format_in
from data_builders.importing.records import Mention, Post, Region, Source
from data_builders.importing.regions.box_formats import BoxFormat, parse
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Mask, UserError

_LONGEST_LITERAL = 2**20
_NUMBERS = re.compile(r"[-+.\d]+(?:[\s,;]+[-+.\d]+){3}")
_TRUTH = (
    ("true", "false"), ("yes", "no"), ("1", "0"), ("visible", "invisible"), ("visible", "not visible"),
    ("wahr", "falsch"), ("ja", "nein"), ("vrai", "faux"), ("oui", "non"), ("verdadero", "falso"), ("sí", "no"),
    ("vero", "falso"), ("sì", "no"), ("verdadeiro", "falso"), ("sim", "não"), ("waar", "onwaar"), ("ja", "nee"),
)  # fmt: skip
"""As people and spreadsheets write it: in English, German, French, Spanish, Italian, Portuguese and Dutch."""

_TRUE, _FALSE = ({pair[place] for pair in _TRUTH} for place in (0, 1))
UNDECIDED = "undecided"
"""What a column says of a mention of which nobody has decided whether the picture shows it."""


def read_rows(rows: Iterable[tuple[str, Mapping[str, object]]], columns: Columns, comma: bool = False) -> Source:
    """The posts of a table's rows, each with its place. ``comma``: numbers in cells may have a decimal comma.

    Raises UserError.
    """
    posts: dict[tuple, Post] = {}
    boxes = columns.boxes
    for place, row in rows:
        own = Row(place, row, columns, comma)
        post = own.post()
        boxes = boxes or own.boxes
        key = (post.split, post.id) if post.id else (post.split, post.image, post.text, post.tokens)
        before = posts.get(key)
        if before is None or "mention" not in columns.names:
            # A table of posts may hold an id twice, which is then two posts.
            posts[key if before is None else (*key, place)] = post
            continue
        if (before.text, before.tokens) != (post.text, post.tokens):
            raise UserError(f"{place}: id: {shown(post.id)} has another text here than at {before.place}")
        posts[key] = _joined(before, post)
    return Source(list(posts.values()), boxes, columns.layout, [columns.in_words()])


def _joined(first: Post, second: Post) -> Post:
    return replace(
        first,
        mentions=(*first.mentions, *second.mentions),
        regions=(*first.regions, *second.regions),
        size=first.size or second.size,
    )


class Row:
    """A row, its values by the names of fields; what is empty, or no number, is None. ``boxes`` is the format of the
    boxes of entities, where their own names say it."""

    def __init__(self, place: str, row: Mapping[str, object], columns: Columns, comma: bool):
        self.place = place
        self.values = {field: _given(row.get(column)) for field, column in columns.names.items()}
        self.corners = [_given(row.get(column)) for column in columns.corners]
        self.comma = comma
        self.columns = columns
        self.boxes: BoxFormat | None = None

    def post(self) -> Post:
        tokens = self._list("tokens")
        if tokens is not None and not all(type(token) is str for token in tokens):
            raise self._fail("tokens", "a list of strings")
        mentions, regions = self._mentions(tokens)
        image = self.values.get("image")
        picture = image.get("bytes") if isinstance(image, dict) else image if isinstance(image, bytes) else None
        name = (image.get("path") if isinstance(image, dict) else image) or ""
        knowledge = self._list("knowledge") or []
        if not all(type(text) is str for text in knowledge):
            raise self._fail("knowledge", "a text, or a list of texts")
        return Post(
            place=self.place,
            id=self._string("id"),
            text=self._string("text") if self.values.get("text") is not None else None if tokens is not None else "",
            tokens=None if tokens is None else tuple(tokens),
            mentions=tuple(mentions),
            regions=tuple(regions),
            image="" if isinstance(name, bytes) else self._string("image") if not isinstance(image, dict) else name,
            picture=picture if isinstance(picture, bytes) else b"",
            size=self._size(),
            split=self._string("split"),
            knowledge=tuple(knowledge),
            subset=self._string("subset"),
        )

    def _mentions(self, tokens: list | None) -> tuple[list[Mention], list[Region]]:
        mentions, regions = [], []
        tags = self._list("tags")
        if tags is not None:
            if tokens is None or len(tags) != len(tokens) or not all(type(tag) is str for tag in tags):
                raise self._fail("tags", "a list of tags, one a token")
            spans, _ = spans_of(tags)
            mentions += [Mention(kind, " ".join(tokens[a:b]), span=(a, b)) for a, b, kind in spans]
        entities = self.values.get("entities")
        if isinstance(entities, str):
            entities = _parsed(entities, self._where("entities"))
        if isinstance(entities, dict):  # as `datasets` has a list of objects: an object of lists
            entities = _turned(entities, self._where("entities"))
        for number, one in enumerate(entities or []):
            self._entity(one, f"{self._where('entities')}[{number}]", mentions, regions)
        if self.values.get("mention") is not None or self.values.get("start") is not None:
            self._own_mention(mentions, regions)
        elif self._boxes_of_row():
            label = self._string("type")
            regions += [Region(label, box=box) for box in self._boxes_of_row()]
        return mentions, regions

    def _own_mention(self, mentions: list[Mention], regions: list[Region]) -> None:
        """The mention and its regions of a table with a row a mention."""
        start, end = (self._integer(name) for name in ("start", "end"))
        if (start is None) != (end is None):
            raise self._fail("end", "given where start is, and only there")
        place = None if start is None else (start, end)
        key = self.place
        in_tokens = self.values.get("text") is None
        mention = Mention(
            self._string("type"),
            self._string("mention"),
            None if in_tokens else place,
            place if in_tokens else None,
            key,
            self._string("expression"),
            *self._visible(self.values.get("visible")),
            self._number("visible_score"),
        )
        if not mention.type:
            raise self._fail("type", "the type of the mention")
        mentions.append(mention)
        regions += regions_of(key, self._boxes_of_row(), self._masks_of_row())

    def _entity(self, one: object, where: str, mentions: list[Mention], regions: list[Region]) -> None:
        """An entity of a column that lists them: [start, end, type], or an object with the names of columns."""
        if type(one) is list and len(one) == 3:
            one = {"start": one[0], "end": one[1], "type": one[2]}
        own = Fields({key: _given(value) for key, value in one.items()} if type(one) is dict else one, where)
        kind = own.first("type", "label", "entity_group", "entity_type", "category")
        text = own.first("text", "mention", "word", "name")
        if own.has("span"):
            span = own.numbers("span", 2)
            place = (int(span[0]), int(span[1]))
        elif own.has("start"):
            place = (own.integer("start"), own.integer("end"))
        else:
            place = None
        in_tokens = own.has("span") or (self.values.get("text") is None and place is not None)
        visible, undecided = self._visible(own.raw.get("visible"))
        named = next((key for key in own.raw if format_in(key)), None)
        boxes_key = named or own.first("boxes", "bboxes", "box", "bbox")
        if named:
            self.boxes = parse(format_in(named))
        boxes = _boxes(own.raw.get(boxes_key), f"{where}: {boxes_key}")
        if place is None and not own.has(text):
            regions += [Region(own.string(kind), box=box) for box in boxes]  # as of detection, which has no mentions
            return
        score = own.number("visible_score") if own.has("visible_score") else None
        span, characters = (place, None) if in_tokens else (None, place)
        name = own.string(text)
        expression = own.string("expression")
        if not own.string(kind):
            raise own.fail(kind, "the type of the entity")
        mention = Mention(own.string(kind), name, characters, span, where, expression, visible, undecided, score)
        mentions.append(mention)
        regions += regions_of(where, boxes, _masks(own.raw.get("masks"), f"{where}: masks"))

    def _boxes_of_row(self) -> list[tuple[float, ...]]:
        if any(value is not None for value in self.corners):
            names = ", ".join(self.columns.corners)
            return [numbers_of([_number(value, self.comma) for value in self.corners], 4, f"{self.place}: {names}")]
        value = self.values.get("boxes")
        return _boxes(_parsed(value, self._where("boxes")) if type(value) is str else value, self._where("boxes"))

    def _masks_of_row(self) -> list[Mask]:
        value = self.values.get("masks")
        return _masks(_parsed(value, self._where("masks")) if type(value) is str else value, self._where("masks"))

    def _visible(self, value: object) -> tuple[bool | None, bool]:
        """Whether a mention is visible, and whether that is said to be undecided."""
        if value is None or type(value) is bool:
            return value, False
        word = str(value).strip().casefold().removesuffix(".0")
        if word == UNDECIDED:
            return None, True
        if word not in (*_TRUE, *_FALSE):
            raise UserError(f"{self._where('visible')}: {shown(value)} is neither true nor false, nor {UNDECIDED}")
        return word in _TRUE, False

    def _size(self) -> tuple[int, int] | None:
        sides = {name: self._number(name) for name in ("image_width", "image_height")}
        return Fields(sides, self.place).size("image_width", "image_height")

    def _string(self, field: str) -> str:
        value = self.values.get(field)
        if value is None or isinstance(value, (str, bytes)):
            return value or "" if not isinstance(value, bytes) else ""
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self._fail(field, "a text")
        return str(value)

    def _number(self, field: str) -> float | None:
        value = self.values.get(field)
        number = None if value is None else _number(value, self.comma)
        if value is not None and not is_number(number):
            raise self._fail(field, "a number")
        return number

    def _integer(self, field: str) -> int | None:
        number = self._number(field)
        if number is not None and number != int(number):
            raise self._fail(field, "a whole number")
        return None if number is None else int(number)

    def _list(self, field: str) -> list | None:
        value = self.values.get(field)
        if type(value) is str:
            if field == "knowledge" and not value.startswith("["):
                return [value]
            value = _parsed(value, self._where(field)) if value.startswith("[") else value.split()
        if value is not None and type(value) is not list:
            raise self._fail(field, "a list")
        return value

    def _where(self, field: str) -> str:
        return f"{self.place}: {self.columns.names.get(field, field)}"

    def _fail(self, field: str, what: str) -> UserError:
        return UserError(f"{self._where(field)}: {shown(self.values.get(field))} is not {what}")


def regions_of(key: str, boxes: list[tuple[float, ...]], masks: list[Mask]) -> list[Region]:
    """The regions of a mention. As many masks as boxes are the same regions."""
    if len(boxes) == len(masks):
        return [Region(key=key, box=box, mask=mask) for box, mask in zip(boxes, masks, strict=True)]
    only = [Region(key=key, mask=mask, derived=True) for mask in masks]
    return [*(Region(key=key, box=box) for box in boxes), *only]


def _given(value: object) -> object:
    """A value as it is; None for an empty cell and for a float that is no number, as pandas has it."""
    if type(value) is str:
        return value if value.strip() else None
    return None if type(value) is float and math.isnan(value) else value


def _number(value: object, comma: bool = False) -> object:
    """A number, also from a text in a cell, there with a decimal ``comma`` or a point."""
    if type(value) is not str:
        return value
    try:
        number = float(value.strip().replace(",", ".") if comma else value.strip())
    except ValueError:
        return value
    return int(number) if math.isfinite(number) and number == int(number) else number


def _parsed(text: str, where: str) -> object:
    """A list in a cell, as JSON or as Python shows it, or the numbers of a box with blanks or commas between them."""
    bare = text.strip().removeprefix("(").removesuffix(")").strip()
    if _NUMBERS.fullmatch(bare):
        return [_number(part) for part in re.split(r"[\s,;]+", bare)]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        if len(text) > _LONGEST_LITERAL:
            raise ValueError
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise UserError(f"{where}: {shown(text)} is no list in JSON") from None


def _boxes(value: object, where: str) -> list[tuple[float, ...]]:
    """A box, or a list of them."""
    if value is None or value == []:
        return []
    if type(value) is list and not any(type(one) is list for one in value):
        value = [value]
    if type(value) is not list:
        raise UserError(f"{where}: {shown(value)} is neither four numbers nor a list of such")
    return [numbers_of(one, 4, where) for one in value]


def _masks(value: object, where: str) -> list[Mask]:
    """A list of COCO's compressed run-length codes."""
    masks = []
    if value is not None and type(value) is not list:
        raise UserError(f"{where}: {shown(value)} is not a list of masks")
    for one in value or []:
        own = Fields(one, where)
        height, width = own.numbers("size", 2)
        masks.append(Mask((int(height), int(width)), own.string("counts")))
    return masks


def _turned(columns: Mapping[str, object], where: str) -> list[dict]:
    """An object of lists as a list of objects."""
    lists = {key: value for key, value in columns.items() if type(value) is list}
    lengths = {len(value) for value in lists.values()}
    if len(lengths) > 1:
        raise UserError(f"{where}: its lists have different lengths")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
