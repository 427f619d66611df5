"""The tokens of a model as the bytes that they write, and texts as tokens: for tokenizers that spell bytes (byte-level
BPE, as of the Qwen models) and for those of SentencePiece, with or without bytes to fall back on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rivegs_mllm.models.generation.writing import AllBut
from rivegs_mllm.types import UserError

_BLANK = "▁"
"""As SentencePiece writes a blank."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

# A character that text may have, in UTF-8: no control character (U+0000 to 001F, 007F to 009F), no line separator
# (U+2028, 2029), and no "<" that could open a control token or a location.
_REST = rb"[\x80-\xbf]"
_CHARACTER = rb"""
    [\x20-\x3b\x3d-\x7e] | <(?![|/lt]) | \xc2[\xa0-\xbf] | [\xc3-\xdf]R | \xe0[\xa0-\xbf]R
  | \xe2\x80[\x80-\xa7\xaa-\xbf] | \xe2[\x81-\xbf]R | \xed[\x80-\x9f]R | [\xe1\xe3-\xec\xee\xef]RR
  | \xf0[\x90-\xbf]RR | [\xf1-\xf3]RRR | \xf4[\x80-\x8f]RR
""".replace(b"R", _REST)
_BEGUN = rb"""
    [\xc2-\xf4] | \xe0[\xa0-\xbf] | \xed[\x80-\x9f] | [\xe1-\xec\xee\xef]R
  | \xf0[\x90-\xbf]R? | [\xf1-\xf3]RR? | \xf4[\x80-\x8f]R?
""".replace(b"R", _REST)
_TEXT = re.compile(rb"(?:%b)* (?: \n | %b )?" % (_CHARACTER, _BEGUN), re.VERBOSE)
_WHOLE = re.compile(rb"(?:%b)* \n?" % _CHARACTER, re.VERBOSE)
_STILL_BEGUN = re.compile(_BEGUN, re.VERBOSE)
_OPENING = ord("<")
_OPEN = re.compile(rb"(?: < | %b )\Z" % _BEGUN, re.VERBOSE)


class Vocabulary:
    """The tokens of a model that has ``columns`` scores. Added tokens, special ones among them, write no bytes.

    Raises UserError for a tokenizer of another kind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, columns: int):
        self.columns = max(columns, len(tokenizer))
        self.eos: int = tokenizer.eos_token_id
        self.bytes = _token_bytes(tokenizer)
        self._backend = deepcopy(tokenizer.backend_tokenizer)
        self._backend.encode_special_tokens = True
        self._spelled: dict[str, tuple[int, ...] | None] = {}
        self._text: dict[tuple[bytes, bool], AllBut] = {}

    @cached_property
    def tokens(self) -> dict[bytes, int]:
        """The token by its bytes."""
        return {spelled: token for token, spelled in self.bytes.items()}

    @cached_property
    def longest(self) -> int:
        """The most bytes that a token has."""
        return max(map(len, self.tokens))

    @cached_property
    def digits(self) -> dict[int, str]:
        """The tokens that write digits alone."""
        return {token: spelled.decode() for token, spelled in self.bytes.items() if re.fullmatch(rb"[0-9]+", spelled)}

    def spell(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, no special one among them. Raises UserError where the tokenizer cannot write it."""
        ids = self._spelled.get(text) or self.spell_all([text])[0]
        if ids is None:
            raise UserError(f"the base's tokenizer cannot write {text!r}; give predict.constrain=none")
        return ids

    def spell_all(self, texts: Iterable[str]) -> list[tuple[int, ...] | None]:
        """The tokens of each text as the tokenizer would write it, None where it cannot."""
        texts = list(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._spelled]
        if len(self._spelled) + len(new) > _MOST_KEPT:
            self._spelled.clear()
            new = list(dict.fromkeys(texts))
        if new:
            for text, encoded in zip(new, self._backend.encode_batch(new, add_special_tokens=False), strict=True):
                self._spelled[text] = tuple(encoded.ids) if self._writes(encoded.ids, text) else self._otherwise(text)
        return [self._spelled[text] for text in texts]

    def _writes(self, ids: Sequence[int], text: str) -> bool:
        return b"".join(self.bytes.get(token, b"") for token in ids) == text.encode()

    def _otherwise(self, text: str) -> tuple[int, ...] | None:
        """The tokens of a text to which the tokenizer adds a blank, or that it normalises: then the longest."""
        encoded = self._backend.encode(text.removeprefix(" "), add_special_tokens=False)
        if self._writes(encoded.ids, text):
            return tuple(encoded.ids)
        return self.longest_in_turn(text.encode())

    def longest_in_turn(self, text: bytes) -> tuple[int, ...] | None:
        """The tokens of a text, each the longest that there is, None where it cannot be written."""
        ids, place = [], 0
        while place < len(text):
            ends = range(min(len(text), place + self.longest), place, -1)
            end = next((end for end in ends if text[place:end] in self.tokens), None)
            if end is None:
                return None
            ids.append(self.tokens[text[place:end]])
            place = end
        return tuple(ids)

    def text(self, before: bytes, ending: bool) -> AllBut:
        """The tokens that may follow in a line of free text, ``before`` being what ``open_end`` says of it.

        A line ends with a line feed, which may be in one token with text. ``ending``: only such as begin no character
        without finishing it, so that the line can end soon.
        """
        key = (before, ending)
        if key not in self._text:
            fits = (_WHOLE if ending else _TEXT).fullmatch
            also = _STILL_BEGUN.fullmatch if ending and before else fits
            refused = np.ones(self.columns, dtype=bool)
            for token, spelled in self.bytes.items():
                if fits(before + spelled) or also(before + spelled):
                    refused[token] = False
            self._text[key] = AllBut(refused, np.flatnonzero(refused))
        return self._text[key]


_MOST_KEPT = 200_000
"""Texts whose tokens are remembered."""


def open_end(text: bytes) -> bytes:
    """What of the end of a text decides on what may follow it: a "<", or a character that is not whole, by the shortest
    bytes after which the same may follow. The text is not empty."""
    if text[-1] < 0x80 and text[-1] != _OPENING:
        return b""
    match = _OPEN.search(text)
    if match is None:
        return b""
    begun = match[0]
    if len(begun) == 1 or begun == b"\xe2\x80":
        return _LIKE_LEAD.get(begun, begun)
    missing = _length(begun[0]) - len(begun)
    return {1: b"\xc3", 2: b"\xe1"}[missing]


def _length(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


_LIKE_LEAD = {
    bytes([lead]): like
    for leads, like in (
        (range(0xC3, 0xE0), b"\xc3"),
        ([0xE1, *range(0xE3, 0xED), 0xEE, 0xEF], b"\xe1"),
        (range(0xF1, 0xF4), b"\xf1"),
    )
    for lead in leads
}


def _token_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """The bytes of each token that is not an added one."""
    kinds = _decoders(json.loads(tokenizer.backend_tokenizer.decoder.__getstate__()))
    added = tokenizer.added_tokens_decoder
    texts = [(token, text) for text, token in tokenizer.get_vocab().items() if token not in added]
    if "ByteLevel" in kinds:
        letters = {ord(letter): chr(byte) for byte, letter in bytes_to_unicode().items()}
        return {token: text.translate(letters).encode("latin-1") for token, text in texts}
    if kinds & {"Metaspace", "Replace"}:
        return {token: _sentencepiece_bytes(text) for token, text in texts}
    raise UserError(
        f"predict.constrain: the base's tokenizer spells neither bytes nor blanks as SentencePiece does ("
        f"{', '.join(sorted(kinds))}); give predict.constrain=none"
    )


def _sentencepiece_bytes(text: str) -> bytes:
    byte = _BYTE.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else text.replace(_BLANK, " ").encode()


def _decoders(state: dict) -> set[str]:
    """The types of a tokenizer's decoders."""
    return {state["type"]}.union(*map(_decoders, state.get("decoders", ())))
