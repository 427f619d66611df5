"""The places of mentions in the tokens of a post."""

from __future__ import annotations

from collections.abc import Sequence


def find_spans(tokens: Sequence[str], words: Sequence[str]) -> list[tuple[int, int]]:
    """Every occurrence of the words in the tokens, as token offsets, end-exclusive. No words occur nowhere."""
    starts = range(len(tokens) - len(words) + 1) if words else ()
    return [
        (start, start + len(words)) for start in starts if tuple(tokens[start : start + len(words)]) == tuple(words)
    ]
