"""The tokens of a text as people write it: words, names, numbers, punctuation, emoji.

As in Twitter-2015 and -2017, on which most models are trained, "#" and "@" are tokens of their own, so that the name
in a hashtag is one too.
"""

from __future__ import annotations

import regex

_TOKEN = regex.compile(
    r"""
    https?://[^\s<>"]*[^\s<>".,;:!?)\]'…]                      # an address, without the punctuation behind it
  | (?:\p{L}\.){2,}                                            # U.S.A.
  | \p{N}+(?:[.,:/]\p{N}+)*[%‰]?(?![\p{L}\p{M}\p{N}_])           # 1,000.50  12:30  40%
  | (?<!\S)['’]\p{L}{1,2}(?![\p{L}\p{N}])                      # the 's of a text that is split already
  | [\p{L}\p{M}\p{N}_]+(?:['’\-.&][\p{L}\p{M}\p{N}_]+)*        # don't  Jay-Z  AT&T  nasa.gov
  | [:;=8][-o*']?[)\](\[dDpP/\\|](?!\p{L})                     # :-)
  | (?:\p{RI}\p{RI}|\p{Extended_Pictographic}(?:\p{EMod}|\uFE0F|\u200D\p{Extended_Pictographic})*)
  | \.{2,}|…
  | ([^\s\p{L}\p{N}\p{C}])\1*                                  # other signs, a run of the same as one
    """,
    regex.VERBOSE,
)


def tokens_of(text: str) -> list[tuple[str, int]]:
    """The tokens of a text and where each begins in it, in characters. White space and control characters are none."""
    return [(match[0], match.start()) for match in _TOKEN.finditer(text)]
