"""The command ``runs``: which runs there are, how far they came, what they scored, and in what they differ."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command


def add_runs(commands) -> None:
    """The command's parser."""
    own = add_command(
        commands, "runs", "the runs in folders: how far, with which scores, when; in what some differ", _runs
    )
    own.add_argument(
        "folders",
        type=Path,
        nargs="*",
        metavar="DIR",
        default=[Path("runs")],
        help="folders to look for runs in, or two or more runs, whose settings are compared (default: runs)",
    )


def _runs(args: argparse.Namespace, _: list[str]) -> None:
    from rich.console import Console

    from rivegs_mllm.cli.runs_table import differences, find_runs, table

    runs = find_runs(args.folders)
    console = Console(highlight=False)
    console.print(table(runs), crop=False)
    if 1 < len(args.folders) == len(runs):
        console.print(differences(runs), crop=False)
