"""Posts with made-up names in place of their own: they keep their sense, and memorised names do not help a model."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from rivegs_mllm.types import Sample

_LETTERS = 4
"""Words of mentions with fewer letters keep their spelling: most are not names, as in "Bank of England"."""


def name_words(samples: Sequence[Sample]) -> list[str]:
    """The words of the samples' mentions of which made-up names are composed, in lower case and sorted."""
    words = {word.lower() for sample in samples for entity in sample.entities for word in entity.text.split()}
    return sorted(filter(_is_name, words))


def replacement_names(mentions: Sequence[str], words: Sequence[str], rng: random.Random) -> dict[str, str]:
    """For each word of the mentions that is a name, in lower case, the first half of one of ``words`` and the second
    half of another.
    """
    names = sorted({word.lower() for mention in mentions for word in mention.split() if _is_name(word)})
    return {name: _made_up(words, rng) for name in names}


def renamed_tokens(sample: Sample, words: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """The post's tokens with made-up names."""
    new = replacement_names([entity.text for entity in sample.entities], words, rng)
    return tuple(rename(token, new) for token in sample.tokens)


def rename(text: str, new: Mapping[str, str]) -> str:
    """The text with each word that ``new`` has replaced, its capitals kept."""
    return re.sub(r"\w+", lambda word: _in_case(word[0], new.get(word[0].lower(), word[0])), text)


def _is_name(word: str) -> bool:
    return word.isalpha() and len(word) >= _LETTERS


def _made_up(words: Sequence[str], rng: random.Random) -> str:
    head, tail = rng.choice(words), rng.choice(words)
    return head[: (len(head) + 1) // 2] + tail[(len(tail) + 1) // 2 :]


def _in_case(old: str, new: str) -> str:
    if new == old:
        return old
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new
