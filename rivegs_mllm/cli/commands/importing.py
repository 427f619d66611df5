"""The command that takes over annotations of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_builders.importing.names import WORDS
from rivegs_mllm.cli.common import add_command, tell_next
from rivegs_mllm.config.reading.command_line import add_list
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.types import UserError

EXAMPLES = """\
examples:
  rivegs import label-studio export.json --images pictures --out data/mine
  rivegs import csv posts.csv --columns text=tweet image=photo --out data/mine
  rivegs import conll train.txt dev.txt test.txt --regions boxes.json --images pictures --out data/mine
  rivegs import coco instances.json --split 70/15/15 --seed 1 --out data/mine

docs/import.md describes the formats, each with an example."""


def add_import(commands) -> None:
    """The command's parser."""
    own = add_command(commands, "import", "annotations of another tool as a dataset, with splits", _import)
    own.formatter_class = argparse.RawDescriptionHelpFormatter
    own.epilog = "formats:\n" + "".join(f"  {name:<14}{words}\n" for name, words in WORDS.items()) + "\n" + EXAMPLES
    own.add_argument("format", metavar="FORMAT", choices=tuple(WORDS), help=f"one of {', '.join(WORDS)}")
    own.add_argument(
        "paths", metavar="PATH", nargs="+", help="files, or folders of them; train, dev or test in a name is the split"
    )
    own.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the dataset folder to write")
    pictures = own.add_argument_group("pictures and boxes")
    add_list(pictures, "--images", Path, "where they are (default: beside the files)", "DIR,DIR")
    pictures.add_argument("--without-images", action="store_true", help="leave them out")
    pictures.add_argument("--allow-missing", action="store_true", help="posts whose picture is missing keep their text")
    pictures.add_argument(
        "--copy-images", action="store_true", help="into the dataset's folder (default: its files name where they are)"
    )
    pictures.add_argument(
        "--regions", type=Path, metavar="PATH", help="boxes or masks of the texts, by the names of pictures"
    )
    pictures.add_argument(
        "--boxes",
        default="",
        metavar="FORMAT",
        help="xyxy, xywh, cxcywh or yxyx, with -1, -100 or -1000 behind it where they are no pixels (default: as the "
        "format has them, or by the evidence of all boxes)",
    )
    pictures.add_argument(
        "--frame", choices=("upright", "stored"), default="upright", help="stored: drawn before EXIF rotation"
    )
    told = own.add_argument_group("what the files leave open")
    told.add_argument("--columns", nargs="+", default=[], metavar="FIELD=NAME", help="columns, such as text=tweet")
    told.add_argument("--split", default="", metavar="80/10/10", help="shares of new splits of all posts")
    told.add_argument("--seed", type=int, default=0, help="of the splits (default 0)")
    told.add_argument(
        "--types", type=Path, metavar="FILE", help="JSON: the types, or their descriptions by type, or a dataset.json"
    )


def _import(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.importing.run import Request, import_dataset

    paths = [Path(path) for path in args.paths]
    request = Request(
        args.format,
        paths,
        args.out,
        args.images,
        args.regions,
        args.boxes,
        args.frame,
        _columns(args.columns),
        args.split,
        args.seed,
        args.types,
        args.without_images,
        args.allow_missing,
        args.copy_images,
    )
    with lock_folder(args.out):
        imported = import_dataset(request)
    print(imported.in_words(args.out))
    tell_next("audit", args.out)


def _columns(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--columns: {pair!r} is not of the form FIELD=NAME, such as text=tweet")
    return dict(pair.split("=", 1) for pair in pairs)
