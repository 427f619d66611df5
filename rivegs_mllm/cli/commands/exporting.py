"""The command that writes datasets and predictions for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_builders.exporting.names import WORDS
from rivegs_mllm.cli.common import add_command, add_image_root
from rivegs_mllm.runtime.files import check_output
from rivegs_mllm.runtime.lock import lock_folder

EXAMPLES = """\
examples:
  rivegs export coco data/mine --out data/mine-coco                          all splits
  rivegs export label-studio data/mine predictions.jsonl --out to-correct    test, with pre-annotations

docs/import.md says what each format holds, and how predictions are corrected and read back."""


def add_export(commands) -> None:
    """The command's parser."""
    own = add_command(commands, "export", "a dataset, or predictions on it, in the format of another tool", _export)
    own.formatter_class = argparse.RawDescriptionHelpFormatter
    own.epilog = "formats:\n" + "".join(f"  {name:<14}{words}\n" for name, words in WORDS.items()) + "\n" + EXAMPLES
    own.add_argument("format", metavar="FORMAT", choices=tuple(WORDS), help=f"one of {', '.join(WORDS)}")
    own.add_argument("gold", metavar="GOLD", type=Path, help="a dataset folder, or a JSONL file of samples")
    own.add_argument(
        "predictions", metavar="PREDICTIONS", type=Path, nargs="*", help="JSON lines; called by the name of the file"
    )
    own.add_argument("--split", default="", help="which split (default: all there are; with PREDICTIONS, test)")
    add_image_root(own)
    own.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")


def _export(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.exporting.run import export_dataset, read_sides

    check_output(args.out, [args.gold])
    gold, systems = read_sides(args.gold, args.split, args.predictions, args.image_root)
    with lock_folder(args.out):
        lines = export_dataset(args.format, gold, systems, args.out)
    print("\n".join(lines))
