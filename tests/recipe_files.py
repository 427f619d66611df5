"""The files of recipes/, and the commands in their opening comments."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTS = ("accelerate launch ", "rivegs ", "python -m ")


def recipes(folder: str = "") -> list[Path]:
    """The recipes below a folder of recipes/, without those that are bases alone."""
    paths = sorted((ROOT / "recipes" / folder).rglob("*.yaml"))
    return [path for path in paths if not path.name.startswith("_")]


def named(path: Path) -> str:
    """A file as commands name it."""
    return path.relative_to(ROOT).as_posix()


def commands(path: Path) -> list[list[str]]:
    """The words of each command in a recipe's opening comment that starts this recipe."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    found = (line.lstrip("# ") for line in lines)
    return [words for line in found if line.startswith(STARTS) and named(path) in (words := shlex.split(line))]


def overrides(path: Path, command: list[str]) -> list[str]:
    """What a command says after the recipe."""
    return [word for word in command[command.index(named(path)) + 1 :] if word.startswith("--") and "=" in word]
