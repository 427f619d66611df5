"""Lines of samples that give a text in the place of tokens, and characters in the place of token spans."""

from __future__ import annotations

from typing import Any

from rivegs_mllm.data.field_errors import FieldError
from rivegs_mllm.runtime.foreign import shown


def is_raw_text(raw: dict[str, Any]) -> bool:
    """Whether a line gives a text and no tokens."""
    return raw.get("text") is not None and raw.get("tokens") is None


def tokenized(raw: dict[str, Any]) -> dict[str, Any]:
    """The same line with tokens and spans.

    ``text`` becomes ``tokens``, and of each entity ``start`` and ``end``, characters of the text, end-exclusive, become
    ``span``. An entity that begins or ends within a token splits it. An entity's own ``text`` may be left out.
    Raises FieldError for a text or a place of an entity that is wrong.
    """
    from rivegs_mllm.data.alignment import align  # here, since its regular expressions take a while to import

    text, entities = raw["text"], raw.get("entities") or []
    if type(text) is not str:
        raise FieldError(f"text: {shown(text)} is not a string")
    if type(entities) is not list or not all(type(entity) is dict for entity in entities):
        raise FieldError("entities: not a list of objects")
    places = [_place(entity, text, f"entities[{index}]") for index, entity in enumerate(entities)]
    aligned = align(text, places)
    found = []
    for index, (entity, span) in enumerate(zip(entities, aligned.spans, strict=True)):
        if span is None:
            raise FieldError(f"entities[{index}]: {list(places[index])} holds no word of the text")
        kept = {key: value for key, value in entity.items() if key not in ("start", "end")}
        found.append({**kept, "text": " ".join(aligned.tokens[slice(*span)]), "span": list(span)})
    kept = {key: value for key, value in raw.items() if key not in ("text", "tokens", "entities")}
    return {**kept, "tokens": list(aligned.tokens), "entities": found}


def _place(entity: dict[str, Any], text: str, where: str) -> tuple[int, int]:
    start, end = entity.get("start"), entity.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise FieldError(
            f"{where}: start and end {shown([start, end])} are not characters of the text, which has {len(text)}"
        )
    if entity.get("span") is not None:
        raise FieldError(f"{where}.span: has no meaning where the line gives a text; leave it out")
    given, found = entity.get("text"), text[start:end]
    if given is not None and (type(given) is not str or given.split() != found.split()):
        raise FieldError(f"{where}.text: {shown(given)} is not what stands at {[start, end]}, {shown(found)}")
    return start, end
