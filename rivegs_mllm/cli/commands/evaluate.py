"""The commands that score predictions and report on them."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rivegs_mllm.cli.common import add_command, add_gold, add_image_root, add_types, tell_next
from rivegs_mllm.config.reading.command_line import add_list
from rivegs_mllm.runtime.files import check_output
from rivegs_mllm.runtime.lock import lock_file

EVALUATE_EXAMPLES = """\
examples:
  rivegs evaluate data/emblems predictions.jsonl
  rivegs evaluate data/emblems predictions.jsonl --explain --json scores.json
  rivegs evaluate data/emblems predictions.jsonl --protocol strict riveg e2e
  rivegs evaluate data/emblems old.jsonl new.jsonl          difference and its significance
  rivegs evaluate data/emblems 1.jsonl 2.jsonl 3.jsonl --seeds       mean and deviation
  rivegs evaluate data/emblems runs/old runs/new            two systems of several seeds, a folder each
  rivegs evaluate --format riveg gold.txt said.txt          the rows of RiVEG's own statistic

Tasks: MNER (mention, type), GMNER (and box), EEG (mention, box), SMNER and EES (the same with masks).
docs/evaluation.md says what each figure means."""


def add_evaluate(commands) -> None:
    evaluate = add_command(
        commands, "evaluate", "scores of a system; of several also their difference and its significance", _evaluate
    )
    evaluate.formatter_class = argparse.RawDescriptionHelpFormatter
    evaluate.epilog = EVALUATE_EXAMPLES
    add_gold(evaluate)
    evaluate.add_argument(
        "predictions",
        metavar="PREDICTIONS",
        type=Path,
        nargs="+",
        help="JSON lines, a file a system, each compared with the first; a folder is one system, its files the seeds",
    )
    counted = evaluate.add_argument_group("what counts as correct")
    add_list(
        counted,
        "--protocol",
        str,
        "some of strict, riveg, e2e, hindex, mqspn, see docs/evaluation.md (default strict; of rows riveg,strict)",
        "A,B",
        choices=("strict", "riveg", "e2e", "hindex", "mqspn"),
    )
    counted.add_argument(
        "--iou", type=float, default=0.5, metavar="X", help="IoU from which a region is correct (default 0.5)"
    )
    counted.add_argument(
        "--candidates", type=Path, metavar="FILE", help="a detector's boxes, JSON lines: for hindex, and Top-N-Prec"
    )
    add_types(counted)
    shown = evaluate.add_argument_group("what is shown beside the five tasks")
    shown.add_argument("--subsets", action="store_true", help="by type, entities a post, box size, repeated mentions")
    shown.add_argument(
        "--stages", action="store_true", help="spans, visibility, boxes and masks, each evaluated in isolation"
    )
    shown.add_argument("--sweep", action="store_true", help="F1 at IoU thresholds from 0.5 to 0.95")
    shown.add_argument(
        "--explain", action="store_true", help="all of these, confidence intervals, error types and calibration"
    )
    shown.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    read = evaluate.add_argument_group("what is read")
    read.add_argument("--seeds", action="store_true", help="PREDICTIONS are runs of one system with different seeds")
    read.add_argument(
        "--format", choices=("records", "riveg"), default="records", help="riveg: the rows of its statistic, .txt"
    )
    add_list(read, "--boxes", Path, "the grounder's JSON, for rows without boxes", "FILE,FILE")


def add_calibrate(commands) -> None:
    calibrate = add_command(
        commands,
        "calibrate",
        "calibrate visible_score and its threshold on predictions of dev; predict uses them",
        _calibrate,
    )
    add_gold(calibrate, "dev")
    calibrate.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="of that split, JSON lines")
    calibrate.add_argument(
        "--adapter",
        type=Path,
        required=True,
        metavar="DIR",
        help="the trained folder; calibration.json is written there",
    )


def add_report(commands) -> None:
    report = add_command(
        commands,
        "report",
        "one offline HTML page: scores, error analysis and every post; of two systems, their differences",
        _report,
    )
    add_gold(report)
    report.add_argument(
        "predictions", metavar="PREDICTIONS", type=Path, nargs="+", help="JSON lines, of one system or of two: A and B"
    )
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default report.html)")
    report.add_argument(
        "--limit", type=int, default=60, help="how many posts are shown with their picture (default 60)"
    )
    add_types(report)
    add_image_root(report)


def _evaluate(args: argparse.Namespace, _: list[str]) -> None:
    from rivegs_mllm.cli.evaluate_command import EvaluateArgs, evaluate

    evaluate(EvaluateArgs(**{field.name: getattr(args, field.name) for field in dataclasses.fields(EvaluateArgs)}))
    if args.format == "records" and len(args.predictions) == 1 and args.predictions[0].is_file():
        tell_next("report", args.gold, args.predictions[0], "--split", args.split)


def _calibrate(args: argparse.Namespace, _: list[str]) -> None:
    from rivegs_mllm.cli.evaluate_command import calibrate

    calibrate(args.gold, args.split, args.predictions, args.adapter)


def _report(args: argparse.Namespace, _: list[str]) -> None:
    command = ["rivegs", "report", str(args.gold), *map(str, args.predictions), "--split", args.split]
    command += ["--types", ",".join(args.types)] if args.types else []
    asked = ReportArgs(args.gold, args.split, args.predictions, args.out, args.types, args.limit, args.image_root)
    write_page(asked, shlex.join(command))


@dataclass(frozen=True, slots=True)
class ReportArgs:
    """What a page is made of: ``predictions`` of one system or two on a split of ``gold``; of ``types`` alone where
    they are given."""

    gold: Path
    split: str
    predictions: Sequence[Path]
    out: Path
    types: Sequence[str] = ()
    limit: int = 60
    image_root: Path | None = None


def write_page(asked: ReportArgs, command: str) -> None:
    """Writes the page, ``command`` on it, and tells what is wrong with its pictures. Raises UserError."""
    from eval.report.page import Origin, system_names, write_report
    from rivegs_mllm.cli.evaluate_command import gold_file
    from rivegs_mllm.config.reading.yaml_print import recipe_file
    from rivegs_mllm.data.entity_types import gold_of_types, of_types
    from rivegs_mllm.data.jsonl import read_predictions, read_samples

    names = system_names(asked.predictions)
    file = gold_file(asked.gold, asked.split)
    check_output(asked.out, [file, *asked.gold.glob("*.jsonl"), *asked.predictions])
    with lock_file(asked.out):
        gold, systems = read_samples(file), [read_predictions(path) for path in asked.predictions]
        if asked.types:
            gold, systems = gold_of_types(gold, asked.types), [of_types(said, asked.types) for said in systems]
        files = {name: recipe_file(path) for name, path in zip(names, asked.predictions, strict=True)}
        recipes = {
            name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items() if file.is_file()
        }
        faults = write_report(
            asked.out,
            gold,
            dict(zip(names, systems, strict=True)),
            file.parent,
            asked.limit,
            asked.image_root,
            Origin(command, recipes),
        )
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"wrote {asked.out}")
