"""The tags of tokens as spans, in whichever of the usual schemes."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAG = re.compile(r"O|([BIESLUM])-(\S.*)")


def is_tag(text: str) -> bool:
    """Whether a text is O, or a mark and a type such as B-PER."""
    return bool(_TAG.fullmatch(text))


def is_iob1(tags: Sequence[str]) -> bool:
    """Whether the tags of a file, "" between posts, are those of IOB1: B stands only after an entity of its type."""
    pairs = zip(["", *tags], tags, strict=False)
    marks = [(before, tag) for before, tag in pairs if tag and tag[0] in "BESUL"]
    return all(tag[0] == "B" and before[:2] in ("I-", "B-") and before[2:] == tag[2:] for before, tag in marks)


def spans_of(tags: Sequence[str]) -> tuple[list[tuple[int, int, str]], list[int]]:
    """(start, end, type) of each entity, end-exclusive, and the indices of tags that continue no entity.

    In BIO an entity begins with B; in IOB1 with I, unless it follows one of its type; in BIOES and BILOU it ends with E
    or L, and S or U are whole ones.
    """
    parts = [(match[1], match[2]) if (match := _TAG.fullmatch(tag)) and match[1] else ("O", "") for tag in tags]
    spans: list[tuple[int, int, str]] = []
    orphans = []
    open_kind = ""
    for index, (mark, kind) in enumerate(parts):
        if mark == "O":
            open_kind = ""
            continue
        if mark in "IELM" and kind == open_kind:
            spans[-1] = (spans[-1][0], index + 1, kind)
        else:
            if mark in "IELM":
                orphans.append(index)
            spans.append((index, index + 1, kind))
        open_kind = "" if mark in "ELSU" else kind
    return spans, orphans
