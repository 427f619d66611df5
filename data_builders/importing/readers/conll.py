"""CoNLL: a token and its tag a line, a blank line between posts, columns divided by tabs, blanks or what a file has.

The token is the first column, the tag the last. Tags are BIO, IOB1, BIOES or BILOU, with any types. A post's id stands
in an ``IMGID:`` line or in comments such as ``# id = 7`` or ``# image = 7.jpg``; where there is none, posts have no
picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_builders.formats.conll import ID_MARK, post_blocks
from data_builders.formats.tags import is_iob1, is_tag, spans_of
from data_builders.formats.text_files import read_lines
from data_builders.importing.fields import MOST_BYTES
from data_builders.importing.records import Left, Mention, Post, Source
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

_COMMENT = re.compile(r"#\s*([\w.]+)\s*[=:]\s*(.*\S)\s*")
_ID_KEYS = frozenset(("id", "sent_id", "imgid", "image", "image_id"))
_SEPARATORS = ("\t", " ", ",", ";", "|")


def read_conll(path: Path, _: Mapping[str, str]) -> Source:
    """The posts of a file, in its order. Raises UserError naming file and line."""
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: longer than {MOST_BYTES:,} bytes; divide it")
    lines = read_lines(path)
    separator = _separator(path, lines)
    left: list[Left] = []
    posts = []
    for number, block in post_blocks(lines, lambda line: bool(_COMMENT.fullmatch(line))):
        posts += _posts(path, list(enumerate(block, number)), separator, left)
    name = {"\t": "a tab", " ": "blanks"}.get(separator, repr(separator))
    note = f"columns: token first, tag last, divided by {name}"
    if is_iob1([_split(line, separator)[-1] if line.strip() else "" for line in lines]):
        left = []  # there, an entity begins with I
    return Source(posts, notes=[note], left=left)


def _separator(path: Path, lines: Sequence[str]) -> str:
    """What divides the columns: that by which nearly every line ends in a tag."""
    body = [line for line in lines[:5000] if line.strip() and not _is_head(line) and not line.startswith("-DOCSTART-")]
    if not body:
        return "\t"
    counts = {own: sum(own in line and is_tag(_split(line, own)[-1]) for line in body) for own in _SEPARATORS}
    best = max(_SEPARATORS, key=lambda own: counts[own])
    if not counts[best]:
        first = next(line for line in body)
        number = lines.index(first) + 1
        raise UserError(
            f"{path}:{number}: {shown(first)} does not end in a tag such as O or B-PER behind a tab, a "
            "blank, a comma, a semicolon or a bar"
        )
    return best


def _split(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else [cell.strip() for cell in line.split(separator)]


def _is_head(line: str) -> bool:
    return line.startswith(ID_MARK) or bool(_COMMENT.fullmatch(line))


def _posts(path: Path, block: Sequence[tuple[int, str]], separator: str, left: list[Left]) -> list[Post]:
    number = block[0][0]
    identity = image = ""
    tokens, tags = [], []
    for place, line in block:
        comment = _COMMENT.fullmatch(line)
        tagged = separator in line and is_tag(_split(line, separator)[-1])
        if line.startswith(ID_MARK) and not tagged:
            identity = image = line.removeprefix(ID_MARK).strip()
            continue
        if comment and not tagged:
            key, value = comment[1].lower(), comment[2]
            if key in _ID_KEYS:
                identity = value if key not in ("image", "image_id") else identity
                image = value if key in ("image", "imgid", "image_id") else image
            continue
        if line.startswith("-DOCSTART-"):
            continue
        cells = _split(line, separator)
        if len(cells) < 2 or not is_tag(cells[-1]):
            raise UserError(f"{path}:{place}: {shown(line)} is not a token and a tag such as O or B-PER")
        tokens.append(cells[0])
        tags.append(cells[-1])
    if not tokens and not identity:
        return []
    spans, orphans = spans_of(tags)
    for index in orphans:
        message = f"{shown(tokens[index])} is tagged {tags[index][:80]}, but continues no such entity; it starts one"
        left.append(Left("orphan tag", f"{path}:{number}", message))
    mentions = tuple(Mention(kind, " ".join(tokens[start:end]), span=(start, end)) for start, end, kind in spans)
    post = Post(f"{path}:{number}", identity, tokens=tuple(tokens), mentions=mentions, image=image)
    return [post]
