"""What a reader who types a command of the pages is told is wrong with it, by the programs' own parsers."""

from __future__ import annotations

import argparse
import pkgutil
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from pages import ROOT, Command
from recipe_kinds import read

from rivegs_mllm.cli.main import _parser
from rivegs_mllm.config.reading.command_line import Parser
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.types import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def is_there(name: str) -> bool:
    """Whether a module, or what it holds, can be imported by its dotted name."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def faults_of(command: Command) -> Iterator[str]:
    """What a reader who types the command is told is wrong with it."""
    program, *words = command.words
    try:
        if "VERB" in words:
            return
        if program == "rivegs" and words:
            yield from _faults_of_a_verb(words)
        elif program == "accelerate" and words[:1] == ["launch"]:
            yield from _faults_of_a_launch(words[1:])
        elif program == "python" and words:
            yield from _faults_of_python(words)
        elif program == "make":
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            yield from (f"no target {word}" for word in words if "=" not in word and word not in known)
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = re.findall(r"(?:\.|rivegs-mllm)\[([^]]+)\]", " ".join(words))
            yield from (f"no extra {name}" for names in asked for name in names.split(",") if name not in extras)
    except UserError as error:
        yield str(error)
    except _WrongError as error:
        if command.whole or "are required" not in str(error):
            yield str(error)


def _faults_of_a_verb(words: Sequence[str]) -> Iterator[str]:
    try:
        known, rest = _told(_parser().parse_known_args, words)
    except _WrongError as error:
        name = re.search(r"invalid choice: '([A-Z]+)' \(choose from '?([\w-]+)", str(error))
        if name is None:
            raise
        own = [name[2] if word == name[1] else word for word in words]  # FORMAT and the like stand for any choice
        known, rest = _told(_parser().parse_known_args, own)
    said = vars(known)
    if rest and not known.parser.takes_overrides:
        yield f"unknown: {rest}"
    if said.get("recipe"):
        yield from _faults_of_a_recipe(said["recipe"], rest)
    for path in said.get("recipes", ()):
        yield from _faults_of_a_recipe(path, [])
    if said.get("only"):
        files = [ROOT / path for path in said["recipes"] if (ROOT / path).is_file()]
        systems = {name for path in files for name in read_layers(path).variants() or [path.stem]}
        yield from (f"no system {name}" for name in said["only"] if files and name not in systems)


def _faults_of_a_recipe(path: Path, overrides: Sequence[str]) -> Iterator[str]:
    """``path`` is a file of recipes/, or a name that stands for one."""
    said = [word for word in overrides if word.startswith("--") and "=" in word]
    if len(said) < len([word for word in overrides if not word.isupper()]):
        yield f"{overrides}: an override is --key=value"
    if path.parts[0] == "recipes" and path.stem != "mine":
        read(ROOT / path, *said)


def _faults_of_a_launch(words: Sequence[str]) -> Iterator[str]:
    _told(launch_command_parser().parse_known_args, [re.sub("^[A-Z]+$|^[$].*", "1", word) for word in words])
    for flag in ("--config_file", "--deepspeed_config_file"):
        if flag in words and not (ROOT / (path := words[words.index(flag) + 1])).is_file() and path != "CONFIG":
            yield f"no file {path}"
    if "-m" in words:
        module, recipe, *rest = words[words.index("-m") + 1 :]
        if not is_there(module):
            yield f"no module {module}"
        if module == "rivegs_mllm.predict":
            yield from _faults_of_a_verb(["predict", recipe, *rest])
        else:
            yield from _faults_of_a_recipe(Path(recipe), rest)


def _faults_of_python(words: Sequence[str]) -> Iterator[str]:
    if words[:2] == ["-m", "pytest"]:
        yield from (f"no file {word}" for word in words[2:] if "/" in word and not (ROOT / word).exists())
    elif words[0] == "-m" or words[0].endswith(".py"):
        place = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
        arguments = words[2:] if words[0] == "-m" else words[1:]
        if not (ROOT / place).is_file():
            yield f"no file {place}"
        elif "ArgumentParser" in (ROOT / place).read_text(encoding="utf-8"):
            own = [re.sub(r"^(\w)\|.*|^[A-Z]$", lambda found: found[1] or "1", word) for word in arguments]
            known, rest = _told(_arguments_of, ROOT / place, own)
            yield from _faults_of_a_recipe(known.recipe, rest) if "recipe" in vars(known) else ()
        elif arguments:
            yield from _faults_of_a_recipe(Path(arguments[0]), arguments[1:])


def _arguments_of(program: Path, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What a program reads its arguments as; it is ended before it does more."""

    class ReadError(Exception):
        """They are read."""

    read, parse = [], argparse.ArgumentParser.parse_known_args

    def parse_and_end(*given):
        read.append(parse(*given))
        raise ReadError

    with pytest.MonkeyPatch.context() as patch, suppress(ReadError):
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_end)
        patch.setattr(sys, "argv", [str(program), *arguments])
        runpy.run_path(str(program), run_name="__main__")
    return read[0]


class _WrongError(Exception):
    """A parser refused its arguments, with what it said."""


def _told(call, *arguments):
    """What the call gives, nothing where it shows its help. Raises _WrongError where it ends otherwise."""
    said = []

    def refuse(parser, message):
        said.append(message)
        raise SystemExit(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        patch.setattr(Parser, "error", refuse)
        try:
            return call(*arguments)
        except SystemExit as end:
            if end.code:
                raise _WrongError(" ".join(said) or str(end.code)) from None
    return argparse.Namespace(), []
