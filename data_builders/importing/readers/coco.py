"""COCO's JSON: images, annotations with boxes and polygons or run-length masks, categories.

COCO itself has no texts. They are looked for where people put them: in an image's "text", "caption", "tweet" or
"sentence", or among the annotations, as in COCO's captions. What an annotation shows is said by its "mention", "text",
"phrase" or "name", there or among its "attributes", by "tokens_positive" (characters of the caption, as in MDETR's
files), or by its category alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pycocotools import mask as coco

from data_builders.importing.fields import Fields, is_number, offsets_of, read_json
from data_builders.importing.records import Left, Mention, Post, Region, Source
from data_builders.importing.regions.box_formats import BoxFormat
from rivegs_mllm.data.images import MAX_PIXELS
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Mask, UserError

TEXT = ("text", "caption", "tweet", "sentence")
MENTION = ("mention", "text", "phrase", "name")


def read_coco(path: Path, columns: Mapping[str, str]) -> Source:
    """A post an image. ``columns`` may name the images' "text". Raises UserError."""
    content = read_json(path)
    if type(content) is not dict or "images" not in content:
        raise UserError(f"{path}: not COCO's JSON, an object of images, annotations and categories")
    whole = Fields(content, str(path))
    categories = {own.name("id"): own.string("name") for own in whole.each("categories")}
    posts: dict[str, Post] = {}
    for own in whole.each("images"):
        identity = own.name("id")
        if not identity or identity in posts:
            raise own.fail("id", "an id that no other image has")
        posts[identity] = _post(own, columns.get("text", ""))
    left: list[Left] = []
    for own in whole.each("annotations"):
        identity = own.name("image_id")
        if identity not in posts:
            raise own.fail("image_id", "the id of an image of the file")
        posts[identity] = _with_annotation(posts[identity], own, categories, left)
    return Source(list(posts.values()), BoxFormat("xywh"), left=left)


def _post(own: Fields, said: str) -> Post:
    key = said or own.first(*TEXT)
    return Post(
        place=own.place,
        id=own.name("post"),
        text=own.string(key) if own.has(key) else None,
        tokens=own.strings("tokens") if own.has("tokens") else None,
        mentions=tuple(_entity(one) for one in own.each("entities")),
        image=own.string("file_name"),
        size=own.size("width", "height"),
        split=own.string("split"),
        knowledge=own.strings("knowledge"),
        subset=own.string("subset"),
    )


def _entity(own: Fields) -> Mention:
    """An entity among an image's "entities", as `rivegs export coco` writes those that the picture does not show."""
    span = own.list("span")
    return Mention(
        type=own.string("type"),
        text=own.string("text"),
        span=offsets_of(*span, 10**6, f"{own.place}: span") if len(span) == 2 else None,
        key=own.name("id"),
        expression=own.string("expression"),
        visible=own.truth("visible"),
        undecided="visible" in own.raw and own.raw["visible"] is None,
        visible_score=own.number("visible_score") if own.has("visible_score") else None,
    )


def _with_annotation(post: Post, own: Fields, categories: Mapping[str, str], left: list[Left]) -> Post:
    if own.has("caption") and not own.has("category_id"):
        if post.text is None:
            return replace(post, text=own.string("caption"))
        left.append(Left("further caption", own.place, f"{post.image} has one already; this is left out"))
        return post
    category = own.name("category_id")
    if category not in categories:
        raise own.fail("category_id", "the id of a category of the file")
    kind = categories[category]
    key, mentions = own.name("entity"), ()
    if not key:
        words, characters = _words(own), _characters(own, post)
        if words or characters:
            key = f"{shown(characters)} {words} {kind}"
            mentions = (Mention(kind, words, characters, key=key, expression=own.string("expression")),)
    if any(mention.key == key for mention in post.mentions):
        mentions = ()
    return replace(post, mentions=(*post.mentions, *mentions), regions=(*post.regions, _region(own, kind, key)))


def _words(own: Fields) -> str:
    """The mention that an annotation shows, "" where it does not say."""
    for fields in (own, own.fields("attributes")):
        if fields.has(*MENTION):
            return fields.string(fields.first(*MENTION))
    return ""


def _characters(own: Fields, post: Post) -> tuple[int, int] | None:
    """From the first to the last character that an annotation's ``tokens_positive`` names."""
    spans = own.list("tokens_positive")
    if not spans:
        return None
    length = len(post.text or "")
    ends = [
        offsets_of(*span, length, f"{own.place}: tokens_positive")
        for span in spans
        if type(span) is list and len(span) == 2
    ]
    if len(ends) < len(spans):
        raise own.fail("tokens_positive", "a list of [start, end]")
    return min(start for start, _ in ends), max(end for _, end in ends)


def _region(own: Fields, kind: str, key: str) -> Region:
    box = own.numbers("bbox", 4) if own.has("bbox") and own.list("bbox") else None
    polygons, mask = (), None
    code = own.raw.get("segmentation")
    if type(code) is list:
        polygons = tuple(_polygon(points, own) for points in code)
    elif code is not None:
        mask = _run_lengths(own.fields("segmentation"))
    if box is None and not polygons and mask is None:
        message = f"of {shown(kind)}: neither box nor mask"
        return Region(kind, "", key, left=Left("annotation without region", own.place, message))
    derived = own.truth("derived_box") is True
    return Region(kind, "", key, box, polygons, mask, derived)


def _polygon(points: object, own: Fields) -> tuple[tuple[float, float], ...]:
    if type(points) is not list or len(points) % 2 or not all(map(is_number, points)):
        raise own.fail("segmentation", "a list of polygons, each x, y, x, y and so on")
    return tuple(zip(points[::2], points[1::2], strict=True))


def _run_lengths(own: Fields) -> Mask:
    """COCO's run-length code, compressed as a string or plain as a list of lengths."""
    height, width = own.numbers("size", 2)
    if not (
        height > 0 and width > 0 and height * width <= MAX_PIXELS and height == int(height) and width == int(width)
    ):
        raise own.fail("size", "[height, width] of a picture")
    size = int(height), int(width)
    counts = own.raw.get("counts")
    if type(counts) is str:
        return Mask(size, counts)
    if type(counts) is not list or not all(type(run) is int and run >= 0 for run in counts):
        raise own.fail("counts", "COCO's run-length code, a string or a list of lengths")
    if sum(counts) != size[0] * size[1]:
        raise own.fail("counts", f"run lengths that add up to {size[0]} x {size[1]} pixels")
    coded = coco.frPyObjects({"size": list(size), "counts": counts}, *size)
    return Mask(size, coded["counts"].decode("ascii"))
