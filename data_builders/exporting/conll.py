"""CoNLL: a token, a tab and a BIO tag a line, a blank line between posts; above each, its id and its picture.

Texts and entities alone: boxes have no place. Of entities that overlap, the first has its tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_builders.exporting.sides import Side
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Sample


def write_conll(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``<split>.conll`` and ``<system>.conll``. Gives the ids of posts of which an entity is left out."""
    left_out = []
    for side in [*gold, *systems]:
        blocks = []
        for sample in side.samples:
            tags, lost = _tags(sample)
            left_out += [sample.id] * bool(lost)
            heads = [f"# id = {sample.id}", *([f"# image = {sample.image}"] if sample.image else [])]
            lines = [f"{token}\t{tag}" for token, tag in zip(sample.tokens, tags, strict=True)]
            blocks.append("\n".join([*heads, *lines, "", ""]))
        write_text(out / f"{side.name}.conll", "".join(blocks))
    return list(dict.fromkeys(left_out))


def _tags(sample: Sample) -> tuple[list[str], int]:
    """The tags, and how many entities have none."""
    tags = ["O"] * len(sample.tokens)
    lost = 0
    for entity in sample.entities:
        if entity.span is None or any(tag != "O" for tag in tags[slice(*entity.span)]):
            lost += 1
            continue
        start, end = entity.span
        tags[start:end] = [f"B-{entity.type}", *(f"I-{entity.type}" for _ in range(end - start - 1))]
    return tags, lost
