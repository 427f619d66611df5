"""Posts as BART's tokens, and their target sequences of indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from rivegs_mllm.published.hindex.sizes import CLOSE, END, NO_REGION, PAD, REGION, START


@dataclass(frozen=True)
class TokenizedPost:
    """A post's ids with BART's first and last token, and the place of each word's first piece; words that did not fit
    have none."""

    ids: tuple[int, ...]
    first: tuple[int, ...]


def tokenize_post(words: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> TokenizedPost:
    """Each word is tokenized by itself, with a blank before it; one that gives no token is the unknown token.

    Whole words are left out at the end where all have more than ``max_tokens`` tokens.
    """
    ids, first = [tokenizer.bos_token_id], []
    for word in words:
        own = tokenizer(f" {word}", add_special_tokens=False).input_ids or [tokenizer.unk_token_id]
        if len(ids) + len(own) >= max_tokens:
            break
        first.append(len(ids))
        ids += own
    return TokenizedPost((*ids, CLOSE), tuple(first))


@dataclass(frozen=True)
class TargetEntity:
    """An entity of the target sequence: its first word and last (exclusive), its type's index, and the boxes' shares
    in it, () where no box is the entity's."""

    start: int
    end: int
    type: int
    shares: tuple[float, ...] = ()


def target_sequence(
    post: TokenizedPost, entities: Sequence[TargetEntity], words: int
) -> tuple[list[int], list[tuple[float, ...]]]:
    """The indices from START to END, entities in the order given, and the shares of each that has a region.

    Entities whose words did not fit are left out.
    """
    indices, shares = [START], []
    for entity in entities:
        if entity.end > len(post.first):
            continue
        indices += [words + place for place in post.first[entity.start : entity.end]]
        indices += [REGION if entity.shares else NO_REGION, entity.type]
        shares += [entity.shares] if entity.shares else []
    return [*indices, END], shares


def pad_posts(rows: Sequence[TokenizedPost]) -> torch.Tensor:
    """(B, L), padded."""
    return pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True, padding_value=PAD)


def pad_sequences(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, n), padded."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=END)


@torch.no_grad()
def init_label_embeddings(table: nn.Embedding, pieces: Mapping[int, Sequence[int]], as_published: bool = False) -> None:
    """Gives the rows of labels the mean of the rows of their words' pieces.

    ``as_published``: the mean is made in the row of the first piece, which so is changed too, for later labels as well.
    """
    weights = table.weight
    for label, ids in pieces.items():
        mean = weights[list(ids)].mean(0)
        if as_published:
            weights[ids[0]] = mean
        weights[label] = mean
