"""Where the mentions of a post stand, in tokens, however its file says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from data_builders.importing.records import Mention, Post
from rivegs_mllm.data.alignment import Aligned, align
from rivegs_mllm.data.written import starts_in, written
from rivegs_mllm.runtime.foreign import shown

_NEAR = 20
"""A mention whose offsets are off by more characters than this is only found where it comes once."""


@dataclass(frozen=True, slots=True)
class Read:
    """The tokens of a post, and of each mention the span, or None where there is none. ``remarks`` are (kind, message)
    of what was changed or dropped."""

    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int] | None, ...]
    remarks: tuple[tuple[str, str], ...]


def read_text(post: Post) -> Read:
    """Tokens and spans of a post. Tokens that the file gives are kept, but for white space within them."""
    if post.tokens is not None and (post.text is None or post.text in (" ".join(post.tokens), written(post.tokens))):
        return _of_tokens(post, post.tokens)
    return _of_text(post, post.text or "")


def _of_tokens(post: Post, given: Sequence[str]) -> Read:
    remarks = []
    tokens = tuple("_".join(token.split()) or "_" for token in given)
    for before, after in zip(given, tokens, strict=True):
        if before != after:
            remarks.append(("blank token", f"the token {shown(before)} is read as {shown(after)}"))
    apart = post.text is None or post.text == " ".join(post.tokens)
    starts = [0, *accumulate(len(token) + 1 for token in tokens)][:-1] if apart else starts_in(tokens)
    ends = {start + len(token): place for place, (start, token) in enumerate(zip(starts, tokens, strict=True), 1)}
    spans: list[tuple[int, int] | None] = []
    taken: set[tuple[int, int]] = set()
    for mention in post.mentions:
        span = mention.span
        if span is None and mention.characters is not None:
            first, last = mention.characters
            span = (starts.index(first), ends[last]) if first in starts and last in ends and first < last else None
        if span is None or not (0 <= span[0] < span[1] <= len(tokens)):
            span = _find_tokens(mention.text, tokens, taken) if mention.span is None else None
        if span is None:
            remarks.append(("mention not found", f"{_name(mention)} is not in the tokens of the post; it is left out"))
        else:
            taken.add(span)
        spans.append(span)
    return Read(tokens, tuple(spans), tuple(remarks))


def _find_tokens(text: str, tokens: Sequence[str], taken: set[tuple[int, int]]) -> tuple[int, int] | None:
    words = text.split()
    if not words:
        return None
    spans = [
        (start, start + len(words))
        for start in range(len(tokens) - len(words) + 1)
        if list(tokens[start : start + len(words)]) == words
    ]
    if not spans:  # as when the tokens are split at other places than the mention
        spans = _glued(text, tokens)
    return next((span for span in spans if span not in taken), spans[0] if spans else None)


def _glued(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """The spans whose tokens, without anything between, are the text without white space."""
    wanted = "".join(text.split())
    found = []
    for start in range(len(tokens)):
        joined = ""
        for end in range(start, len(tokens)):
            joined += tokens[end]
            if joined == wanted:
                found.append((start, end + 1))
            if len(joined) >= len(wanted):
                break
    return found


def _of_text(post: Post, text: str) -> Read:
    remarks: list[tuple[str, str]] = []
    places: list[tuple[int, int] | None] = []
    taken: set[tuple[int, int]] = set()
    for mention in post.mentions:
        place, remark = _characters(mention, text, taken)
        places.append(place)
        if place is not None:
            taken.add(place)
        if remark:
            remarks.append(remark)
    aligned = align(text, [place for place in places if place is not None])
    remarks += [
        ("token split", f"{shown(token)} is split where a mention begins or ends within it") for token in aligned.split
    ]
    return Read(aligned.tokens, _spans(post, places, aligned, remarks), tuple(remarks))


def _spans(
    post: Post, places: Sequence[tuple[int, int] | None], aligned: Aligned, remarks: list[tuple[str, str]]
) -> tuple[tuple[int, int] | None, ...]:
    """The token span of each mention that has a place."""
    found = iter(aligned.spans)
    spans = []
    for mention, place in zip(post.mentions, places, strict=True):
        span = None if place is None else next(found)
        if place is not None and span is None:
            remarks.append(("empty mention", f"{_name(mention)} holds no word; it is left out"))
        spans.append(span)
    return tuple(spans)


def _characters(
    mention: Mention, text: str, taken: set[tuple[int, int]]
) -> tuple[tuple[int, int] | None, tuple[str, str] | None]:
    """The mention's place in the text, and what was done to find it.

    Offsets of programs written in JavaScript count an emoji as two; the mention's text, where the file has it, tells.
    """
    place = mention.characters
    if place is None:
        found = _occurrences(mention.text, text)
        free = [own for own in found if own not in taken]
        if not found:
            return None, ("mention not found", f"{_name(mention)} is not in {shown(text)}; it is left out")
        return (free or found)[0], None
    said = mention.text
    if place[1] <= len(text) and (not said or _same(text[slice(*place)], said)):
        return place, None
    if (moved := _from_utf16(place, text)) and (not said or _same(text[slice(*moved)], said)):
        return moved, ("offsets in UTF-16", f"{_name(mention)} at {list(place)} becomes {list(moved)}, in characters")
    found = _occurrences(said, text)
    near = [own for own in found if abs(own[0] - place[0]) <= _NEAR]
    if len(found) == 1 or near:
        best = min(near or found, key=lambda own: abs(own[0] - place[0]))
        return best, ("mention moved", f"{_name(mention)} at {list(place)} is found at {list(best)}")
    reads = shown(text[slice(*place)])
    return None, ("mention not found", f"{_name(mention)} at {list(place)}, which reads {reads}; it is left out")


def in_characters(mention: Mention, text: str) -> Mention:
    """A mention of a format whose offsets count as JavaScript does, in characters; as it is where they cannot be so."""
    moved = _from_utf16(mention.characters, text) if mention.characters else None
    if moved is None or (mention.text and not _same(text[slice(*moved)], mention.text)):
        return mention
    return replace(mention, characters=moved)


def _occurrences(words: str, text: str) -> list[tuple[int, int]]:
    """Where the words stand in the text, white space of any kind between them; whole words if there are any."""
    parts = words.split()
    if not parts:
        return []
    found = [match.span() for match in re.finditer(r"\s+".join(map(re.escape, parts)), text)]
    return [own for own in found if _is_whole(own, text)] or found


def _is_whole(place: tuple[int, int], text: str) -> bool:
    """Whether no letter or figure stands directly before or behind."""
    before, behind = text[: place[0]][-1:], text[place[1] :][:1]
    return not before.isalnum() and not behind.isalnum()


def _from_utf16(place: tuple[int, int], text: str) -> tuple[int, int] | None:
    """Offsets in UTF-16 units as offsets in characters; None where one lies within a character or behind the text."""
    units = 0
    at = {0: 0}
    for number, letter in enumerate(text, 1):
        units += 2 if ord(letter) > 0xFFFF else 1
        at[units] = number
    if place[0] not in at or place[1] not in at:
        return None
    return at[place[0]], at[place[1]]


def _same(read: str, said: str) -> bool:
    return read.split() == said.split()


def _name(mention: Mention) -> str:
    return f"{shown(mention.text)} ({mention.type})" if mention.text else f"a mention of type {shown(mention.type)}"
