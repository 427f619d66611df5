"""Splits for posts that come in none: equal shares of every type and of what is visible, near-duplicates together."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.types import Sample, UserError

_NAMES = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "development", "val", "valid", "validation", "eval"),
    "test": ("test", "testing", "tst"),
}
_BY_NAME = {name: split for split, names in _NAMES.items() for name in names}


def split_named(name: str) -> str:
    """The split that a file's name or a column's value speaks of, such as "instances_val2017", "" for none."""
    words = re.findall(r"[a-z]+", name.casefold())
    found = {_BY_NAME[word] for word in words if word in _BY_NAME}
    return found.pop() if len(found) == 1 else ""


def folder_split(name: str) -> str:
    """The split that a folder is, "" for none: its whole name says so, as other words may stand for anything."""
    return _BY_NAME.get(name.casefold(), "")


def parse_shares(text: str) -> tuple[int, ...]:
    """The shares of train, dev and test from "80/10/10". Raises UserError."""
    parts = text.split("/")
    if len(parts) != len(SPLITS) or not all(part.isdecimal() and len(part) < 7 for part in parts):
        raise UserError(f"--split: {text!r} is not of the form 80/10/10, the shares of {', '.join(SPLITS)}")
    shares = tuple(map(int, parts))
    if not sum(shares):
        raise UserError(f"--split: {text!r} leaves no post to any split")
    return shares


def divide(samples: Sequence[Sample], groups: Sequence[Sequence[int]], shares: Sequence[int], seed: int) -> list[str]:
    """The split of each sample. Groups are not divided; the rarest labels are dealt out first.

    The labels are the types, each with whether its entities are visible. The same posts and seed give the same splits,
    in whatever order they come.
    """
    names = [split for split, share in zip(SPLITS, shares, strict=True) if share]
    wanted = {split: share / sum(shares) for split, share in zip(SPLITS, shares, strict=True) if share}
    labels = [_labels(sample) for sample in samples]
    totals = sum(labels, Counter())
    need = {split: {label: wanted[split] * count for label, count in totals.items()} for split in names}
    ordered = sorted(groups, key=lambda group: min(samples[index].id for index in group))
    random.Random(seed).shuffle(ordered)
    counts = [(group, sum((labels[index] for index in group), Counter())) for group in ordered]
    counts.sort(key=lambda one: (min(totals[label] for label in one[1]), -len(one[0])))
    chosen = [""] * len(samples)
    for group, own in counts:
        split = max(names, key=lambda name: _gain(own, need[name], totals, wanted[name]))
        for label, count in own.items():
            need[split][label] -= count
        for index in group:
            chosen[index] = split
    return chosen


_POST = ("", None)


def _labels(sample: Sample) -> Counter:
    found = Counter((entity.type, entity.visible) for entity in sample.entities)
    found[_POST] = 1
    return found


def _gain(own: Counter, need: dict, totals: Counter, share: float) -> tuple[float, float]:
    """How much a split lacks of the rarest label of a group, and where that is equal, of posts."""
    rarest = min(own, key=lambda label: (totals[label], str(label)))
    return round(need[rarest], 9), round(need[_POST] / share, 9)
