"""Posts as an encoder reads them: ``[text ; knowledge]``, the place of each word, and what did not fit."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from rivegs_mllm.cascade.base import StageError

EMPTY_WORDS = ("error", "unknown")


@dataclass(frozen=True)
class Window:
    """The words of a post from ``start`` on that are read at once.

    ``inputs`` is what the encoder takes, each a list of one value a token; ``first`` the place of each word's first
    token in these.
    """

    start: int
    inputs: dict[str, list[int]]
    first: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """How many tokens the encoder reads."""
        return len(self.inputs["input_ids"])


class WordEncoder:
    """Posts as windows of at most ``max_length`` tokens.

    What does not fit: the knowledge is cut first; a text that is too long by itself is split between words, and read
    in several windows. ``on_empty_token`` says what to do with a word for which the tokenizer gives no token, such as a
    lone variation selector: "error", or "unknown" to read the tokenizer's unknown token in its place.
    ``stage`` names the stage in messages. ``marks``: how many of the words that text and knowledge share, whatever
    their capitals, have a token type of their own, from 2 on, in the order of the text: for a small encoder that would
    not learn by itself which words are the same.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, max_length: int, on_empty_token: str, stage: str, marks: int = 0
    ):
        if on_empty_token not in EMPTY_WORDS:
            raise StageError(f"{stage}: on_empty_token {on_empty_token!r} is neither 'error' nor 'unknown'")
        least = tokenizer.num_special_tokens_to_add(pair=True) + 1
        if not least <= max_length <= tokenizer.model_max_length:
            raise StageError(
                f"{stage}: max_length is {max_length}, but this encoder reads {least} to {tokenizer.model_max_length} "
                "tokens; change max_length, or choose another encoder"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.on_empty_token = on_empty_token
        self.stage = stage
        self.marks = marks

    def windows(self, post: str, tokens: Sequence[str], knowledge: str) -> tuple[list[Window], list[str]]:
        """The windows of the post with the id ``post``, none for one without words; and notes on what did not fit."""
        if not tokens:
            return [], []
        words, lengths = self._readable(post, list(tokens))
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=False)
        bounds = _split(lengths, room)
        notes = []
        if len(bounds) > 1:
            notes.append(
                f"{self.stage}: the text has {sum(lengths)} tokens, of {room} that fit; read in {len(bounds)} parts"
            )
        if max(lengths) > room:
            notes.append(f"{self.stage}: word {lengths.index(max(lengths))} has {max(lengths)} tokens, and was cut")
        windows = []
        for start, end in bounds:
            window, left_out = self._window(words[start:end], start, sum(lengths[start:end]), knowledge)
            windows.append(window)
            if left_out:
                notes.append(f"{self.stage}: the last {left_out} tokens of the knowledge did not fit and were cut")
        return windows, notes

    def _readable(self, post: str, words: list[str]) -> tuple[list[str], list[int]]:
        """The words, those that leave no token replaced; and the number of tokens of each."""
        lengths = self._lengths(words)
        empty = [index for index, length in enumerate(lengths) if length == 0]
        if empty and (self.on_empty_token == "error" or self.tokenizer.unk_token is None):
            raise StageError(
                f"{self.stage}: sample {post}: the encoder's tokenizer gives no token for word {empty[0]}, "
                f"{words[empty[0]]!a}; set `on_empty_token: unknown` where the stage is trained, or choose an encoder "
                "that reads it"
            )
        for index in empty:
            words[index] = self.tokenizer.unk_token
        return words, self._lengths(words) if empty else lengths

    def _lengths(self, words: list[str]) -> list[int]:
        lengths = [0] * len(words)
        encoded = self.tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        for word in encoded.word_ids():
            lengths[word] += 1
        return lengths

    def _window(self, words: list[str], start: int, length: int, knowledge: str) -> tuple[Window, int]:
        """A window, and how many tokens of the knowledge it has no room for."""
        extra = knowledge.split()
        total = 0
        if extra:
            plain = self.tokenizer(extra, is_split_into_words=True, add_special_tokens=False, verbose=False)
            total = len(plain.input_ids)
        room = max(0, self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True) - length)
        encoded = self.tokenizer(
            words,
            extra if total and room else None,
            is_split_into_words=True,
            truncation="only_second" if total and room else "only_first",  # the latter for a word longer than a window
            max_length=self.max_length,
        )
        first: dict[int, int] = {}
        marks = _shared(words, extra, self.marks)
        for index, (word, part) in enumerate(zip(encoded.word_ids(), encoded.sequence_ids(), strict=True)):
            if part == 0:
                first.setdefault(word, index)
            if marks and part is not None:
                own = encoded["token_type_ids"][index]
                encoded["token_type_ids"][index] = marks.get(_plain((words, extra)[part][word]), own)
        return Window(start, dict(encoded), tuple(first[word] for word in range(len(words)))), max(0, total - room)


def _shared(words: Sequence[str], extra: Sequence[str], count: int) -> dict[str, int]:
    """The token types, from 2 on, of the first ``count`` words of the text that are in the knowledge too."""
    known = set(map(_plain, extra)) - {""}
    shared = [word for word in dict.fromkeys(map(_plain, words)) if word in known]
    return {word: 2 + index for index, word in enumerate(shared[:count])}


def _plain(word: str) -> str:
    return word.strip(string.punctuation).casefold()


def _split(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Bounds of the fewest runs of words that have at most ``room`` tokens each; a longer word stands alone."""
    bounds, start, held = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and held + length > room:
            bounds.append((start, index))
            start, held = index, 0
        held += length
    return [*bounds, (start, len(lengths))]
