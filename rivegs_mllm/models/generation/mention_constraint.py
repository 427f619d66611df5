"""Constrained decoding of mentions: runs of words of the post, followed by a type of the answer format.

A mention that is not in the post is never correct, and small models misspell unseen names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rivegs_mllm.answer.serialization import escape

MAX_MENTION_WORDS = 30
"""Words that a mention can have, since every run of words is kept as a string; the longest of Twitter-GMNER has 9."""

_LINE = re.compile(rb"entity [0-9]+:(.*)", re.DOTALL)
_AFTER_MENTION = " ("
"""What ends a mention: its type follows."""
_MARKS = (")\n", ",")
"""What ends a type: the line, whose end may be one token with the bracket; or the occurrence follows."""


class TokenBytes:
    """The bytes of each token, and the tokens by their bytes. Special tokens have none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}  # as byte-level BPE writes bytes
        self.bytes = {
            token: bytes(letters[letter] for letter in text)
            for text, token in tokenizer.get_vocab().items()
            if token not in tokenizer.added_tokens_decoder and all(letter in letters for letter in text)
        }
        self.tokens = {spelled: token for token, spelled in self.bytes.items()}
        self.longest = max(map(len, self.tokens))


class MentionConstraint(LogitsProcessor):
    """Within the line of an entity, allows only tokens by which its mention stays a run of words of the row's post.

    ``posts`` are the words of each row's post; rows after these are not constrained. The mention is followed by one
    of ``types``. For tokenizers that spell bytes (byte-level BPE), as those of the Qwen models do. Make a new one for
    each call of ``generate``.
    """

    def __init__(self, token_bytes: TokenBytes, posts: Sequence[Sequence[str]], types: Sequence[str]):
        self.token_bytes = token_bytes
        self.ends = [f"{type}{mark}".encode() for type in types for mark in _MARKS]
        self.mentions = [_mentions(words) for words in posts]
        self.lines = [b""] * len(posts)
        self.started = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores (rows, vocabulary) of the next token, what must not follow at minus infinity."""
        if self.started:  # at the first call the last token is the prompt's
            for row, token in enumerate(input_ids[: len(self.lines), -1].tolist()):
                self.lines[row] = (self.lines[row] + self.token_bytes.bytes.get(token, b"")).rpartition(b"\n")[2]
        self.started = True
        for row, (line, mentions) in enumerate(zip(self.lines, self.mentions, strict=True)):
            if (entity := _LINE.fullmatch(line)) and (allowed := self._next(entity[1], mentions)):
                kept = scores[row, allowed]
                scores[row] = float("-inf")
                scores[row, allowed] = kept
        return scores

    def _next(self, written: bytes, mentions: Sequence[bytes]) -> list[int]:
        """The tokens that can follow what is ``written`` after an entity's label; none where mention and type are
        complete, and the rest is free."""
        after = [written[len(mention) :] for mention in mentions if written.startswith(mention)]
        if any(own.startswith(end) for own in after for end in self.ends):
            return []
        rests = [mention[len(written) :] for mention in mentions if mention.startswith(written)]
        rests += [end[len(own) :] for own in after for end in self.ends if end.startswith(own)]
        parts = {rest[: self.token_bytes.longest] for rest in rests}
        texts = {part[:length] for part in parts for length in range(1, len(part) + 1)}
        return sorted(self.token_bytes.tokens[text] for text in texts if text in self.token_bytes.tokens)


def _mentions(words: Sequence[str]) -> list[bytes]:
    """Each run of words as it stands in the line of an entity, with what comes before and after it."""
    runs = {
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + MAX_MENTION_WORDS, len(words)) + 1)
    }
    return [f" {escape(run)}{_AFTER_MENTION}".encode() for run in sorted(runs)]
