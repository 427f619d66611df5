"""The parser of the command line: overrides among the options, lists as ``A,B``, and errors of one line."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NoReturn

from rivegs_mllm.config.reading.overrides import take_overrides
from rivegs_mllm.runtime.files import is_there
from rivegs_mllm.runtime.foreign import cut, printable
from rivegs_mllm.types import UserError

_WORDS = (
    (r"the following arguments are required: (.*)", r"missing: \1"),
    (r"argument (?:\S+/)?(\S+): expected .*", r"\1: needs a value"),
    (r"argument (?:\S+/)?(\S+): not allowed with argument (\S+)", r"\1: does not go with \2"),
    (r"argument (?:\S+/)?(\S+): ignored explicit argument .*", r"\1: takes no value"),
    (r"argument (?:\S+/)?(\S+): invalid int value: '(.*)'", r"\1: '\2' is not a whole number"),
    (r"argument (?:\S+/)?(\S+): invalid float value: '(.*)'", r"\1: '\2' is not a number"),
    (r"argument (?:\S+/)?(\S+): (.*)", r"\1: \2"),
)
"""What argparse says, and how it is said here."""
_CHOICE = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", re.DOTALL)
_NO_SUCH = {"COMMAND": "no such command", "DATASET": "no such dataset", "FORMAT": "no such format"}
_NUMBERS = {int: "a whole number", float: "a number"}


class Parser(argparse.ArgumentParser):
    """A parser of a command, or of all. ``takes_overrides``: what it does not know is an override of a recipe's key."""

    takes_overrides = False

    def parse_known_args(self, args=None, namespace=None):
        """What is known, and the rest: overrides as ``--key=value``, or mistakes."""
        if not self.takes_overrides:
            return super().parse_known_args(args, namespace)
        try:
            own, overrides = take_overrides(args, self.options)
        except UserError as error:
            self.error(f"{error}{did_you_mean(str(error).partition(':')[0], self.options)}")
        known, rest = super().parse_known_args(own, namespace)
        return known, [*overrides, *rest]

    @property
    def options(self) -> Collection[str]:
        """The options that it has, such as ``--out``."""
        return self._option_string_actions

    def error(self, message: str) -> NoReturn:
        """Ends the program with one line in plain words."""
        self.exit(2, f"error: {cut(printable(_in_words(message)))}; see `{self.prog} --help`\n")

    def refuse_rest(self, rest: Sequence[str]) -> None:
        """Ends the program where there are arguments that nothing is for."""
        for word in rest:
            if not word.startswith("-"):
                self.error(f"{word}: one argument too many")
            name = word.partition("=")[0]
            self.error(f"{name}: no such option{did_you_mean(name, self.options)}")


class Version(argparse.Action):
    """Prints the version of the package that is installed."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        """Ends the program."""
        print(f"rivegs {importlib.metadata.version('rivegs-mllm')}")
        parser.exit()


class _Listed(argparse.Action):
    """The parts of all words that were given."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, [own for parts in values for own in parts])


def add_list(
    parser: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], object],
    help: str,
    metavar: str | None = None,
    default: Sequence[object] = (),
    choices: Sequence[str] = (),
) -> None:
    """An option with several values, written ``A,B`` or ``A B``. A path that is there may have commas in its name."""

    def parts(text: str) -> list[object]:
        if kind is Path and is_there(Path(text)):
            return [Path(text)]
        return [_part(kind, own, choices) for own in text.split(",")]

    parser.add_argument(name, nargs="+", type=parts, action=_Listed, default=default, metavar=metavar, help=help)


def _part(kind: Callable[[str], object], text: str, choices: Sequence[str]) -> object:
    if choices and text not in choices:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}{did_you_mean(text, choices)}")
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {_NUMBERS[kind]}") from None


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint at the name that may be meant, "" where none is like it."""
    near = difflib.get_close_matches(name[:80], known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _in_words(message: str) -> str:
    if found := _CHOICE.fullmatch(message):
        what, given, known = found.groups()
        names = re.findall(r"[\w.-]+", known)
        if hint := did_you_mean(given, names):
            return f"{_what(what, given)}{hint}"
        return f"{_what(what, given)}; there are {', '.join(names)}"
    for pattern, words in _WORDS:
        if re.fullmatch(pattern, message, re.DOTALL):
            return re.sub(pattern, words, message, count=1, flags=re.DOTALL)
    return message


def _what(what: str, given: str) -> str:
    return f"{given}: {_NO_SUCH[what]}" if what in _NO_SUCH else f"{what}: no {given!r}"
