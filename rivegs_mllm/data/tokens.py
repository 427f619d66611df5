"""The tokens of a text as people write it: words, names, numbers, punctuation, emoji.

As in Twitter-2015 and -2017, on which most models are trained, "#" and "@" are tokens of their own, so that the name
in a hashtag is one too. A Chinese character is a token of its own, as scripts without blanks have no words to see; in
Japanese, Hiragana and Katakana are runs of their own, so that a particle does not stick to the name before it.
"""

from __future__ import annotations

import regex

_LETTER = r"[[\p{L}\p{M}\p{N}_]--[\p{Han}\p{Hiragana}\p{Katakana}\u30FC\uFF70\uFF9E\uFF9F]]"
_EMOJI = r"\p{Extended_Pictographic}"

_TOKEN = regex.compile(
    rf"""
    https?://[^\s<>"]*[^\s<>".,;:!?)\]'…]                      # an address, without the punctuation after it
  | (?:\p{{L}}\.){{2,}}                                            # U.S.A.
  | \p{{N}}+(?:[.,:/]\p{{N}}+)*[%‰]?(?![\p{{L}}\p{{M}}\p{{N}}_])           # 1,000.50  12:30  40%
  | (?<!\S)['’]\p{{L}}{{1,2}}(?![\p{{L}}\p{{N}}])                      # the 's of a text that is split already
  | \p{{Han}}\p{{M}}*
  | (?:\p{{Hiragana}}[\p{{M}}\u30FC]*)+
  | (?:[\p{{Katakana}}\u30FC\uFF70\uFF9E\uFF9F]\p{{M}}*)+          # with the sign of a long vowel, half-width marks
  | {_LETTER}+(?:['’\-.&\u00AD\u200C\u200D]{_LETTER}+)*      # don't  Jay-Z  AT&T  nasa.gov, Persian, Bengali
  | [:;=8][-o*']?[)\](\[dDpP/\\|](?!\p{{L}})                     # :-)
  | \p{{RI}}\p{{RI}}                                            # flags
  | {_EMOJI}(?:\p{{EMod}}|\uFE0F|\u200D{_EMOJI}|[\U000E0020-\U000E007F])*
  | \.{{2,}}|…
  | ([^\s\p{{L}}\p{{N}}\p{{C}}])\1*                                  # other signs, a run of the same as one
    """,
    regex.VERBOSE | regex.V1,
)


def tokens_of(text: str) -> list[tuple[str, int]]:
    """The tokens of a text, each with the offset in characters at which it begins.

    White space and control characters belong to no token.
    """
    return [(match[0], match.start()) for match in _TOKEN.finditer(text)]
