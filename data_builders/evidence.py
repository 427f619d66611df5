"""Faults that the lines of a set show together and none of them alone: boxes in other coordinates, shifted labels.

The thresholds are tried on generated datasets (tests/data_builders/test_evidence.py): each planted fault is found, and
nothing in the clean ones (docs/data.md has the counts).
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from data_builders.findings import Finding
from data_builders.importing.regions.box_formats import PIXELS, BoxFormat, count_fitting, seem_shares, weigh
from rivegs_mllm.data.raw_text import is_raw_text
from rivegs_mllm.data.tokens import tokens_of
from rivegs_mllm.runtime.foreign import numbered_lines, shown

ENOUGH = 20
"""Boxes, from which on what all of them have in common is no chance: half of all boxes with corners would also do as
corner and sides, so 20 do so once in a million."""

_SOME = 8  # boxes below which nothing is concluded: that many do as corner and sides by chance once in 256
_LARGE = 1300
"""A side of a picture, in pixels, on which boxes in thousandths leave a quarter empty."""
_SWAPPED = BoxFormat("yxyx")
_TINY, _WHOLE = 0.0005, 0.98
"""Shares of the picture's area."""
_OFTEN = 0.2  # share of the boxes, or of the posts that have some, from which on an oddity is no accident
_FAMILIAR = 10
"""So many times rarer is a misspelt type than the type that is meant."""
_ALIKE = 0.8  # difflib's ratio: a letter wrong in five, or two in ten


@dataclass(frozen=True, slots=True)
class LooseEntity:
    """An entity as a line gives it, whether or not the line is valid. ``span`` counts tokens, or characters in a line
    that gives a text."""

    text: str
    type: str
    span: tuple[int, int] | None
    boxes: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class LoosePost:
    """A line as far as it can be read. ``text`` is "" where it gives tokens. ``size`` is (width, height) of the
    picture, None where unknown."""

    place: str
    text: str
    tokens: tuple[str, ...]
    image: str
    size: tuple[int, int] | None
    entities: tuple[LooseEntity, ...]

    def reads(self, begin: int, end: int) -> str:
        """What stands there, with single spaces between words."""
        return " ".join(self.text[begin:end].split() if self.text else self.tokens[begin:end])


def loose_posts(path: Path) -> list[LoosePost]:
    """The lines of a file that are JSON objects, valid or not."""
    posts = []
    for number, line in numbered_lines(path):
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError:  # reported by whoever reads the samples
            continue
        if type(content) is dict:
            posts.append(_post(content, f"{path}:{number}"))
    return posts


def from_the_set(splits: Mapping[str, Sequence[LoosePost]], sizes: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    """Findings on the posts by file. ``sizes`` are (width, height) of pictures that could be opened, by ``image``."""
    posts = [post for own in splits.values() for post in own]
    whole_set = next(iter(splits), "")
    yield from _coordinates(posts, sizes, whole_set)
    yield from _odd_boxes(posts, sizes, whole_set)
    for path, own in splits.items():
        yield from _in_shares(own, sizes, path)
        yield from _shifted_spans(own, path)
        yield from _shifted_labels(own, path)
        yield from _shifted_pictures(own, sizes, path)
    yield from _misspelt_types(posts)


def scripts(posts: Sequence[LoosePost]) -> dict[str, int]:
    """In how many posts each script has most of the letters, such as LATIN or ARABIC, the most frequent first."""
    found = Counter(_script(post.tokens) for post in posts)
    del found[""]
    return dict(found.most_common())


def _script(tokens: Sequence[str]) -> str:
    names = Counter(
        unicodedata.name(letter, "").partition(" ")[0] for token in tokens for letter in token if letter.isalpha()
    )
    if names["HIRAGANA"] or names["KATAKANA"]:  # what is written in three scripts
        names["JAPANESE"] = sum(names.pop(script, 0) for script in ("HIRAGANA", "KATAKANA", "CJK"))
    return names.most_common(1)[0][0] if names else ""


def _in_shares(posts: Sequence[LoosePost], sizes: Mapping, path: str) -> Iterator[Finding]:
    placed = [(box, post.size or sizes.get(post.image)) for post in posts for own in post.entities for box in own.boxes]
    boxes = [box for box, _ in placed]
    if seem_shares(boxes, [size for _, size in placed]):
        message = f"none of {len(boxes)} boxes reaches beyond 1: boxes are pixels of the picture, not shares of it"
        yield Finding("boxes in shares", path, message, "error")


def _coordinates(posts: Sequence[LoosePost], sizes: Mapping, path: str) -> Iterator[Finding]:
    placed = [(post, box) for post in posts for entity in post.entities for box in entity.boxes]
    if not placed:
        return
    numbers = np.array([box for _, box in placed], float)
    sides = np.array([post.size or sizes.get(post.image) or (np.inf, np.inf) for post, _ in placed], float)
    if numbers.max() <= 1:  # `_in_shares` says so
        return
    fitting = count_fitting(numbers, sides, PIXELS)
    known = np.isfinite(sides).all(axis=1)
    known &= [not _is_whole(box, size) for box, size in zip(numbers, sides, strict=True)]
    # A box that comes again is no further evidence.
    different = np.unique(np.hstack([numbers[known], sides[known]]), axis=0)
    likely = _likely(different[:, :4], different[:, 4:])
    if likely is None:
        return
    every = len(different)
    examples = "; ".join(_box_in_words(post, box, sizes) for post, box in placed[:3])
    message = (
        f"as {PIXELS.in_words()} {fitting} of {len(placed)} boxes fit their pictures, as {likely.in_words()} "
        f"{count_fitting(different[:, :4], different[:, 4:], likely)} of {every} different ones do: {examples}"
    )
    yield Finding("boxes in other coordinates", path, message, "error" if every >= ENOUGH else "warning")


def _likely(numbers: np.ndarray, sides: np.ndarray) -> BoxFormat | None:
    """Another format that all boxes fit: where pixels do not, or where boxes in pixels could only do so by chance."""
    if len(numbers) < _SOME:
        return None
    evidence = weigh(numbers.tolist(), [(width, height) for width, height in sides.tolist()])
    others = {own: count for own, count in evidence.fits.items() if own != PIXELS}
    others[_SWAPPED] = count_fitting(numbers, sides, _SWAPPED)
    best = max(others, key=others.get, default=None)
    # A box in twenty may be wrong for other reasons, whatever the format.
    if count_fitting(numbers, sides, PIXELS) < 0.95 * len(numbers):
        return best if best is not None and others[best] >= 0.95 * len(numbers) else None
    for own in (BoxFormat("xywh"), BoxFormat("cxcywh")):
        if count_fitting(numbers, sides, own) == len(numbers):
            return own
    large = (sides >= _LARGE).all(axis=1)
    if large.sum() >= _SOME and numbers[large].max() <= 1000:
        return BoxFormat("xyxy", 1000.0)
    return None


def _box_in_words(post: LoosePost, box: Sequence[float], sizes: Mapping) -> str:
    size = post.size or sizes.get(post.image)
    beside = f" on {size[0]} x {size[1]}" if size else ""
    return f"{post.place} {[round(edge, 2) for edge in box]}{beside}"


def _odd_boxes(posts: Sequence[LoosePost], sizes: Mapping, path: str) -> Iterator[Finding]:
    shares: list[tuple[str, float]] = []
    same: dict[tuple, set[str]] = {}
    beside = set()
    for post in posts:
        size = post.size or sizes.get(post.image)
        for entity in post.entities:
            for box in entity.boxes:
                beside.add(post.place)
                if not size or not _is_whole(box, size):
                    same.setdefault(box, set()).add(post.place)
                if size and max(box) > 1:
                    shares.append((post.place, _share(box, size)))
    if len(shares) >= ENOUGH:
        tiny = [place for place, share in shares if share < _TINY]
        whole = [place for place, share in shares if share >= _WHOLE]
        for kind, odd, words in (
            ("tiny boxes", tiny, f"cover less than {_TINY:.2%} of the picture"),
            ("boxes of the whole picture", whole, "are the whole picture"),
        ):
            if len(odd) > _OFTEN * len(shares):
                yield Finding(kind, path, f"{len(odd)} of {len(shares)} boxes {words}: {', '.join(odd[:3])}")
    box, places = max(same.items(), key=lambda one: len(one[1]), default=((), set()))
    if len(beside) >= ENOUGH and len(places) > _OFTEN * len(beside):
        edges, some = [round(edge, 2) for edge in box], ", ".join(sorted(places)[:3])
        message = f"{edges} in {len(places)} of {len(beside)} posts with boxes: {some}"
        yield Finding("one box in many posts", path, message)


def _share(box: Sequence[float], size: Sequence[float]) -> float:
    """Of the picture's area."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) / (size[0] * size[1])


def _is_whole(box: Sequence[float], size: Sequence[float]) -> bool:
    """Such boxes fit their pictures in every format."""
    return _WHOLE <= _share(box, size) <= 1 / _WHOLE


def _shifted_spans(posts: Sequence[LoosePost], path: str) -> Iterator[Finding]:
    """Mentions that are not the tokens of their span but those of a span that is moved or longer, all in one way."""
    ways = {"its end is inclusive": (0, 1), "it is counted from 1": (-1, -1), "it is one too early": (1, 1)}
    ways["it is counted from 1 and its end is inclusive"] = (-1, 0)
    off = [
        (post, entity)
        for post in posts
        for entity in post.entities
        if entity.span and entity.text != post.reads(*entity.span)
    ]
    for words, (begin, end) in ways.items():
        fit = [
            post.place
            for post, entity in off
            if entity.span[0] + begin >= 0 and post.reads(entity.span[0] + begin, entity.span[1] + end) == entity.text
        ]
        if len(fit) >= 2 and len(fit) >= 0.5 * len(off):
            message = f"of {len(off)} mentions that are not the tokens of their span, {len(fit)} are if {words}"
            yield Finding("spans off by one", path, f"{message}: {', '.join(fit[:3])}", "error")
            return


def _shifted_labels(posts: Sequence[LoosePost], path: str) -> Iterator[Finding]:
    """Mentions that are not in their own post but in the next one or the one before."""
    for step, words in ((1, "the post after it"), (-1, "the post before it")):
        lost = moved = 0
        places = []
        for number, post in enumerate(posts):
            if not post.entities or any(_holds(post, entity) for entity in post.entities):
                continue
            lost += 1
            if 0 <= number + step < len(posts) and any(_holds(posts[number + step], own) for own in post.entities):
                moved += 1
                places.append(post.place)
        if moved >= 3 and moved >= 0.5 * lost:
            message = f"of {lost} posts that hold none of their entities, {moved} have those of {words}"
            yield Finding("labels of another post", path, f"{message}: {', '.join(places[:3])}", "error")


def _holds(post: LoosePost, entity: LooseEntity) -> bool:
    if post.text:  # in which words need no space between them
        return entity.text in post.reads(0, len(post.text))
    return f" {entity.text} " in f" {' '.join(post.tokens)} "


def _shifted_pictures(posts: Sequence[LoosePost], sizes: Mapping, path: str) -> Iterator[Finding]:
    """Sizes on record that are not those of a post's picture but of its neighbour's."""
    own = [(post, sizes[post.image]) for post in posts if post.image in sizes and post.size]
    wrong = [number for number, (post, size) in enumerate(own) if post.size != size]
    for step, words in ((1, "the post after it"), (-1, "the post before it")):
        moved = [
            own[number][0].place
            for number in wrong
            if 0 <= number + step < len(own) and own[number][0].size == own[number + step][1]
        ]
        if len(moved) >= 3 and len(moved) >= 0.5 * len(wrong):
            message = f"of {len(wrong)} sizes that are not the picture's, {len(moved)} are that of {words}"
            yield Finding("pictures of another post", path, f"{message}: {', '.join(moved[:3])}", "error")
            return


def _misspelt_types(posts: Sequence[LoosePost]) -> Iterator[Finding]:
    counts = Counter(entity.type for post in posts for entity in post.entities)
    for name, count in counts.items():
        frequent = [other for other in counts if counts[other] >= _FAMILIAR * count and other != name]
        folded = {other.casefold(): other for other in frequent}
        close = difflib.get_close_matches(name.casefold(), folded, 1, _ALIKE)
        if close:
            place = next(post.place for post in posts if any(own.type == name for own in post.entities))
            message = f"{shown(name)} comes {count} times, {shown(folded[close[0]])} {counts[folded[close[0]]]} times"
            yield Finding("type like another", place, f"{message}; is it the same, misspelt?")


def _post(content: dict, place: str) -> LoosePost:
    text, tokens, size, image = (content.get(key) for key in ("text", "tokens", "size", "image"))
    entities = content.get("entities")
    text = text if is_raw_text(content) and type(text) is str else ""
    tokens = [token for token, _ in tokens_of(text)] if text else tokens
    return LoosePost(
        place,
        text,
        tuple(token for token in tokens if type(token) is str) if type(tokens) is list else (),
        image if type(image) is str else "",
        (size[0], size[1]) if _are_numbers(size, 2) and min(size) > 0 else None,
        tuple(_entity(own, text) for own in entities if type(own) is dict) if type(entities) is list else (),
    )


def _entity(content: dict, text: str) -> LooseEntity:
    own, kind, span, boxes = (content.get(key) for key in ("text", "type", "span", "boxes"))
    span = [content.get("start"), content.get("end")] if text else span
    own = text[slice(*span)] if own is None and text and _are_offsets(span) else own
    return LooseEntity(
        " ".join(own.split()) if type(own) is str else "",
        kind if type(kind) is str else "",
        (span[0], span[1]) if _are_offsets(span) else None,
        tuple(tuple(box) for box in boxes if _are_numbers(box, 4)) if type(boxes) is list else (),
    )


def _are_offsets(span: object) -> bool:
    return _are_numbers(span, 2) and all(type(edge) is int and edge >= 0 for edge in span)


def _are_numbers(values: object, length: int) -> bool:
    if type(values) is not list or len(values) != length:
        return False
    # type() and not isinstance: true and false are no numbers. The limit also rejects NaN and infinity.
    return all(type(value) in (int, float) and abs(value) < 2**31 for value in values)
