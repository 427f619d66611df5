"""What a run is started with on the command line, alone or by a launcher of several processes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rivegs_mllm.config.reading.command_line import add_list


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The recipe and the options of ``rivegs train`` and ``python -m rivegs_mllm.train``."""
    parser.add_argument("recipe", type=Path, help="of the end-to-end model, or of a stage of the cascade")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a dataset folder (default: the recipe's data.folder)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/RECIPE-DATA)")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="ADAPTER",
        help="a trained folder or hub id to start from (default: the base)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out posts that audit calls an error, and say so")
    add_list(parser, "--seeds", int, "train with each, into OUT/seed-N; print mean and standard deviation", "A,B")


def training_overrides(args: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The overrides of the recipe, with those that the options stand for before them."""
    said = {"data.folder": args.data, "train.output_dir": args.out, "init": args.init}
    skipping = ["--data.skip_bad=true"] if args.skip_bad else []
    return [*(f"--{key}={value}" for key, value in said.items() if value), *skipping, *overrides]
