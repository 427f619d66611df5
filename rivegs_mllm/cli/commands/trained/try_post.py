"""The command ``try``: the entities of one post, on the console."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rivegs_mllm.cli.common import add_command
from rivegs_mllm.runtime.logs import quiet_transformers
from rivegs_mllm.types import UserError

DEMO = Path("runs/demo/model")


def add_try(commands) -> None:
    """The command's parser."""
    own = add_command(commands, "try", "the entities of one post, in a table, and its picture with boxes", _try, True)
    own.add_argument("text", metavar="TEXT", help="the text of the post, in quotes")
    own.add_argument("--image", type=Path, metavar="FILE", help="its picture (default: it has none)")
    own.add_argument(
        "--model",
        default=DEMO,
        metavar="RUN",
        help=f"a trained model's folder, a recipe of a trained one or of a cascade, or a hub id (default {DEMO})",
    )
    own.add_argument("--out", type=Path, metavar="FILE", help="the picture to write (default: IMAGE.entities.png)")
    own.add_argument("--threshold", type=float, metavar="P", help="probability from which an entity is visible")
    own.add_argument("--json", action="store_true", help="print JSON instead of the table")


def _try(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.model == DEMO and not DEMO.exists():
        raise UserError(f"{DEMO}: no such model; `make demo` trains it, or name another: --model RUN")
    if args.out and not args.image:
        raise UserError("--out: there is no picture to write, since there is no --image")
    out = args.out or (args.image and Path(f"{args.image.stem}.entities.png"))
    if out and args.image.exists() and out.exists() and out.samefile(args.image):
        raise UserError(f"{out}: is the post's own picture; choose another --out")
    from rivegs_mllm.cli.early import check_source, is_recipe

    if overrides and not is_recipe(args.model):
        args.parser.refuse_rest(overrides)
    check_source(args.model, overrides)
    quiet_transformers()
    from rivegs_mllm.pipeline import load

    post = load(args.model, threshold=args.threshold, overrides=overrides)(args.text, args.image)
    if args.json:
        print(json.dumps(post.to_dict(), ensure_ascii=False, indent=1))
    else:
        _print(post)
    if out:
        post.save(out)
        print(f"wrote {out}")


def _print(post) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rivegs_mllm.pipeline.post import ROW

    table = Table(*ROW)
    for row in post.rows():
        table.add_row(*map(Text, row))
    console = Console()
    console.print(table if post.entities else "no named entities")
    for error in post.errors:
        console.print(Text(f"warning: {error}"))
