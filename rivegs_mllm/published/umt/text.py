"""Posts as word-pieces with labels, and predicted labels as entities of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rivegs_mllm.published.umt.labels import AUXILIARY, END, OUTSIDE, PIECE, START

MAX_PIECES = 128
"""As published."""


@dataclass(frozen=True)
class WordPieces:
    """The word-pieces of a post, special ones among them, and the place of each word's first; the words whose pieces
    did not fit have no place. ``labels`` are those of the pieces, where the words have tags; ``cut`` is how many pieces
    did not fit."""

    ids: tuple[int, ...]
    first: tuple[int, ...]
    labels: tuple[str, ...]
    cut: int = 0


def word_pieces(
    words: Sequence[str], tags: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_pieces: int = MAX_PIECES
) -> WordPieces:
    """Each word is tokenized by itself; one that gives no piece is the unknown piece. ``tags`` are BIO, or none.

    What is longer than ``max_pieces`` pieces is truncated.
    """
    found: list[str] = []
    labels: list[str] = []
    first = []
    for place, word in enumerate(words):
        own = tokenizer.tokenize(word) or [tokenizer.unk_token]
        first.append(1 + len(found))
        found += own
        labels += [tags[place], *[PIECE] * (len(own) - 1)] if tags else []
    kept = found[: max_pieces - 2]  # without [CLS] and [SEP]
    ids = tokenizer.convert_tokens_to_ids([tokenizer.cls_token, *kept, tokenizer.sep_token])
    framed = (START, *labels[: max_pieces - 2], END) if tags else ()
    read = tuple(place for place in first if place <= len(kept))
    return WordPieces(tuple(ids), read, framed, len(found) - len(kept))


def batch(rows: Sequence[WordPieces]) -> dict[str, torch.Tensor]:
    """``input_ids``, ``token_type_ids`` and ``mask`` (B, T), as ``UMT.encode`` takes them."""
    ids = [torch.tensor(row.ids) for row in rows]
    padded = pad_sequence(ids, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return {"input_ids": padded, "token_type_ids": torch.zeros_like(padded), "mask": mask}


def targets(rows: Sequence[WordPieces], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """``tags`` and ``auxiliary_tags`` (B, T): the labels' places among ``names`` and the auxiliary ones."""
    main = {name: place for place, name in enumerate(names)}
    second = {name: place for place, name in enumerate(AUXILIARY)}
    tags = [torch.tensor([main[own] for own in row.labels]) for row in rows]
    # "B-PER" becomes "B".
    auxiliary = [torch.tensor([second[own if own in second else own[0]] for own in row.labels]) for row in rows]
    return {
        "tags": pad_sequence(tags, batch_first=True),
        "auxiliary_tags": pad_sequence(auxiliary, batch_first=True),
    }


def tags_of_words(path: Sequence[int], row: WordPieces, names: Sequence[str]) -> list[str]:
    """The tag of each word that has a place, O for a label that marks no entity."""
    found = [names[path[place]] for place in row.first]
    return [name if name[:2] in ("B-", "I-") else OUTSIDE for name in found]


def rename_types(tags: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """BIO tags with types renamed, such as OTHER to MISC, as the published models call it."""
    parts = [tag.partition("-") for tag in tags]
    return [f"{place}{dash}{names.get(kind, kind)}" for place, dash, kind in parts]
