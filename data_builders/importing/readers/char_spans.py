"""Texts with spans of characters, as spaCy, Prodigy and Doccano write them: a JSON list or JSON lines.

Each item is an object, or, as in spaCy's training data, a text and its annotations: ``["Ada won", {"entities":
[[0, 3, "PER"]]}]``; a file may be an object of such ``annotations``, as annotators for spaCy write it. Spans are lists
[start, end, type] or objects, under "entities", "ents", "spans", "label", "labels" or "annotations".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_builders.importing.fields import Fields, is_offset, read_items
from data_builders.importing.records import Left, Mention, Post, Source
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

_SPANS = ("entities", "ents", "spans", "label", "labels", "annotations")
_TEXT = ("text", "data", "content")
_START, _END = ("start", "start_offset", "begin"), ("end", "end_offset")
_IMAGE = ("image", "image_path", "file_name")


def read_char_spans(path: Path, columns: Mapping[str, str]) -> Source:
    """The posts of a file. ``columns`` may name the key of the "text". Raises UserError."""
    left: list[Left] = []
    posts = [post_of(item, place, left, columns.get("text", "")) for place, item in _items(path)]
    return Source(posts, left=left)


def _items(path: Path) -> Iterator[tuple[str, object]]:
    for place, item in read_items(path):
        inner = item.get("annotations") if type(item) is dict and "classes" in item else None
        if type(inner) is list:
            yield from ((f"{place}: annotations[{n}]", own) for n, own in enumerate(inner) if own is not None)
        else:
            yield place, item


def post_of(item: object, place: str, left: list[Left], said: str = "") -> Post:
    """An item of a file as a post; ``said`` is the key of its text where the user names it. Raises UserError."""
    if type(item) is list and len(item) == 2 and type(item[1]) is dict:
        item = {**item[1], "text": item[0]}
    own = Fields(item, place)
    # Prodigy keeps what else it knows of a text, such as its picture, under "meta", Doccano beside it.
    beside = own if own.has(*_IMAGE) or type(own.raw.get("meta")) is not dict else own.fields("meta")
    if own.has("relations") and own.list("relations"):
        left.append(Left("relations", place, f"{len(own.list('relations'))} relations between entities are left out"))
    if own.raw.get("answer") in ("reject", "ignore"):
        left.append(Left("rejected", place, f"answered {own.string('answer')!r}; its entities are left out"))
        spans = []
    else:
        spans = own.list(own.first(*_SPANS))
    key = said or own.first(*_TEXT)
    if not own.has(key):
        raise own.fail(said or _TEXT[0], "the text; --columns text=NAME says where it is")
    return Post(
        place=place,
        id=own.name("id"),
        text=own.string(key),
        mentions=tuple(_mention(span, f"{place}: {own.first(*_SPANS)}[{n}]") for n, span in enumerate(spans)),
        image=beside.string(beside.first(*_IMAGE)),
    )


def _mention(span: object, place: str) -> Mention:
    if type(span) is list and len(span) == 3:
        span = dict(zip(("start", "end", "label"), span, strict=True))
    own = Fields(span, place)
    start, end = own.raw.get(own.first(*_START)), own.raw.get(own.first(*_END))
    if not (is_offset(start) and is_offset(end) and start <= end):
        raise UserError(f"{place}: {shown(span)} has no start and end in whole numbers")
    kind = own.name(own.first("type", "label"))  # Doccano's older files number the labels
    if not kind:
        raise own.fail("label", "the type of the entity")
    return Mention(kind, own.string("text"), (start, end))
