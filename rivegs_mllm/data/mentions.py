"""The mentions of a post: their places among its tokens, and those of which it is not known whether they are seen."""

from __future__ import annotations

from collections.abc import Sequence

from rivegs_mllm.types import Entity, Sample


def find_spans(tokens: Sequence[str], words: Sequence[str]) -> list[tuple[int, int]]:
    """Every occurrence of the words in the tokens, as token offsets, end-exclusive. No words occur nowhere."""
    starts = range(len(tokens) - len(words) + 1) if words else ()
    return [
        (start, start + len(words)) for start in starts if tuple(tokens[start : start + len(words)]) == tuple(words)
    ]


def undecided_entities(sample: Sample) -> list[Entity]:
    """The entities of a post with a picture of which it is not known whether it shows them."""
    return [own for own in sample.entities if sample.image and own.visible is None and not own.boxes]
