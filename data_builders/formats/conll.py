"""Posts in CoNLL files: a token and a BIO tag a line, a blank line between posts.

A type is whatever follows B- or I-, but for MISC, which is OTHER. Columns between token and tag, such as parts of
speech, are left out where all lines of a post have them.

Two kinds of file are read: posts under ``IMGID:`` lines (Twitter-2015, Twitter-2017, Twitter-GMNER), and RiVEG's
knowledge files, posts without ids in which the words tagged X after ``<EOS>`` are what an LLM wrote about the post.

Repairs, each listed in the post that needed it, so that nothing is changed silently:
an I- tag that continues no entity of its type starts one, as conlleval has it;
a token that is empty or holds white space gets ``_`` in its place, so that spans stay what they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_builders.formats.tags import spans_of
from data_builders.formats.text_files import read_lines
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import TYPES, Entity, UserError

_OTHER_NAMES = {"MISC": "OTHER"}
_TAG = re.compile(r"O|[BI]-\S+")
_USUAL = frozenset(("O", *(f"{begin}-{kind}" for begin in "BI" for kind in TYPES)))  # a look-up is quicker than a match

ID_MARK = "IMGID:"
KNOWLEDGE_MARK = "<EOS>"


@dataclass(frozen=True, slots=True)
class Repair:
    """A correction: ``kind`` is "orphan tag", "blank token" or "further columns", ``line`` counts from 1."""

    line: int
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class ConllPost:
    """A post of an ``IMGID:`` file. ``line`` is that of its id; its entities have spans but no boxes."""

    id: str
    line: int
    tokens: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    repairs: tuple[Repair, ...] = ()


def read_posts(path: Path | str) -> list[ConllPost]:
    """The posts of a file, in its order, one without tokens included. Raises UserError naming file and line."""
    posts: list[ConllPost] = []
    for number, block in post_blocks(read_lines(path)):
        if not block[0].startswith(ID_MARK):
            raise UserError(
                f"{path}:{number}: {shown(block[0])} stands under no {ID_MARK} line; put the post's id above it"
            )
        posts.append(_post(path, number, block))
    return posts


def read_knowledge_posts(path: Path | str) -> list[tuple[tuple[str, ...], str]]:
    """(tokens, knowledge) of each post of a knowledge file, in its order. Raises UserError naming file and line."""
    posts = []
    for number, block in _blocks(read_lines(path)):
        words = [word for word, _ in _pairs(path, number, block)]
        if KNOWLEDGE_MARK not in words:
            raise UserError(f"{path}:{number}: the post that starts here has no {KNOWLEDGE_MARK} line")
        mark = words.index(KNOWLEDGE_MARK)
        posts.append((tuple(words[:mark]), " ".join(filter(None, words[mark + 1 :]))))
    return posts


def post_blocks(
    lines: Sequence[str], is_comment: Callable[[str], bool] = lambda _: False
) -> Iterator[tuple[int, list[str]]]:
    """The lines of each post, with the number of the first: a post ends before a blank line and before the id of
    another, and begins with its id or with comments above that."""
    for number, block in _blocks(lines):
        # A post may follow without a blank line between.
        starts = [index for index, line in enumerate(block) if line.startswith(ID_MARK)]
        if starts and all(map(is_comment, block[: starts[0]])):
            starts = starts[1:]
        for start, end in zip([0, *starts], [*starts, len(block)], strict=True):
            yield number + start, block[start:end]


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines that are not blank, each with the number of its first line."""
    block: list[str] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            block.append(line)
        # A tab and a tag is a blank token, not the end of a post.
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number + 1 - len(block), block


def _pairs(path: Path | str, number: int, lines: list[str]) -> list[tuple[str, str]]:
    """The token and the tag of each line."""
    if _further_columns(lines):
        return [(line.partition("\t")[0], line.rpartition("\t")[2]) for line in lines]
    pairs = []
    for offset, line in enumerate(lines):
        token, tab, tag = line.rpartition("\t")
        if not tab:
            raise UserError(f"{path}:{number + offset}: {shown(line)} is not a token, a tab and a tag")
        pairs.append((token, tag))
    return pairs


def _further_columns(lines: list[str]) -> int:
    """How many columns all lines of a post have between token and tag; a lone tab in a token makes none."""
    columns = {line.count("\t") + 1 for line in lines}
    return max(0, min(columns) - 2) if len(columns) == 1 else 0


def _post(path: Path | str, number: int, block: list[str]) -> ConllPost:
    identity = block[0][len(ID_MARK) :].strip()
    if not identity:
        raise UserError(f"{path}:{number}: {ID_MARK} without an id")
    if not identity.isprintable():
        raise UserError(f"{path}:{number}: the id {shown(identity)} has characters that no id has")
    pairs = _pairs(path, number + 1, block[1:])
    tokens, tags = [token for token, _ in pairs], [tag for _, tag in pairs]
    odd = next((index for index, tag in enumerate(tags) if tag not in _USUAL and not _TAG.fullmatch(tag)), None)
    if odd is not None:
        raise UserError(f"{path}:{number + 1 + odd}: tag {shown(tags[odd])} is neither O nor B- or I- with a type")
    repairs = []
    if columns := _further_columns(block[1:]):
        message = f"{columns} columns between token and tag are left out"
        repairs.append(Repair(number + 1, "further columns", message))
    if " ".join(tokens).split() != tokens:
        repairs += _mend_tokens(tokens, number + 1)
    spans, orphans = spans_of(tags)
    for index in orphans:
        message = f"{shown(tokens[index])} is tagged {tags[index][:80]} but continues no such entity; it starts one"
        repairs.append(Repair(number + 1 + index, "orphan tag", message))
    entities = [
        Entity(" ".join(tokens[start:end]), _OTHER_NAMES.get(kind, kind), (start, end)) for start, end, kind in spans
    ]
    return ConllPost(identity, number, tuple(tokens), tuple(entities), tuple(repairs))


def _mend_tokens(tokens: list[str], number: int) -> list[Repair]:
    """Repairs the list in place."""
    repairs = []
    for index, token in enumerate(tokens):
        mended = "_".join(token.split()) or "_"
        if mended != token:
            tokens[index] = mended
            message = f"the token {shown(token)} is read as {shown(mended)}"
            repairs.append(Repair(number + index, "blank token", message))
    return repairs
