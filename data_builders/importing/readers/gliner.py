"""GLiNER's JSON: a list of objects of ``tokenized_text`` and ``ner``, spans [first token, last token, type]; or of
``text`` and ``entities``, as its predictions have them; or of GLiNER2's ``input`` and ``output``, mentions by type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_builders.importing.fields import Fields, is_offset, read_items
from data_builders.importing.readers.char_spans import post_of
from data_builders.importing.records import Left, Mention, Post, Source
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError


def read_gliner(path: Path, _: Mapping[str, str]) -> Source:
    """A post an object. The last token of a span is part of it, as GLiNER has it. Raises UserError."""
    left: list[Left] = []
    return Source([_post(Fields(item, place), left) for place, item in read_items(path)], left=left)


def _post(own: Fields, left: list[Left]) -> Post:
    if own.has("input"):
        return _of_output(own)
    key = own.first("tokenized_text", "tokens")
    if own.has("text") and not own.has(key):
        return post_of(own.raw, own.place, left)
    if not own.has(key):
        raise own.fail("tokenized_text", "a list of tokens, and there is no text and no input")
    tokens = own.strings(key)
    mentions = [_mention(span, len(tokens), f"{own.place}: ner[{n}]") for n, span in enumerate(own.list("ner"))]
    image = own.string("image")
    return Post(own.place, own.name("id"), tokens=tokens, mentions=tuple(mentions), image=image)


def _of_output(own: Fields) -> Post:
    by_type = own.fields("output").fields("entities")
    mentions = [Mention(kind, text) for kind in by_type.raw for text in by_type.strings(kind)]
    return Post(own.place, own.name("id"), own.string("input"), mentions=tuple(mentions), image=own.string("image"))


def _mention(span: object, length: int, place: str) -> Mention:
    if type(span) is not list or len(span) != 3 or not all(map(is_offset, span[:2])) or type(span[2]) is not str:
        raise UserError(f"{place}: {shown(span)} is not [first token, last token, type]")
    first, last, kind = span
    if not first <= last < length or not kind:
        raise UserError(f"{place}: {shown(span)} does not lie within the {length} tokens, or has no type")
    return Mention(kind, span=(first, last + 1))
