"""brat's standoff: a folder of texts, ``<id>.txt``, each with its annotations beside it, ``<id>.ann``.

Text-bound annotations (T) are mentions; of one in several parts, all from the first to the last. An attribute (A)
called Visible says whether the picture, of the text's name, shows it. Relations, events and notes are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_builders.formats.text_files import decoded
from data_builders.importing.fields import LARGEST, read_bytes
from data_builders.importing.records import Left, Mention, Post, Source
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError

_BOUND = re.compile(r"(T\S+)\t(.+?) (\d{1,9}(?: \d{1,9};\d{1,9})* \d{1,9})\t(.*)")
_VISIBLE = re.compile(r"A\S+\t(?:Visible|Grounded) (T\S+)(?: (\S+))?", re.IGNORECASE)
_FALSE = ("false", "no", "0")


def read_brat(path: Path, _: Mapping[str, str]) -> Source:
    """A post a text, of the folder or one below it, which may be called as a split. Raises UserError."""
    left: list[Left] = []
    posts = []
    for file in [path] if path.is_file() else sorted(path.rglob("*.txt")):
        annotations = file.with_suffix(".ann")
        if not annotations.is_file():
            left.append(
                Left("text without annotations", str(file), f"has no {annotations.name} beside it; is left out")
            )
            continue
        text = decoded(read_bytes(file), file)
        mentions = _mentions(annotations, left)
        split = "" if file.parent == path else file.parent.name
        posts.append(Post(str(file), file.stem, text, mentions=tuple(mentions.values()), split=split))
    if not posts:
        raise UserError(f"{path}: no .txt file with its .ann beside it")
    return Source(posts, left=left)


def _mentions(path: Path, left: list[Left]) -> dict[str, Mention]:
    found: dict[str, Mention] = {}
    for number, line in enumerate(decoded(read_bytes(path), path).splitlines(), 1):
        place = f"{path}:{number}"
        bound, seen = _BOUND.fullmatch(line), _VISIBLE.fullmatch(line)
        if bound:
            found[bound[1]] = _mention(bound, place, left)
        elif seen and seen[1] in found:
            visible = (seen[2] or "true").casefold() not in _FALSE
            found[seen[1]] = replace(found[seen[1]], visible=visible)
        elif line.startswith("T"):
            raise UserError(f"{place}: {shown(line)} is not T1, a tab, type, start, end, a tab, text")
        elif line.strip():
            left.append(Left("annotation of another kind", place, f"{shown(line)} is left out"))
    return found


def _mention(bound: re.Match, place: str, left: list[Left]) -> Mention:
    numbers = [int(number) for number in re.findall(r"\d+", bound[3])]
    if sorted(numbers) != numbers or numbers[-1] > LARGEST:
        raise UserError(f"{place}: {shown(bound[3])} does not go from a start to an end")
    if len(numbers) > 2:
        left.append(Left("mention in parts", place, f"{shown(bound[4])} is read with what stands between its parts"))
    text = bound[4] if len(numbers) == 2 else ""
    return Mention(bound[2], text, (numbers[0], numbers[-1]), key=bound[1])
