"""Greedy decoding, and parsing of the generated indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from rivegs_mllm.published.hindex.model import HIndex, Memory
from rivegs_mllm.published.hindex.sizes import END, NO_REGION, REGION, START

MAX_INDICES = 30
"""The length of a generated sequence, as published; to it is added EXTRA_PER_TOKEN for each region that is present and
each token of the source."""

EXTRA_PER_TOKEN = 0.6


@dataclass(frozen=True)
class Generated:
    """``indices`` (B, n) from START on, padded with END. ``boxes`` (B, n): the best box at the step that wrote each
    index, 0 at START. The scores of every step, (B, n - 1, ...)."""

    indices: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor
    box_scores: torch.Tensor


@torch.inference_mode()
def generate(model: HIndex, memory: Memory, max_indices: int = MAX_INDICES) -> Generated:
    """The likeliest indices, one after the other, until every sequence has ended or is as long as it may be."""
    limits = (memory.mask.sum(1) * EXTRA_PER_TOKEN).long() + max_indices
    indices = torch.full((len(limits), 1), START, device=limits.device)
    boxes, scores, box_scores = torch.zeros_like(indices), [], []
    ended = torch.zeros_like(limits, dtype=torch.bool)
    while not ended.all():
        found = model.score(indices, memory)
        scores.append(found.indices[:, -1])
        box_scores.append(found.boxes[:, -1])
        now = scores[-1].argmax(-1).masked_fill(ended | (limits == indices.shape[1] + 1), END)
        ended = ended | (now == END)
        indices = torch.cat((indices, now[:, None]), 1)
        boxes = torch.cat((boxes, box_scores[-1].argmax(-1, keepdim=True)), 1)
    return Generated(indices, boxes, torch.stack(scores, 1), torch.stack(box_scores, 1))


@dataclass(frozen=True)
class Mention:
    """``places`` are the source's places (from 0) of each word's first piece; ``box`` None for no region; ``type`` the
    index of the type."""

    places: tuple[int, ...]
    box: int | None
    type: int


@dataclass(frozen=True)
class ParsedSequence:
    """The mentions in a sequence, and how many of its parts are invalid."""

    mentions: tuple[Mention, ...]
    unreadable: int


def parse_sequence(
    indices: Sequence[int], boxes: Sequence[int], words: int, as_published: bool = False
) -> ParsedSequence:
    """Parses a row of ``Generated``; ``words`` is the index of the source's first place.

    The box is that of the step after REGION, which is the one that training teaches. ``as_published``: the box is that
    of the step that writes REGION, any index is taken for a type, and a span that is not rising is not counted as
    unreadable. Of two mentions of the same words the last one counts.
    """
    row = list(indices)[1 : list(indices).index(END)] if END in indices else list(indices)[1:-1]
    found: dict[tuple[int, ...], Mention] = {}
    unreadable = 0
    for span, place in _parts(row, words, as_published):
        marker, kind = [*row, END, END][place : place + 2]
        rising = all(one < two for one, two in pairwise(span))
        if rising and marker in (REGION, NO_REGION) and (as_published or NO_REGION < kind < words):
            step = place + 1 if as_published else place + 2
            box = boxes[step] if marker == REGION else None
            places = tuple(index - words for index in span)
            found[places] = Mention(places, box, kind)
        else:
            unreadable += rising or not as_published
    return ParsedSequence(tuple(found.values()), unreadable)


def _parts(row: Sequence[int], words: int, as_published: bool) -> Iterator[tuple[list[int], int]]:
    """The spans of a row, and the place after each. ``as_published`` takes the last but one index for such a place,
    whatever it is, and never the last."""
    span: list[int] = []
    place, last = 0, len(row) - 2 if as_published else len(row)
    while place < len(row) - as_published:
        if row[place] >= words and place < last:
            span.append(row[place])
            place += 1
            continue
        if span:
            yield span, place
        span, place = [], place + 2
    if span:
        yield span, len(row)
