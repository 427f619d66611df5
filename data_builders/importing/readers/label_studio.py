"""Label Studio's JSON: tasks with their data, annotations and, in each, spans of the text, rectangles, and relations.

Coordinates are per cent of the picture; a rectangle that is turned becomes the upright one around it. Which span a
rectangle shows is said by a relation between them. JSON-MIN, which has no relations, is read too. Of several
annotations of a task the one marked as ground truth is taken, else the first that was not cancelled. Offsets count as
JavaScript does, an emoji as two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_builders.formats.brush import decode_brush
from data_builders.importing.fields import Fields, numbers_of, read_items
from data_builders.importing.records import Left, Mention, Numbers, Post, Region, Source
from data_builders.importing.regions.box_formats import BoxFormat
from data_builders.importing.regions.ellipses import half_sides
from data_builders.importing.texts import in_characters
from rivegs_mllm.data.masks import encode
from rivegs_mllm.runtime.foreign import shown

_TEXT, _IMAGE = ("text", "tweet", "post", "sentence", "caption"), ("image", "img", "picture", "image_url", "photo")
_SPANS = ("labels", "hypertextlabels")
_REGIONS = ("rectanglelabels", "rectangle", "ellipselabels", "ellipse", "polygonlabels", "polygon", "brushlabels")
_OTHER_SHAPES = ("keypointlabels", "keypoint", "vectorlabels", "vector", "bitmasklabels", "bitmask", "brush")
_VISIBLE = {"visible": True, "not visible": False, "invisible": False, "yes": True, "no": False}


def read_label_studio(path: Path, columns: Mapping[str, str]) -> Source:
    """A post a task. ``columns`` may name the data's "text" and "image". Raises UserError."""
    left: list[Left] = []
    notes: list[str] = []
    posts = []
    bare: set[str] = set()
    for place, item in read_items(path):
        task = Fields(item, place)
        data = task.fields("data") if task.has("data") else task
        keys = {name: columns.get(name) or _key(data, names) for name, names in (("text", _TEXT), ("image", _IMAGE))}
        results = _results(task, left) if task.has("data") else list(_of_min(task))
        posts.append(_post(task, data, keys, results or [], left))
        if results is None:
            bare.add(place)
        note = f"text is data.{keys['text']}" + (f", the picture data.{keys['image']}" if keys["image"] else "")
        if keys["text"] and note not in notes:
            notes.append(note)
    if len(bare) < len(posts):  # not a file of posts that are yet to be annotated
        message = "nobody has annotated this task, as others are; it is left out"
        left += [Left("not annotated", post.place, message) for post in posts if post.place in bare]
        posts = [post for post in posts if post.place not in bare]
    return Source(posts, BoxFormat("xywh", 100.0), notes=notes, left=left)


def _key(data: Fields, names: tuple[str, ...]) -> str:
    """The key of the data that holds the text or picture, "" where none is called so."""
    return next((name for name in names if type(data.raw.get(name)) is str), "")


def _results(task: Fields, left: list[Left]) -> list[Fields] | None:
    """The results of the annotation that counts, None where there is none."""
    own = list(task.each("annotations" if task.has("annotations") else "completions"))
    for one in own:
        if one.truth("was_cancelled"):
            left.append(Left("cancelled annotation", one.place, "is left out"))
    done = [one for one in own if not one.truth("was_cancelled")]
    chosen = next((one for one in done if one.truth("ground_truth")), done[0] if done else None)
    for one in done:
        if one is not chosen:
            left.append(Left("further annotation", one.place, "the task has several; this is left out"))
    return None if chosen is None else list(chosen.each("result"))


def _of_min(task: Fields) -> Iterator[Fields]:
    """The results of JSON-MIN, where each control's values are a list under its name."""
    for key, values in task.raw.items():
        if type(values) is not list or not all(type(value) is dict for value in values):
            continue
        for number, value in enumerate(values):
            kind = next((own for own in (*_SPANS, *_REGIONS) if own in value), "")
            if kind:
                raw = {"id": f"{key}{number}", "type": kind, "value": value}
                sizes = {name: value[name] for name in ("original_width", "original_height") if name in value}
                yield Fields({**raw, **sizes}, f"{task.place}: {key}[{number}]")


def _post(task: Fields, data: Fields, keys: Mapping[str, str], results: list[Fields], left: list[Left]) -> Post:
    mentions: dict[str, dict] = {}
    further: dict[str, tuple[str, ...]] = {}
    regions: dict[str, dict] = {}
    links: list[tuple[str, str]] = []
    size = None
    for own in results:
        kind = own.string("type")
        if kind == "relation":
            links.append((own.name("from_id"), own.name("to_id")))
            continue
        value, key = own.fields("value"), own.name("id")
        if kind in _SPANS:
            found, further[key] = _mention(own, value, key)
            mentions.setdefault(key, {}).update(found)
        elif kind in _REGIONS:
            size = own.size("original_width", "original_height") or size
            regions.setdefault(key, {}).update(_geometry(own, value), left=None)
        elif kind == "choices":
            _add_choice(mentions.setdefault(key, {}), value)
        elif kind == "textarea" and key:
            words = value.list("text")
            mentions.setdefault(key, {})["expression"] = words[0] if words and type(words[0]) is str else ""
        elif kind in _OTHER_SHAPES:
            fault = Left("unknown shape", own.place, f"a {shown(kind)} is left out")
            regions.setdefault(key, {**_label(kind, value), "left": fault})
        else:
            left.append(Left("unknown result", own.place, f"a {shown(kind)} is left out"))
    for key in [key for key, own in mentions.items() if "type" not in own]:
        del mentions[key]
        left.append(
            Left("unknown result", task.place, f"an answer about {shown(key)}, which is no mention, is left out")
        )
    text = data.string(keys["text"]) if keys["text"] else None
    owners = _owners(links, mentions, regions, task, left)
    return Post(
        place=task.place,
        id=(data.name("post") if keys["text"] != "post" else "") or task.name("id"),
        text=text,
        tokens=data.strings("tokens") if data.has("tokens") else None,
        mentions=tuple(
            in_characters(Mention(**{**own, "type": kind}), text or "")
            for key, own in mentions.items()
            for kind in (own["type"], *further[key])
        ),
        regions=tuple(Region(key=owners.get(key, ""), **own) for key, own in regions.items()),
        image=data.string(keys["image"]) if keys["image"] else "",
        size=size or data.size("width", "height"),
        split=data.string("split"),
        knowledge=data.strings("knowledge"),
        subset=data.string("subset"),
    )


def _mention(own: Fields, value: Fields, key: str) -> tuple[dict, tuple[str, ...]]:
    """A span as a mention of its first label, and its further labels, each of which is a mention too."""
    labels = value.strings("labels" if value.has("labels") else "hypertextlabels")
    offsets = value.fields("globalOffsets") if value.has("globalOffsets") else value
    place = {"start": offsets.integer("start"), "end": offsets.integer("end")}
    if not 0 <= place["start"] <= place["end"]:
        raise value.fail("start", "an offset that is not negative and not behind its end")
    if not labels:
        raise value.fail("labels", "a list with a label")
    found = {"type": labels[0], "text": value.string("text"), "characters": (place["start"], place["end"]), "key": key}
    meta = own.fields("meta")
    score = {"visible_score": meta.number("visible_score")} if meta.has("visible_score") else {}
    return {**found, **score}, labels[1:]


def _geometry(own: Fields, value: Fields) -> dict:
    kind = own.string("type")
    found = _label(kind, value)
    if value.has("points"):
        points = [numbers_of(point, 2, f"{value.place}: points") for point in value.list("points")]
        return {**found, "polygons": (tuple(points),)}
    if kind == "brushlabels":
        size = own.size("original_width", "original_height")
        if size is None:
            raise own.fail("original_width", "the picture's width, which brush strokes need")
        return {**found, "mask": encode(decode_brush(value.list("rle"), size, value.place)), "derived": True}
    turn, size = value.number("rotation", 0.0), own.size("original_width", "original_height")
    if kind in ("ellipselabels", "ellipse"):
        return {**found, "box": _around(*(value.number(key) for key in ("x", "y", "radiusX", "radiusY")), turn, size)}
    return {**found, "box": _upright(tuple(value.number(key) for key in ("x", "y", "width", "height")), turn, size)}


def _label(kind: str, value: Fields) -> dict:
    labels = value.strings(kind) if kind.endswith("labels") else ()
    return {"label": labels[0]} if labels else {}


def _upright(box: Numbers, degrees: float, size: tuple[int, int] | None) -> Numbers:
    """The box around a rectangle that is turned clockwise about its upper left corner, in per cent.

    The turn is one of the picture, not of its per cents, so that its shape counts.
    """
    if not degrees % 360:
        return box
    across, down = size or (1, 1)
    left, top, width, height = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    xs = [left + x * cosine - y * sine for x, y in corners]
    ys = [top + x * sine + y * cosine for x, y in corners]
    return min(xs) / across, min(ys) / down, (max(xs) - min(xs)) / across, (max(ys) - min(ys)) / down


def _around(x: float, y: float, wide: float, high: float, degrees: float, size: tuple[int, int] | None) -> Numbers:
    """The box around an ellipse about (x, y) that may be turned, in per cent."""
    across, down = size or (1, 1)
    half = half_sides(wide * across, high * down, degrees)
    wide, high = half[0] / across, half[1] / down
    return x - wide, y - high, 2 * wide, 2 * high


def _add_choice(own: dict, value: Fields) -> None:
    """Whether the picture shows a mention, from a choice made of it."""
    for choice in value.strings("choices"):
        if choice.casefold() == "undecided":
            own["undecided"] = True
        elif choice.casefold() in _VISIBLE:
            own["visible"] = _VISIBLE[choice.casefold()]


def _owners(
    links: Sequence[tuple[str, str]],
    mentions: Mapping[str, dict],
    regions: Mapping[str, dict],
    task: Fields,
    left: list[Left],
) -> dict[str, str]:
    """The mention of each region, by the relations, whichever way they point."""
    owners = {}
    for first, second in links:
        if first in mentions and second in regions:
            owners[second] = first
        elif second in mentions and first in regions:
            owners[first] = second
        else:
            message = f"between {shown(first)} and {shown(second)}, which are no mention and a region; it is left out"
            left.append(Left("relation", task.place, message))
    return owners
