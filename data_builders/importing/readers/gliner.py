"""GLiNER's JSON: a list of objects of ``tokenized_text`` and ``ner``, spans [first token, last token, type]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_builders.importing.fields import Fields, is_offset, read_items
from data_builders.importing.records import Mention, Post, Source
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError


def read_gliner(path: Path, _: Mapping[str, str]) -> Source:
    """A post an object. The last token of a span is part of it, as GLiNER has it. Raises UserError."""
    return Source([_post(Fields(item, place)) for place, item in read_items(path)])


def _post(own: Fields) -> Post:
    key = own.first("tokenized_text", "tokens")
    if not own.has(key):
        raise own.fail("tokenized_text", "a list of tokens")
    tokens = own.strings(key)
    mentions = [_mention(span, len(tokens), f"{own.place}: ner[{n}]") for n, span in enumerate(own.list("ner"))]
    image = own.string("image")
    return Post(own.place, own.name("id"), tokens=tokens, mentions=tuple(mentions), image=image)


def _mention(span: object, length: int, place: str) -> Mention:
    if type(span) is not list or len(span) != 3 or not all(map(is_offset, span[:2])) or type(span[2]) is not str:
        raise UserError(f"{place}: {shown(span)} is not [first token, last token, type]")
    first, last, kind = span
    if not first <= last < length or not kind:
        raise UserError(f"{place}: {shown(span)} does not lie within the {length} tokens, or has no type")
    return Mention(kind, span=(first, last + 1))
