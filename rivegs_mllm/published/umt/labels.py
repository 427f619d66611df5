"""The labels of UMT's two conditional random fields, and the entities that they mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

TYPES = ("MISC", "PER", "ORG", "LOC")
"""Those of the published models, in the order of their labels."""

PAD, OUTSIDE, PIECE, START, END = "PAD", "O", "X", "[CLS]", "[SEP]"
AUXILIARY = (PAD, OUTSIDE, "B", "I", PIECE, START, END)
"""The labels of the second field, which knows no types."""


def labels(types: Sequence[str]) -> list[str]:
    """The labels of the first field; padding, further pieces of a word and the special tokens are labels too."""
    return [PAD, OUTSIDE, *(f"{place}-{kind}" for kind in types for place in "BI"), PIECE, START, END]


def auxiliary_label_weights(types: Sequence[str]) -> torch.Tensor:
    """(auxiliary, labels): the share of an auxiliary label's score that each label gets, all types of B and of I alike.

    The conversion matrix of UMT (section 3).
    """
    names = labels(types)
    rows = [[float(name == own or name.startswith(f"{own}-")) for name in names] for own in AUXILIARY]
    table = torch.tensor(rows)
    return table / table.sum(1, keepdim=True)


def chunks(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Type, start and end (exclusive) of what BIO tags mark. An I- that continues nothing of its type begins a chunk,
    and any other tag but O is a type of its own."""
    start, kind = 0, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        place, _, own = tag.rpartition("-")
        if kind and (own != kind or place == "B" or tag == OUTSIDE):
            yield kind, start, index
            kind = ""
        if not kind and tag != OUTSIDE:
            start, kind = index, own
