"""The commands by which a trained model leaves the project: merged into its base, and uploaded to a hub."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from rivegs_mllm.cli.common import add_command, tell_next
from rivegs_mllm.runtime.files import check_absent
from rivegs_mllm.runtime.lock import lock_file
from rivegs_mllm.runtime.logs import log_to, quiet_transformers
from rivegs_mllm.types import UserError

DTYPES = ("float32", "bfloat16", "float16")
MERGE_EXAMPLES = """\
examples:
  rivegs merge runs/demo/model --out runs/demo/merged
  rivegs merge someone/an-adapter@v2 --out merged --dtype bfloat16

DIR is a plain folder of transformers: weights, tokenizer with the added tokens, processor with the picture limits of
training, chat template, settings of generation, and a card that says how to prompt it. `rivegs try`, `rivegs predict
--adapter` and `load` take it, too. Before it is there, transformers alone loads it and answers some posts; where it
answers otherwise than the adapter, nothing is left and the exit code is 1."""
PUSH_EXAMPLES = """\
examples:
  HF_TOKEN=... rivegs push runs/demo/merged me/my-model
  rivegs push runs/demo/model me/my-adapter --dry-run

The token is taken from HF_TOKEN alone. A new repository is private, unless --public is given. Of the folder only what
loading needs is uploaded: no checkpoints, no predictions, no log."""


def add_merge(commands) -> None:
    """The parser of ``merge``."""
    own = add_command(commands, "merge", "merge an adapter into its base, after comparing both", _merge, True)
    own.formatter_class = argparse.RawDescriptionHelpFormatter
    own.epilog = MERGE_EXAMPLES
    own.add_argument("source", metavar="RUN", help="a trained model's folder, its recipe, or a hub id")
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, not yet there")
    own.add_argument("--dtype", choices=DTYPES, help="precision of the weights (default: that of training)")
    own.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="a dataset on whose dev posts answers are compared (default: the run's own, else some drawn ones)",
    )
    own.add_argument("--posts", type=int, default=8, metavar="N", help="how many posts are compared (default 8)")


def add_push(commands) -> None:
    """The parser of ``push``."""
    own = add_command(commands, "push", "upload an adapter or a merged model, with its card, to the hub", _push, True)
    own.formatter_class = argparse.RawDescriptionHelpFormatter
    own.epilog = PUSH_EXAMPLES
    own.add_argument("source", metavar="RUN", help="a trained model's folder, or its recipe")
    own.add_argument("repo", metavar="ORG/NAME", help="the repository, made where there is none")
    own.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    own.add_argument("--dry-run", action="store_true", help="only say what would be uploaded")


def _merge(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_run, is_recipe
    from rivegs_mllm.config.trained import check_is_adapter, local_folder

    if overrides and not is_recipe(args.source):
        args.parser.refuse_rest(overrides)
    if args.posts < 1:
        raise UserError(f"--posts: {args.posts} is not a number of at least 1")
    named = check_run(args.source, overrides)
    if named is not None:
        check_is_adapter(named)
    check_absent(args.out)
    quiet_transformers()
    from rivegs_mllm.models.adapter import answering_of
    from rivegs_mllm.release.merge import DifferentAnswersError, merge
    from rivegs_mllm.release.posts import some_posts

    with lock_file(args.out), log_to(args.out.with_name(f"{args.out.name}.log")):
        folder = named or local_folder(args.source)
        recipe = answering_of(folder)
        recipe.model = dataclasses.replace(recipe.model, dtype=args.dtype or recipe.model.dtype)
        with some_posts(folder, args.data, args.posts) as posts:
            if recipe.model.quantization:
                into = f"merged into it in {recipe.model.dtype}"
                print(f"trained on {recipe.model.base} in {recipe.model.quantization}, {into}")
            print(f"comparing on {len(posts.samples)} posts of {posts.words}", flush=True)
            try:
                merged = merge(folder, recipe, args.out, posts)
            except DifferentAnswersError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
    print(f"transformers alone and the adapter on its base: {merged.comparison}")
    if merged.four_bit:
        print(f"and the adapter on its 4-bit base: {merged.four_bit}; `rivegs evaluate` says what that changes")
    print(f"wrote {args.out}")
    tell_next("try", posts.samples[0].text, "--model", args.out)
    return 0


def _push(args: argparse.Namespace, overrides: list[str]) -> None:
    from rivegs_mllm.cli.early import check_run, is_recipe
    from rivegs_mllm.config.trained import is_hub_id

    if overrides and not is_recipe(args.source):
        args.parser.refuse_rest(overrides)
    if is_hub_id(args.source):
        raise UserError(f"{args.source}: no folder here; what is pushed is a trained model's folder")
    folder = check_run(args.source, overrides)
    quiet_transformers()
    from rivegs_mllm.release.push import check_push, files_of, push

    if not args.dry_run:
        check_push(args.repo)
    files = files_of(folder)
    print(f"{args.repo}, of {folder}:")
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"  {name:<36}{size:>16,} bytes")
    if args.dry_run:
        print("nothing was uploaded (--dry-run)")
        return
    print(f"pushed: {push(files, args.repo, private=not args.public)}")
    tell_next("try", "TEXT", "--model", args.repo)
