"""The command ``rivegs``. Each verb imports what it needs when it is called, so that help and scores come at once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rivegs_mllm.types import UserError

OVERVIEW = """\
Grounded multimodal named entity recognition: which names a post holds, of which type, and where its picture shows them.

a run from data to scores:
  rivegs build emblems --out data/emblems --seed 0       make the embedded benchmark
  rivegs audit data/emblems                              check it before spending time
  rivegs preview RECIPE --out preview.html               look at what the model will be given
  rivegs train RECIPE                                    fine-tune on one device, or by accelerate launch on many
  rivegs predict RECIPE --data data/emblems --split test --out predictions.jsonl
  rivegs evaluate data/emblems predictions.jsonl         score them
  rivegs report data/emblems predictions.jsonl --out report.html

RECIPE is a YAML file of recipes/; --section.field=value behind it overrides what it says.
`rivegs VERB --help` tells more. The file formats are described in docs/format.md."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Returns 0, 1 where an audit found errors, 2 for a user's mistake, 130 when interrupted."""
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and not known.takes_overrides:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return known.run(known, rest) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was, if the verb can", file=sys.stderr)
        return 130
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rivegs", description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_build(verbs)
    _add_audit(verbs)
    _add_preview(verbs)
    _add_train(verbs)
    _add_predict(verbs)
    _add_evaluate(verbs)
    _add_report(verbs)
    return parser


def _verb(verbs, name: str, help: str, run, overrides: bool = False) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(run=run, takes_overrides=overrides)
    return parser


def _add_build(verbs) -> None:
    build = verbs.add_parser("build", help="make a dataset folder of train.jsonl, dev.jsonl and test.jsonl")
    sets = build.add_subparsers(title="datasets", required=True, metavar="DATASET")
    gmner = _verb(sets, "twitter-gmner", "Twitter-GMNER v1 or v2.0 from its published files", _build_twitter_gmner)
    gmner.add_argument("--raw", type=Path, required=True, help="Twitter10000_v2.0 or Twitter10000, or its parent")
    _add_published(gmner)
    for name in ("twitter-2015", "twitter-2017"):
        mner = _verb(sets, name, f"{name.title()}, text and pictures without boxes, from its CoNLL files", _build_mner)
        mner.add_argument("--raw", type=Path, required=True, help="folder of train.txt, dev.txt or valid.txt, test.txt")
        _add_published(mner)
        mner.set_defaults(name=name)
    smner = _verb(sets, "twitter-smner", "Twitter-SMNER: masks on the built Twitter-GMNER", _build_twitter_smner)
    smner.add_argument("--gmner", type=Path, required=True, help="the folder that `build twitter-gmner` wrote")
    smner.add_argument("--masks", type=Path, required=True, help="folder of the published labelme files, <id>.json")
    smner.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    emblems = _verb(sets, "emblems", "the made benchmark, which needs no download", _build_emblems)
    emblems.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    emblems.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default 0)")
    for name, default, what in (
        ("train", 2400, "posts to train on"),
        ("dev", 200, "posts to choose by"),
        ("test", 400, "posts to test on, half of them of unseen names"),
        ("names", 48, "names that all splits may hold"),
        ("unseen", 24, "names that only test posts hold"),
    ):
        emblems.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default {default})")


def _add_published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, nargs="+", default=[], help="folders of pictures, found by their id")
    parser.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    parser.add_argument(
        "--without-images", action="store_true", help="no pictures; sizes from the XML, if there is any"
    )
    parser.add_argument("--knowledge", type=Path, help="folder of RiVEG's knowledge files {train,dev,test}.txt")


def _add_audit(verbs) -> None:
    audit = _verb(verbs, "audit", "check a dataset folder or published Twitter-GMNER; exit code 1 on errors", _audit)
    audit.add_argument("folder", type=Path, help="the folder")
    audit.add_argument("--raw", type=Path, help="the published files it was built from, to be checked with it")


def _add_preview(verbs) -> None:
    preview = _verb(verbs, "preview", "a page of what the model will be given, without loading it", _preview, True)
    preview.add_argument("recipe", type=Path)
    preview.add_argument("--out", type=Path, default=Path("preview.html"), help="the page (default preview.html)")
    preview.add_argument("--count", type=int, default=6, help="how many samples it shows (default 6)")


def _add_train(verbs) -> None:
    train = _verb(
        verbs,
        "train",
        "fine-tune on one device; for several start `accelerate launch ... -m rivegs_mllm.train RECIPE`",
        _train,
        True,
    )
    train.add_argument("recipe", type=Path)


def _add_predict(verbs) -> None:
    predict = _verb(verbs, "predict", "answer posts; started again it goes on where it was cut off", _predict, True)
    predict.add_argument("recipe", type=Path)
    predict.add_argument("--data", type=Path, required=True, help="a dataset folder")
    predict.add_argument("--split", default="test", help="train, dev or test (default test)")
    predict.add_argument("--out", type=Path, required=True, help="the predictions to write, JSON lines")
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--adapter", type=Path, help="trained folder or checkpoint (default: the recipe's output_dir)")
    which.add_argument("--untuned", action="store_true", help="the base alone, before any fine-tuning")


def _add_evaluate(verbs) -> None:
    evaluate = _verb(verbs, "evaluate", "precision, recall and F1 of MNER, GMNER, EEG, SMNER and EES", _evaluate)
    _add_gold(evaluate)
    evaluate.add_argument("predictions", type=Path, help="predictions, JSON lines")
    evaluate.add_argument("--json", type=Path, help="also write the figures to this file")


def _add_report(verbs) -> None:
    report = _verb(verbs, "report", "a page of pictures with gold and predicted boxes", _report)
    _add_gold(report)
    report.add_argument("predictions", type=Path, nargs="+", help="one or two systems' predictions; named by file name")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default report.html)")
    report.add_argument("--limit", type=int, default=60, help="how many posts it shows at most (default 60)")


def _add_gold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("gold", type=Path, help="a dataset folder, or a JSONL file of samples")
    parser.add_argument("--split", default="test", help="which split of the folder (default test)")


def _build_twitter_gmner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.report import format_report
    from data_builders.twitter_gmner import build_twitter_gmner

    print(format_report(build_twitter_gmner(args.raw, args.images, args.out, args.without_images, args.knowledge)))


def _build_mner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.mner import build_mner
    from data_builders.report import format_report

    report = build_mner(args.name, args.raw, args.images, args.out, args.without_images, args.knowledge)
    print(format_report(report))


def _build_twitter_smner(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.report import format_report
    from data_builders.twitter_smner import build_twitter_smner

    print(format_report(build_twitter_smner(args.gmner, args.masks, args.out)))


def _build_emblems(args: argparse.Namespace, _: list[str]) -> None:
    from data_builders.emblems.build import build_emblems

    counts = build_emblems(args.out, args.seed, args.train, args.dev, args.test, args.names, args.unseen)
    for split, figures in counts.items():
        print(f"{split}: " + ", ".join(f"{count} {what}" for what, count in figures.items()))


def _audit(args: argparse.Namespace, _: list[str]) -> int:
    from data_builders.audit import audit
    from data_builders.report import format_report

    report = audit(args.folder, args.raw)
    print(format_report(report))
    return report.exit_code


def _preview(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.preview import write_preview
    from rivegs_mllm.recipe import read_recipe

    problems = write_preview(read_recipe(args.recipe, overrides), args.out, args.count)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"wrote {args.out}")
    return 1 if problems else 0


def _train(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.train import main as train

    return train([str(args.recipe), *overrides])


def _predict(args: argparse.Namespace, overrides: list[str]) -> None:
    from rivegs_mllm.predict import predict
    from rivegs_mllm.recipe import read_recipe
    from rivegs_mllm.records import read_split

    recipe = read_recipe(args.recipe, overrides)
    adapter = None if args.untuned else args.adapter or Path(recipe.train.output_dir)
    predictions = predict(recipe, read_split(args.data, args.split), args.data, args.out, adapter)
    unread = [prediction.id for prediction in predictions if prediction.errors]
    print(f"wrote {args.out}: {len(predictions)} posts, {len(unread)} of them with something that could not be read")


def _evaluate(args: argparse.Namespace, _: list[str]) -> None:
    from eval.scores import evaluate, format_scores
    from rivegs_mllm.records import read_predictions

    gold, _ = _gold(args)
    result = evaluate(gold, read_predictions(args.predictions))
    Console().print(format_scores(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _report(args: argparse.Namespace, _: list[str]) -> None:
    from eval.report import write_report
    from rivegs_mllm.records import read_predictions

    gold, root = _gold(args)
    systems = {path.stem: read_predictions(path) for path in args.predictions}
    for fault in write_report(args.out, gold, systems, root, args.limit):
        print(fault, file=sys.stderr)
    print(f"wrote {args.out}")


def _gold(args: argparse.Namespace) -> tuple[list, Path]:
    """The gold samples and the folder that their pictures are relative to."""
    from rivegs_mllm.records import read_samples, read_split

    if args.gold.is_dir():
        return read_split(args.gold, args.split), args.gold
    return read_samples(args.gold), args.gold.parent


if __name__ == "__main__":
    sys.exit(main())
