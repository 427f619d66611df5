"""The commands that make datasets and check them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rivegs_mllm.cli.common import add_command, tell_next
from rivegs_mllm.config.reading.command_line import add_list
from rivegs_mllm.data.dataset_info import check_replaced
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.runtime.logs import quiet_transformers


def add_build(commands) -> None:
    build = commands.add_parser(
        "build", help="make a dataset folder of train.jsonl, dev.jsonl and test.jsonl", allow_abbrev=False
    )
    sets = build.add_subparsers(title="datasets", required=True, metavar="DATASET")
    gmner = add_command(
        sets, "twitter-gmner", "Twitter-GMNER v1 or v2.0 from its published files", _build_twitter_gmner
    )
    gmner.add_argument("--raw", type=Path, required=True, help="Twitter10000_v2.0 or Twitter10000, or its parent")
    _add_published(gmner)
    for name in ("twitter-2015", "twitter-2017"):
        mner = add_command(
            sets, name, f"{name.title()}, text and pictures without boxes, from its CoNLL files", _build_mner
        )
        mner.add_argument("--raw", type=Path, required=True, help="folder of train.txt, dev.txt or valid.txt, test.txt")
        _add_published(mner)
        mner.set_defaults(name=name)
    smner = add_command(sets, "twitter-smner", "Twitter-SMNER: masks on the built Twitter-GMNER", _build_twitter_smner)
    smner.add_argument("--gmner", type=Path, required=True, help="the folder that `build twitter-gmner` wrote")
    smner.add_argument("--masks", type=Path, required=True, help="folder of the published labelme files, <id>.json")
    smner.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    emblems = add_command(sets, "emblems", "the generated benchmark, which needs no download", _build_emblems)
    emblems.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    emblems.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default 0)")
    for name, default, what in (
        ("train", 2400, "posts to train on"),
        ("dev", 200, "posts to choose by"),
        ("test", 400, "posts to test on, half of them of unseen names"),
        ("names", 48, "names that all splits may contain"),
        ("unseen", 24, "names in test posts only"),
    ):
        emblems.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default {default})")


def _add_published(parser: argparse.ArgumentParser) -> None:
    add_list(parser, "--images", Path, "folders of pictures, found by their id", "DIR,DIR")
    parser.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    parser.add_argument(
        "--without-images", action="store_true", help="no pictures; sizes from the XML, if there is any"
    )
    parser.add_argument("--knowledge", type=Path, help="folder of RiVEG's knowledge files {train,dev,test}.txt")


def add_audit(commands) -> None:
    audit = add_command(
        commands, "audit", "check a dataset folder or published Twitter-GMNER; exit code 1 on errors", _audit, True
    )
    audit.add_argument("folder", type=Path, help="the folder, or one .jsonl file of it")
    audit.add_argument("--raw", type=Path, help="the published files it was built from, to be checked with it")
    audit.add_argument(
        "--recipe",
        type=Path,
        help="of an end-to-end model: also what training by it would refuse; overrides may follow",
    )
    audit.add_argument("--all", action="store_true", help="show every finding (default: three of a kind)")


def _build_twitter_gmner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.findings import all_in, format_report
    from data_builders.twitter_gmner import build_twitter_gmner

    with lock_folder(args.out):
        check_replaced(args.out, "twitter-gmner")
        report = build_twitter_gmner(args.raw, args.images, args.out, args.without_images, args.knowledge)
    print(format_report(report, rest=all_in(args.out)))
    tell_next("audit", args.out)


def _build_mner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.findings import all_in, format_report
    from data_builders.twitter_mner import build_mner

    with lock_folder(args.out):
        check_replaced(args.out, args.name)
        report = build_mner(args.name, args.raw, args.images, args.out, args.without_images, args.knowledge)
    print(format_report(report, rest=all_in(args.out)))
    tell_next("audit", args.out)


def _build_twitter_smner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.findings import all_in, format_report
    from data_builders.twitter_smner import build_twitter_smner

    with lock_folder(args.out):
        check_replaced(args.out, "twitter-smner")
        report = build_twitter_smner(args.gmner, args.masks, args.out)
    print(format_report(report, rest=all_in(args.out)))
    tell_next("audit", args.out)


def _build_emblems(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.emblems.build import build_emblems

    with lock_folder(args.out):
        check_replaced(args.out, "emblems")
        counts = build_emblems(args.out, args.seed, args.train, args.dev, args.test, args.names, args.unseen)
    for split, figures in counts.items():
        print(f"{split}: " + ", ".join(f"{count} {what}" for what, count in figures.items()))
    tell_next("audit", args.out)


def _audit(args: argparse.Namespace, overrides: list[str]) -> int:
    from data_builders.audit import audit
    from data_builders.findings import SHOWN, Finding, format_report

    if overrides and not args.recipe:
        args.parser.refuse_rest(overrides)
    if args.recipe:
        from rivegs_mllm.cli.early import check_model_recipe

        check_model_recipe(args.recipe, overrides, args.folder)
    report = audit(args.folder, args.raw)
    if args.recipe:
        quiet_transformers()
        from rivegs_mllm.training.refusals import refusals

        found = refusals(args.recipe, overrides, args.folder)
        report.findings.extend(Finding("refused by the recipe", place, message, "error") for place, message in found)
    print(format_report(report, sys.maxsize if args.all else SHOWN))
    if not report.errors and args.folder.is_dir() and not args.raw:
        following = ("preview", args.recipe, *overrides) if args.recipe else ("init",)
        tell_next(*following, "--data", args.folder)
    return report.exit_code
