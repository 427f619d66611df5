"""Tokens as people write them: between those of Chinese and Japanese there is no blank.

Records keep mentions as tokens joined by single blanks; what is shown to people, or given to other tools, is written
here. A blank between these scripts and others stays, since texts have it as often as not.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

_SIGNS = r"\u3001-\u3004\u3008-\u3020\u3030\u30FB\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65"
_END = regex.compile(rf"[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}\u30FC\uFF70\uFF9E\uFF9F{_SIGNS}]\p{{M}}*$")
_START = regex.compile(rf"[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}\u30FC\uFF70{_SIGNS}]")
_SIGN_END, _SIGN_START = regex.compile(rf"[{_SIGNS}]$"), regex.compile(rf"[{_SIGNS}]")


def blanks(tokens: Sequence[str]) -> list[bool]:
    """Whether a blank is written before each token; none is before the first."""
    return [bool(place) and not _touch(tokens[place - 1], token) for place, token in enumerate(tokens)]


def written(tokens: Sequence[str]) -> str:
    """The tokens as a text."""
    return "".join(f" {token}" if blank else token for token, blank in zip(tokens, blanks(tokens), strict=True))


def as_written(text: str) -> str:
    """A mention, which is tokens joined by blanks, as ``written`` gives them."""
    return written(text.split(" "))


def starts_in(tokens: Sequence[str]) -> list[int]:
    """Where each token begins in the text that ``written`` gives, in characters."""
    starts, offset = [], 0
    for token, blank in zip(tokens, blanks(tokens), strict=True):
        starts.append(offset + blank)
        offset += blank + len(token)
    return starts


def _touch(first: str, second: str) -> bool:
    """Whether two tokens stand without a blank: both of these scripts, or one a full-width sign such as 「."""
    if _END.search(first) and _START.match(second):
        return True
    return bool(_SIGN_END.search(first) or _SIGN_START.match(second))
