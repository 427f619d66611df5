"""Which mention a region shows, where the file does not say it by a link: by its words, its type, or its order."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_builders.common import look_of
from data_builders.importing.records import Mention, Region

WAYS = ("link", "text", "type", "order")
"""By what a region found its mention, the surest first."""

Links = Sequence[tuple[Sequence[int], str]]
"""Of each region the mentions that it shows, by their place in the list, [] for none, and by which of ``WAYS``."""


def link(mentions: Sequence[Mention], regions: Sequence[Region]) -> Links:
    """The mentions that each region shows.

    A text that comes several times among the mentions of its type is shown at all of them. Regions whose label is a
    type go to the mention of that type where there is one, and else, if there are as many regions as mentions without
    one, in the order of both.
    """
    found = [_by_words(region, mentions) for region in regions]
    taken = {index for own, _ in found for index in own}
    for kind in dict.fromkeys(region.label for region, (own, _) in zip(regions, found, strict=True) if not own):
        of_kind = [index for index, mention in enumerate(mentions) if _kind(mention.type) == _kind(kind)]
        free = [index for index in of_kind if index not in taken]
        open_regions = [place for place, region in enumerate(regions) if not found[place][0] and region.label == kind]
        unnamed = [place for place in open_regions if not regions[place].key and not regions[place].mention]
        if len(of_kind) == 1:
            for place in unnamed:
                found[place] = (of_kind, "type")
        elif len(unnamed) == len(free):
            for place, index in zip(unnamed, free, strict=True):
                found[place] = ([index], "order")
    return found


def may_show(region: Region, mentions: Sequence[Mention], free: Sequence[int], by_name: bool) -> list[int]:
    """Which of the mentions ``free``, that no region shows, one that found none may be of: those of its type.

    A region that is called by a name, as all those of a set are where ``by_name`` says so, may be of any where none is
    of its type: the name may be misspelt. Others are things that the text does not name.
    """
    of_type = [index for index in free if _kind(mentions[index].type) == _kind(region.label)]
    return of_type or (list(free) if by_name or region.key or region.mention else [])


def _by_words(region: Region, mentions: Sequence[Mention]) -> tuple[list[int], str]:
    if region.key:
        own = [index for index, mention in enumerate(mentions) if mention.key == region.key]
        if own:
            return own, "link"
    if region.mention:
        return _of_text(region.mention, region.label, mentions), "text"
    own = _of_text(region.label, "", mentions)
    typed = re.fullmatch(r"(.+?)\s*[(\[:_-]\s*([^()\[\]]+?)\s*[)\]]?", region.label)
    if not own and typed and any(_kind(mention.type) == _kind(typed[2]) for mention in mentions):
        own = _of_text(typed[1], typed[2], mentions)
    return own, "text"


def _of_text(text: str, kind: str, mentions: Sequence[Mention]) -> list[int]:
    """The mentions that read so, exactly or else but for capitals; those of the type if there are any."""
    for same in (str, look_of, _key):
        own = [index for index, mention in enumerate(mentions) if text and same(mention.text) == same(text)]
        typed = [index for index in own if _kind(mentions[index].type) == _kind(kind)]
        if own:
            return typed or own
    return []


def _key(text: str) -> str:
    return look_of(text).casefold()


def _kind(name: str) -> str:
    """What is the same for names of a type, of which some formats cannot have blanks: "art work" and "Art_work"."""
    return _key(name).replace("_", "").replace("-", "")
