"""Spans of characters as spans of tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rivegs_mllm.data.tokens import tokens_of


@dataclass(frozen=True, slots=True)
class Aligned:
    """``spans`` are token offsets, end-exclusive, one for each span of characters, None for one that holds no token.

    ``starts`` are the offsets in characters at which the tokens begin. ``split`` are the tokens, as they were, that the
    boundary of a span has cut in two.
    """

    tokens: tuple[str, ...]
    starts: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...]
    split: tuple[str, ...]


def align(text: str, spans: Sequence[tuple[int, int]]) -> Aligned:
    """Tokenizes ``text`` such that every span, (start, end) in characters, end-exclusive, consists of whole tokens.

    A token that a span begins or ends in is split there. White space at the edges of a span does not count.
    """
    cuts = sorted({edge for span in spans for edge in span})
    tokens: list[str] = []
    starts: list[int] = []
    split = []
    for token, start in tokens_of(text):
        end = start + len(token)
        inner = cuts[bisect_right(cuts, start) : bisect_left(cuts, end)]
        if inner:
            split.append(token)
        for first, last in zip((start, *inner), (*inner, end), strict=True):
            tokens.append(text[first:last])
            starts.append(first)
    ends = [start + len(token) for start, token in zip(starts, tokens, strict=True)]
    return Aligned(tuple(tokens), tuple(starts), tuple(_tokens_in(span, starts, ends) for span in spans), tuple(split))


def _tokens_in(span: tuple[int, int], starts: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    first, last = bisect_left(starts, span[0]), bisect_right(ends, span[1])
    return (first, last) if first < last else None
