"""The commands that train models and predict with them."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

from rivegs_mllm.cli.commands.evaluate import ReportArgs, write_page
from rivegs_mllm.cli.common import add_command, add_data, add_image_root, add_strict, data_override, tell_next
from rivegs_mllm.config.reading.command_line import add_list
from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.runtime.files import check_output
from rivegs_mllm.runtime.lock import lock_file, lock_folder
from rivegs_mllm.runtime.logs import log_to, quiet_transformers
from rivegs_mllm.runtime.post_errors import is_incomplete, summary
from rivegs_mllm.runtime.ranks import is_first, world_size
from rivegs_mllm.training.options import add_training_options, training_overrides
from rivegs_mllm.types import UserError

COMPARE_EXAMPLES = """\
A system has the name of its file, a variant its own; its predictions are OUT/<name>.jsonl.

examples:
  rivegs compare recipes/tiny/e2e.yaml recipes/cascade/tiny.yaml --data runs/demo/emblems --out runs/compare
  rivegs compare recipes/cascade/tiny.yaml --sweep gold --data ...    what each stage costs: an oracle in its place
  rivegs compare recipes/cascade/tiny.yaml --sweep none --data ...    without each stage that is not required
  rivegs compare recipes/cascade/riveg.yaml recipes/cascade/riveg_ablations.yaml --only riveg riveg_mixed --data ...

A file of variants says of each what differs from a recipe; paths of bases are relative to the file:
  variants:
    boxes_as_masks: {base: riveg.yaml, segmenter: {type: box}}
    no_segmenter: {base: riveg.yaml, segmenter: null}"""


def add_preview(commands) -> None:
    preview = add_command(
        commands, "preview", "a page of what the model will be given, without loading it", _preview, True
    )
    preview.add_argument("recipe", type=Path)
    add_data(preview)
    preview.add_argument("--out", type=Path, default=Path("preview.html"), help="the page (default preview.html)")
    preview.add_argument("--count", type=int, default=6, help="how many samples it shows (default 6)")
    add_image_root(preview)


def add_train(commands) -> None:
    train = add_command(
        commands,
        "train",
        "fine-tune on one device; for several start `accelerate launch ... -m rivegs_mllm.train RECIPE`",
        _train,
        True,
    )
    add_training_options(train)


def add_predict(commands) -> None:
    predict = add_command(commands, "predict", "predictions for a split; resumes if interrupted", _predict, True)
    predict.add_argument("recipe", type=Path, help="of an end-to-end model, or of a cascade")
    predict.add_argument("--data", type=Path, required=True, help="a dataset folder")
    predict.add_argument("--split", default="test", help="train, dev or test (default test)")
    predict.add_argument("--out", type=Path, required=True, help="the predictions to write, JSON lines")
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--adapter", type=Path, help="trained folder or hub id (default: the recipe's output_dir)")
    which.add_argument("--base-model", action="store_true", help="the base model, without fine-tuning")
    which.add_argument("--untuned", action="store_true", help=argparse.SUPPRESS)
    predict.add_argument(
        "--report", type=Path, metavar="PAGE", help="also score them and write the page that `rivegs report` writes"
    )
    add_strict(predict)
    predict.add_argument("--skip-bad", action="store_true", help="leave out posts that cannot be read, and say so")


def add_compare(commands) -> None:
    compare = add_command(
        commands,
        "compare",
        "run systems on the same posts: scores, stages and costs in one table; resumes if interrupted",
        _compare,
        True,
    )
    compare.formatter_class = argparse.RawDescriptionHelpFormatter
    compare.epilog = COMPARE_EXAMPLES
    compare.add_argument(
        "recipes",
        type=_recipe_path,
        nargs="+",
        metavar="RECIPE",
        help="cascades, end-to-end models, and files of variants",
    )
    compare.add_argument(
        "--sweep", metavar="TYPE", help="RECIPE is one cascade: also run it with this type in each slot that has it"
    )
    add_list(compare, "--only", str, "run these systems, in this order", "A,B")
    compare.add_argument("--data", type=Path, required=True, help="a dataset folder")
    compare.add_argument("--split", default="test", help="train, dev or test (default test)")
    compare.add_argument(
        "--out", type=Path, required=True, help="the folder for the table, predictions and intermediate results"
    )
    add_strict(compare)


def _recipe_path(text: str) -> Path:
    """Sends whoever has predictions to the command that compares them."""
    if text.endswith((".jsonl", ".json")):
        raise argparse.ArgumentTypeError(
            f"{text}: not a recipe; predictions that are there already are compared by `rivegs evaluate GOLD A B`"
        )
    return Path(text)


def add_propose(commands) -> None:
    propose = add_command(
        commands,
        "propose",
        "region proposals for all pictures, as H-Index reads them; resumes if interrupted",
        _propose,
        True,
    )
    propose.add_argument("recipe", type=Path, help="of a proposer")
    propose.add_argument("--data", type=Path, required=True, help="a dataset folder")
    add_list(propose, "--split", str, "which splits (default train,dev,test)", "A,B", default=SPLITS)
    propose.add_argument("--splits", nargs="+", help=argparse.SUPPRESS)
    propose.add_argument("--out", type=Path, required=True, help="the folder to write, a file a picture")


def _preview(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_model_recipe

    overrides = data_override(args, overrides)
    check_output(args.out, [args.recipe])
    check_model_recipe(args.recipe, overrides)
    quiet_transformers()
    from rivegs_mllm.config.schema import read_recipe
    from rivegs_mllm.training.preview import write_preview

    recipe = read_recipe(args.recipe, overrides)
    check_output(args.out, recipe.data.folder.glob("*.jsonl"))
    with lock_file(args.out):
        problems = write_preview(recipe, args.out, args.count, args.image_root)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"wrote {args.out}")
    if not problems:
        tell_next("train", args.recipe, *overrides)
    return 1 if problems else 0


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    from rivegs_mllm.cli.early import check_training

    overrides = training_overrides(args, overrides)
    check_training(args.recipe, overrides)
    quiet_transformers()
    from rivegs_mllm.config.reading.layers import read_layers, word
    from rivegs_mllm.train import run

    run(args, overrides)
    layered = read_layers(args.recipe, overrides)
    if "stage" not in layered.sections and not args.seeds:
        out = Path(word(layered.sections["train"], "output_dir"))
        data = word(layered.sections["data"], "folder")
        said = [own for own in overrides if not own.startswith("--data.")]
        tell_next("predict", args.recipe, *said, "--data", data, "--out", out / "test.jsonl")


def _predict(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_prediction

    args.base_model |= args.untuned
    check_prediction(args.recipe, overrides, args.data, args.split, args.adapter, args.base_model)
    quiet_transformers()
    from rivegs_mllm.cascade.config import is_cascade
    from rivegs_mllm.config.reading.layers import read_layers
    from rivegs_mllm.config.reading.yaml_print import as_yaml, recipe_file
    from rivegs_mllm.data.entity_types import left_out
    from rivegs_mllm.data.jsonl import read_split
    from rivegs_mllm.runtime.files import write_text

    samples = read_split(args.data, args.split, _unreadable(args))
    run = _predict_cascade if is_cascade(args.recipe) else _predict_end_to_end
    if not is_first():  # it answers its share; the first process speaks and writes
        with redirect_stdout(None), log_to(args.out.with_name(f"{args.out.name}.log")):
            run(args, overrides, samples)
        return 0
    for out in (args.out, recipe_file(args.out), *([args.report] if args.report else [])):
        check_output(out, [args.recipe, *args.data.glob("*.jsonl")])
    if args.untuned:
        print("warning: --untuned is now called --base-model, and goes with the next version", file=sys.stderr)
    with lock_file(args.out), log_to(args.out.with_name(f"{args.out.name}.log")):
        predictions, types = run(args, overrides, samples)
        write_text(recipe_file(args.out), as_yaml(read_layers(args.recipe, overrides)))
    print(f"wrote {args.out}:", "\n".join(summary(predictions)))
    told = left_out(samples, types)
    if told:
        print(f"{args.split}: {told}; `rivegs evaluate --types {','.join(types)}` scores without them")
    if args.report:
        command = ["rivegs", "predict", args.recipe, "--data", args.data, "--split", args.split, "--out", args.out]
        asked = ReportArgs(args.data, args.split, [args.out], args.report, types if told else ())
        write_page(asked, shlex.join(map(str, [*command, "--report", args.report, *overrides])))
    tell_next("evaluate", args.data, args.out, "--split", args.split)
    return 1 if args.strict and any(map(is_incomplete, predictions)) else 0


def _unreadable(args: argparse.Namespace) -> frozenset[int]:
    """The lines of the split that ``--skip-bad`` leaves out, none without it; says which."""
    if not args.skip_bad:
        return frozenset()
    from data_builders.bad_posts import FOR_PREDICTION, find_bad_posts

    found = find_bad_posts(args.data, [args.split], True, FOR_PREDICTION.__contains__)
    for line in found.summary() if is_first() else ():
        print(line, file=sys.stderr)
    return found.lines[args.split]


def _predict_end_to_end(args: argparse.Namespace, overrides: list[str], samples: list) -> tuple[list, list[str]]:
    """The predictions, and the types that they can have."""
    from rivegs_mllm.config.answering import read_answering
    from rivegs_mllm.config.trained import local_folder, trained_folder
    from rivegs_mllm.data.entity_types import check_shared
    from rivegs_mllm.prediction.run import predict

    adapter = None
    if not args.base_model:
        adapter = local_folder(args.adapter) if args.adapter else trained_folder(args.recipe, overrides, args.data)
    recipe = read_answering(args.recipe, overrides, args.data, adapter)
    if adapter:
        print(f"the model in {adapter}")
    types = list(recipe.answer.types)
    check_shared(samples, args.data, types, str(adapter or args.recipe))
    return predict(recipe, samples, args.data, args.out, adapter), types


def _predict_cascade(args: argparse.Namespace, overrides: list[str], samples: list) -> tuple[list, list[str]]:
    """The predictions, and the types that they can have."""
    from rivegs_mllm.cascade.config import predict_cascade, read_cascade
    from rivegs_mllm.data.entity_types import check_shared, of_types

    if world_size() > 1:
        raise UserError(f"{args.recipe} is a cascade, which one process runs: start it with `rivegs predict`")
    if args.adapter or args.base_model:
        raise UserError(f"{args.recipe} is a cascade, whose stages name their own weights: --SLOT.adapter=FOLDER")
    recipe = read_cascade(args.recipe, overrides, args.data)
    check_shared(samples, args.data, recipe.types, str(args.recipe))
    predictions, _ = predict_cascade(recipe, of_types(samples, recipe.types), args.data, args.out)
    return predictions, recipe.types


def _compare(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_comparison

    check_comparison(args.recipes, overrides, args.data, args.split, () if args.sweep else args.only)
    quiet_transformers()
    from rich.console import Console

    from rivegs_mllm.compare.run import as_tables, compare

    result = compare(args.recipes, args.data, args.split, args.out, args.sweep, args.only, overrides)
    Console().print(as_tables(result), crop=False)
    hindered = {name: own["errors"]["summary"] for name, own in result["systems"].items() if own["errors"]["hindered"]}
    for name, lines in hindered.items():
        print(f"{name}:", "\n".join(lines))
    print(f"wrote {args.out / 'compare.md'}")
    return 1 if args.strict and hindered else 0


def _propose(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_proposals

    if args.splits:
        print("warning: --splits is now called --split, and goes with the next version", file=sys.stderr)
        args.split = args.splits
    check_proposals(args.recipe, overrides, args.data, args.split)
    from rivegs_mllm.cascade.regions.base import ProposalRecipe
    from rivegs_mllm.cascade.regions.run import propose_all
    from rivegs_mllm.config.reading.yaml_loader import parse_recipe

    with lock_folder(args.out):
        lost = propose_all(parse_recipe(ProposalRecipe, args.recipe, overrides), args.data, args.split, args.out)
    return 1 if lost else 0
