"""The commands that begin with a dataset: what is in it, and a recipe for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rivegs_mllm.cli.common import add_command, add_image_root, tell_next
from rivegs_mllm.config.reading.command_line import did_you_mean
from rivegs_mllm.runtime.files import check_output
from rivegs_mllm.runtime.lock import lock_file
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import UserError

_CONFIG = Path("accelerate_configs/zero2.yaml")


def add_data_command(commands) -> None:
    """The parser of ``data``."""
    own = add_command(
        commands, "data", "the figures of a dataset: posts, entities by type, boxes, masks, scripts, pictures", _data
    )
    own.add_argument("folder", type=Path, metavar="DIR", help="a dataset folder, or one .jsonl file of it")
    own.add_argument(
        "--out", type=Path, metavar="PAGE", help="also write an HTML page, with posts drawn from all splits"
    )
    own.add_argument("--count", type=int, default=24, metavar="N", help="how many posts the page shows (default 24)")
    own.add_argument("--seed", type=int, default=0, help="another draws other posts (default 0)")
    add_image_root(own)


def add_init(commands) -> None:
    """The parser of ``init``."""
    own = add_command(commands, "init", "a recipe for your own data; asks for what no option says on a terminal", _init)
    own.add_argument("--data", type=Path, metavar="DIR", help="a dataset folder")
    own.add_argument("--base", metavar="NAME", help="what to fine-tune: tiny, qwen2_5_vl_3b, qwen2_5_vl_3b-nf4, ...")
    own.add_argument("--gpus", type=int, metavar="N", help="how many there are; 0 for none (default 0)")
    own.add_argument("--out", type=Path, metavar="FILE", help="the recipe to write (default: <data>.yaml)")


def _data(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.audit import dataset_files, figures_of
    from data_builders.findings import figures, format_figures

    report = figures_of(args.folder)
    print(format_figures(report))
    if args.out:
        from eval.report.dataset_page import write_dataset_page
        from rivegs_mllm.data.jsonl import read_samples

        files = dataset_files(args.folder)
        check_output(args.out, files)
        with lock_file(args.out):
            splits = {path.stem: read_samples(path) for path in files}
            rows, folder = figures(report.counts), files[0].parent
            problems = write_dataset_page(args.out, folder, rows, splits, args.count, args.seed, args.image_root)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        print(f"wrote {args.out}")
    tell_next("audit", args.folder)


def _init(args: argparse.Namespace, _: list[str]) -> None:
    from rivegs_mllm.config.starting import bases, look_at, recipe_for
    from rivegs_mllm.runtime.files import write_text

    known = bases()
    if args.base:
        _base(args.base, known, 0)
    folder = args.data or Path(_answer("--data", "the dataset folder (of `rivegs import` or `build`)", ""))
    facts = look_at(folder)
    print(f"{folder}: " + ", ".join(f"{plural(count, 'post')} of {split}" for split, count in facts.posts.items()))
    print(f"a model can learn from it: {', '.join(facts.fields)}")
    if facts.undecided:
        outcome = "training leaves them out" if "visible" in facts.fields else "visible and boxes are left out"
        posts = f"{plural(facts.undecided, 'post')} of {facts.posts['train']:,} to train on"
        print(f"{posts} without a word on whether the picture shows an entity: {outcome}")
    if facts.masks:
        found = plural(facts.masks, "entity", "entities")
        print(f"{found} with masks, which a segmenter learns: recipes/stages/segmenter_tiny.yaml")
    gpus = args.gpus if args.gpus is not None else int(_answer("--gpus", "how many GPUs", "0", str.isdigit))
    base = _base(args.base, known, gpus)
    out = args.out or Path(f"{folder.absolute().name}.yaml")
    if out.exists():
        raise UserError(f"{out}: exists; name another by --out")
    check_output(out, [])
    start = f"rivegs train {out}" if gpus < 2 else _launch(gpus, out)
    write_text(out, f"# {start}\n{recipe_for(Path(os.path.relpath(folder)), base, facts, max(gpus, 1))}")
    print(f"wrote {out}; next:")
    predictions = f"runs/{out.stem}/test.jsonl"
    for command in (f"rivegs preview {out}", start, f"rivegs predict {out} --data {folder} --out {predictions}"):
        print(f"  {command}")


def _base(name: str | None, known: Sequence, gpus: int):
    """The base of that name, or the one that is chosen."""
    names = [base.name for base in known]
    if name is None:
        usual = names[1] if gpus else names[0]
        if sys.stdin.isatty():
            for base in known:
                print(f"  {base.name:<24}{base.words}" + (f", {base.memory} GB on one GPU" if base.memory else ""))
        name = _answer("--base", "the base", usual, names.__contains__)
    if name not in names:
        raise UserError(f"--base: no {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    return known[names.index(name)]


def _answer(option: str, question: str, usual: str, fits: Callable[[str], bool] = bool) -> str:
    """What is typed in; without a terminal ``usual``. Raises UserError where there is neither."""
    if not sys.stdin.isatty():
        if not usual:
            raise UserError(f"{option}: missing, and there is no terminal to ask on")
        return usual
    while True:
        given = input(f"{question}{f' [{usual}]' if usual else ''}: ").strip() or usual
        if fits(given):
            return given


def _launch(gpus: int, recipe: Path) -> str:
    config = f"--config_file {_CONFIG}" if _CONFIG.is_file() else "--multi_gpu"
    return f"accelerate launch {config} --num_processes {gpus} -m rivegs_mllm.train {recipe}"
