"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from rivegs_mllm.config.reading.command_line import Parser, add_list


def add_command(commands, name: str, help: str, run: Callable, overrides: bool = False) -> Parser:
    """A command's parser. ``run(args, rest)`` does the command's work and returns its exit code, None for 0.

    ``rest`` is what the parser does not know: overrides of a recipe, a mistake where ``overrides`` is not set.
    """
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
    parser.takes_overrides = overrides
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_gold(parser: argparse.ArgumentParser, split: str = "test") -> None:
    """The options that name the gold: a dataset folder with its split, or a file."""
    parser.add_argument("gold", metavar="GOLD", type=Path, help="a dataset folder, or a JSONL file of samples")
    parser.add_argument("--split", default=split, help=f"which split of the folder (default {split})")


def add_types(parser: argparse.ArgumentParser) -> None:
    """The option to score some entity types alone."""
    add_list(parser, "--types", str, "these entity types alone; others are left out of gold and predictions", "A,B")


def add_image_root(parser: argparse.ArgumentParser) -> None:
    """The option of what may be shared, pages and exports, to hold pictures from outside the dataset's folder."""
    parser.add_argument(
        "--image-root", type=Path, metavar="DIR", help="a folder outside the dataset's whose pictures may be shown too"
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """The option for scripts that must stop where a post could not be processed in full."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 1 where a post was not answered, was truncated, or was answered without its picture",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option that names the dataset of a recipe that is trained: another word for the key ``data.folder``."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset folder (default: the recipe's data.folder)")


def data_override(args: argparse.Namespace, overrides: list[str]) -> list[str]:
    """The overrides with that of ``--data`` before them."""
    return [f"--data.folder={args.data}", *overrides] if args.data else overrides


def tell_next(*words: object) -> None:
    """Says which command usually comes next; not to a script that runs that itself and has set ``RIVEGS_NEXT=0``."""
    if os.environ.get("RIVEGS_NEXT") != "0":
        print(f"next: {shlex.join(['rivegs', *map(str, words)])}")
