"""The commands that annotate posts by a language model."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command, add_data, data_override
from rivegs_mllm.config.reading.command_line import add_list
from rivegs_mllm.runtime.logs import quiet_transformers


def add_distill(commands) -> None:
    distill = add_command(
        commands,
        "distill",
        "knowledge, expressions or captions from a language model, or training data from a cascade; "
        "resumes if interrupted. Exit code 1 where questions are left without an answer",
        _distill,
        True,
    )
    distill.add_argument("recipe", type=Path)
    add_data(distill)
    distill.add_argument("--dry-run", action="store_true", help="say what would be asked and what it would cost")
    distill.add_argument("--retry-failed", action="store_true", help="ask failed questions again, and no others")
    examples = add_command(
        commands,
        "distill-examples",
        "draft a file of few-shot examples for knowledge prompts, to be corrected by hand",
        _distill_examples,
    )
    examples.add_argument("data", type=Path, help="a dataset folder with gold")
    examples.add_argument("--split", default="train", help="the split to draw posts from (default train)")
    examples.add_argument("--count", type=int, default=200, help="how many posts (default 200)")
    examples.add_argument("--seed", type=int, default=0, help="the same seed draws the same posts (default 0)")
    add_list(examples, "--captions", Path, "stores or files with captions", "A,B")
    examples.add_argument("--out", type=Path, required=True, help="the file to write")


def _distill(args: argparse.Namespace, overrides: list[str]) -> int:
    overrides = data_override(args, overrides)
    from rivegs_mllm.cli.early import check_distillation

    check_distillation(args.recipe, overrides)
    quiet_transformers()
    from rivegs_mllm.cli.distill_command import run

    return run(args.recipe, overrides, args.dry_run, args.retry_failed)


def _distill_examples(args: argparse.Namespace, _: list[str]) -> None:
    from rivegs_mllm.cli.distill_command import start

    start(args.data, args.split, args.count, args.seed, args.captions, args.out)
