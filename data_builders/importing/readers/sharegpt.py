"""ShareGPT's JSON, as LLaMA-Factory and ms-swift have it: a conversation about a picture and its text.

The text is an item's own "text", or what the first turn of the user says but for what all first turns share, which is
the instruction. The mentions are what the first answer names: as JSON (``bbox_2d`` and ``label``, as Qwen2.5-VL and
Qwen3-VL write), between Qwen's marks for references and boxes, by ms-swift's ``objects``, or as lines "Ada (PER)".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from data_builders.importing.fields import Fields, numbers_of, read_items
from data_builders.importing.records import Left, Mention, Numbers, Post, Region, Source
from data_builders.importing.regions.box_formats import PIXELS, BoxFormat
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

UNTYPED = "ENTITY"
"""The type of mentions that an answer names without one."""

_IMAGE_MARK = re.compile(r"<image>|<img>.*?</img>|<\|vision_start\|>.*?<\|vision_end\|>", re.DOTALL)
_REFERENCE = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>)(.*?)(?:</ref>|<\|object_ref_end\|>)"
    r"((?:\s*(?:<box>|<\|box_start\|>)\s*\(.*?\)\s*,\s*\(.*?\)\s*(?:</box>|<\|box_end\|>))*)",
    re.DOTALL,
)
_CORNERS = re.compile(r"\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)\s*,\s*\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)")
_TYPED = re.compile(r"(.*\S)\s*\(([^()]+)\)")
_LINE = re.compile(r"(?:[-*\d.)]+\s+)?(.*\S)\s*\(([^()]+)\)\s*[,;.]?")
_TEXT, _TYPE = ("mention", "text", "entity", "name", "label"), ("type", "entity_type", "category")
_BOX = ("bbox_2d", "bbox", "box", "boxes")
_MARKS = BoxFormat("xyxy", 1000.0)


@dataclass(frozen=True, slots=True)
class _Named:
    """A thing that an answer names."""

    text: str
    type: str
    boxes: tuple[Numbers, ...] = ()
    expression: str = ""
    visible: bool | None = None
    undecided: bool = False


def read_sharegpt(path: Path, _: Mapping[str, str]) -> Source:
    """A post a conversation. Raises UserError."""
    items = [Fields(item, place) for place, item in read_items(path)]
    asked = [_turns(own) for own in items]
    head, tail = _instruction([question for question, _ in asked])
    left: list[Left] = []
    notes = [f"instruction: {shown(text)} is what all questions share; it is no text" for text in (head, tail) if text]
    posts, formats = [], set()
    for own, (question, answer) in zip(items, asked, strict=True):
        named, boxes = _named(own, answer, left)
        formats |= {boxes} if any(one.boxes for one in named) else set()
        text = own.string("text") if own.has("text") else question.removeprefix(head).removesuffix(tail).strip()
        posts.append(_post(own, text, named))
    if len(formats) > 1:
        raise UserError(f"{path}: boxes of {' and '.join(str(own or 'another kind') for own in formats)} in one file")
    if any(mention.type == UNTYPED for post in posts for mention in post.mentions):
        notes.append(f"types: answers name none for some mentions, which become {UNTYPED}")
    return Source(posts, next(iter(formats), None), "xyxy", notes, left)


def _turns(own: Fields) -> tuple[str, str]:
    """What the user first says, without the picture's mark, and what is answered."""
    said = {"user": "", "assistant": ""}
    for turn in own.each("messages" if own.has("messages") else "conversations"):
        who = turn.string(turn.first("role", "from"))
        who = {"human": "user", "gpt": "assistant"}.get(who, who)
        key = turn.first("content", "value")
        content = turn.raw.get(key)
        if type(content) is list:
            parts = [part.get("text") for part in content if type(part) is dict]
            content = "\n".join(part for part in parts if type(part) is str)
        if type(content) is not str:
            raise turn.fail(key, "a text")
        if who in said and not said[who]:
            said[who] = content
    return _IMAGE_MARK.sub("", said["user"]).strip(), said["assistant"]


def _instruction(questions: Sequence[str]) -> tuple[str, str]:
    """What all questions begin and end with, up to the end of a line or a colon; "" twice for fewer than two."""
    distinct = sorted(set(questions))
    if len(distinct) < 2:
        return "", ""
    head = _shared(distinct)
    cut = max(head.rfind("\n"), head.rfind(": ") + 1, head.rfind(":") if head.endswith(":") else 0)
    head = head[: cut + 1] if cut > 0 else ""
    rests = [question.removeprefix(head)[::-1] for question in distinct]
    tail = _shared(rests)[::-1]
    return head, tail[tail.index("\n") :] if "\n" in tail else ""


def _shared(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    length = next((place for place, letter in enumerate(first) if last[place : place + 1] != letter), len(first))
    return first[:length]


def _named(own: Fields, answer: str, left: list[Left]) -> tuple[list[_Named], BoxFormat | None]:
    """What an answer names, and the format of its boxes."""
    if own.has("objects"):
        objects = own.fields("objects")
        return _of_objects(objects), BoxFormat("xyxy", 1.0) if objects.string("bbox_type") == "norm1" else PIXELS
    if _REFERENCE.search(answer):
        return [_of_reference(found) for found in _REFERENCE.finditer(answer)], _MARKS
    content = _json_in(answer)
    if content is not None:
        return [_of_object(Fields(one, f"{own.place}: answer[{n}]")) for n, one in enumerate(content)], None
    lines = [line for line in answer.splitlines() if line.strip()]
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    for line, match in zip(lines, found, strict=True):
        if match is None:
            left.append(Left("answer not read", own.place, f"{shown(line)} names no mention in a form that is known"))
    return [_Named(match[1], match[2]) for match in found if match], None


def _of_objects(objects: Fields) -> list[_Named]:
    """ms-swift's: references and boxes in the same order, the boxes of one reference under its number or in turn."""
    names, boxes = objects.strings("ref"), objects.list("bbox")
    if boxes and len(boxes) != len(names):
        raise objects.fail("bbox", f"as long a list as ref, of {len(names)}")
    found = []
    for number, name in enumerate(names):
        own = (numbers_of(boxes[number], 4, f"{objects.place}: bbox[{number}]"),) if boxes else ()
        found.append(_Named(*_with_type(name), own))
    return found


def _of_reference(found: re.Match) -> _Named:
    boxes = tuple(tuple(float(edge) for edge in corners.groups()) for corners in _CORNERS.finditer(found[2]))
    return _Named(*_with_type(found[1].strip()), boxes)


def _of_object(own: Fields) -> _Named:
    text = own.string(own.first(*_TEXT))
    kind = own.string(own.first(*_TYPE))
    if not own.has("type", "entity_type", "category"):
        text, kind = _with_type(text)
        if own.has("label") and own.first(*_TEXT) != "label":
            kind = own.string("label")
    value = own.raw.get(own.first(*_BOX))
    nested = type(value) is list and value and type(value[0]) is list
    boxes = value if nested else [value] if value else []
    numbers = tuple(numbers_of(box, 4, f"{own.place}: {own.first(*_BOX)}") for box in boxes)
    undecided = "visible" in own.raw and own.raw["visible"] is None
    return _Named(text, kind, numbers, own.string("expression"), own.truth("visible"), undecided)


def _with_type(name: str) -> tuple[str, str]:
    """ "Ada (PER)" as its two parts."""
    typed = _TYPED.fullmatch(name)
    return (typed[1], typed[2]) if typed else (name, UNTYPED)


def _json_in(answer: str) -> list | None:
    """The list of objects in an answer, between a fence's lines or bare; None where there is none."""
    text = answer.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if text[:1] not in ("[", "{"):
        return None
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    content = content.get("entities", [content]) if type(content) is dict else content
    return content if type(content) is list and all(type(one) is dict for one in content) else None


def _post(own: Fields, text: str, named: Sequence[_Named]) -> Post:
    mentions, regions = [], []
    for mention in _merged(named):
        key = str(len(mentions))
        boxes = mention.boxes
        mentions.append(
            Mention(
                mention.type,
                mention.text,
                key=key,
                expression=mention.expression,
                visible=mention.visible,
                undecided=mention.undecided,
            )
        )
        regions += [Region(key=key, box=box) for box in boxes]
    images = own.list("images") or ([own.raw["image"]] if own.has("image") else [])
    image = images[0] if images else ""
    image = image.get("path") if type(image) is dict else image
    return Post(
        place=own.place,
        id=own.name("id"),
        text=text,
        tokens=own.strings("tokens") if own.has("tokens") else None,
        mentions=tuple(mentions),
        regions=tuple(regions),
        image=image if type(image) is str else "",
        size=own.size("width", "height"),
        split=own.string("split"),
    )


def _merged(named: Sequence[_Named]) -> Iterator[_Named]:
    """Things named again directly behind each other, each with its own box, are one with several."""
    last: _Named | None = None
    for one in named:
        if last and one.boxes and last.boxes and (one.text, one.type) == (last.text, last.type):
            last = replace(last, boxes=(*last.boxes, *one.boxes))
            continue
        if last:
            yield last
        last = one
    if last:
        yield last
