"""The pages for people, and what stands in them to be run: fenced blocks and command lines."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md", "rivegs_mllm/tiny/base/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = ("rivegs", "python", "accelerate", "make", "pip")

_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4,}(?=[A-Za-z])(?:.*\\\n)*.*$", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_REMARK = re.compile(r"\s{2,}.*|\s+#\s.*")


@dataclass(frozen=True)
class Block:
    """A fenced block with the language that it is marked with, "" for none."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line as words. ``whole`` is False where a page names only a part of it."""

    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return shlex.join(self.words)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(page: Path) -> list[Command]:
    """The commands of a page: lines of indented and shell blocks, and what is marked as code within sentences."""
    text = page.read_text(encoding="utf-8")
    shell = [
        line for block in blocks(page) if block.language in ("sh", "bash", "shell") for line in block.text.split("\n")
    ]
    text = _FENCE.sub("", text)
    lines = [re.sub(r"\\\n\s*", "", line).strip() for line in _INDENTED.findall(text)]
    found = [_command(part, whole=True) for line in [*shell, *lines] for part in line.split(" && ")]
    spans = [re.sub(r"\s+", " ", span) for span in _SPAN.findall(_INDENTED.sub("", text))]
    found += [_command(span, whole=False) for span in spans]
    return [command for command in found if command is not None]


def _command(line: str, whole: bool) -> Command | None:
    """The command that a line is, without what is said beside it; None where it is none."""
    if not re.match(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)})(?: |$)", line):
        return None
    words = shlex.split(_REMARK.sub("", line).partition(" > ")[0].removesuffix(" >"))
    while "=" in words[0]:
        words.pop(0)
    own = [_bare(word) for word in words]
    return Command(tuple(word for word in own if word), whole and "..." not in words)


def _bare(word: str) -> str:
    """Without the brackets around what may be left out, and the dots behind what may be repeated."""
    word = word.removeprefix("[").removesuffix("...")
    return word if "[" in word else word.removesuffix("]")
