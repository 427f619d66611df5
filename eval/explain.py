"""Everything that `rivegs evaluate` says of one system, and of two against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.attribution import error_budget
from eval.calibration import reliability
from eval.protocols import GMNER, SMNER
from eval.scores import evaluate, iou_sweep, tasks_of
from eval.significance import compare, f1_intervals, seeds
from rivegs_mllm.types import Box, Prediction, Sample, UserError


def explain(
    gold: Sequence[Sample],
    predictions: Sequence[Prediction],
    protocols: Sequence[str] = ("strict",),
    iou: float = 0.5,
    candidates: Mapping[str, Sequence[Box]] | None = None,
) -> dict:
    """`eval.scores.evaluate`, and under keys of their own where the points are lost and what is chance.

    "intervals" ``{protocol: {subset: {task: {"f1", "low", "high"}}}}``, "error_budget" ``{"GMNER": budget}`` and with
    masks "SMNER", "iou_sweep" ``{protocol: {task: {threshold: row}}}``, "calibration" the reliability curve, None when
    no entity has a ``visible_score``. Raises UserError as `evaluate` does.
    """
    result = evaluate(gold, predictions, protocols, iou, candidates)
    curve = reliability(gold, predictions)
    tasks = [task for task in tasks_of(gold, predictions) if task in (GMNER, SMNER)]
    return {
        **result,
        "intervals": {
            name: f1_intervals(gold, predictions, name, iou=iou, candidates=candidates) for name in protocols
        },
        "error_budget": {task.name: error_budget(gold, predictions, task, iou) for task in tasks},
        "iou_sweep": iou_sweep(gold, predictions, protocols, candidates=candidates),
        "calibration": curve if curve["total"] else None,
    }


def evaluate_systems(
    gold: Sequence[Sample],
    systems: Sequence[Sequence[Sequence[Prediction]]],
    protocols: Sequence[str] = ("strict",),
    iou: float = 0.5,
    candidates: Mapping[str, Sequence[Box]] | None = None,
    explained: bool = False,
) -> dict:
    """What `rivegs evaluate --json` writes of one system or two, each a list of runs, its seeds.

    The scores of the first system's first run, with ``explained`` as `explain` gives them; "against", the same of the
    second system; "comparison" of the two as `compare_systems` gives it; and where a system has several runs "seeds",
    ``{protocol: {task: {"f1": mean, "deviation", "runs"}}}``. Raises UserError for more than two systems.
    """
    if not 1 <= len(systems) <= 2:
        raise UserError(
            f"evaluate: one system or two, not {len(systems)}; a folder of .jsonl files is one with its seeds"
        )
    score = explain if explained else evaluate
    results = []
    for runs in systems:
        result = score(gold, runs[0], protocols, iou, candidates)
        if len(runs) > 1:
            result["seeds"] = {name: seeds(gold, runs, name, iou, candidates) for name in protocols}
        results.append(result)
    if len(systems) == 1:
        return results[0]
    comparison = compare_systems(gold, *systems, protocols, iou, candidates)
    return {**results[0], "against": results[1], "comparison": comparison}


def compare_systems(
    gold: Sequence[Sample],
    first: Sequence[Sequence[Prediction]],
    second: Sequence[Sequence[Prediction]],
    protocols: Sequence[str] = ("strict",),
    iou: float = 0.5,
    candidates: Mapping[str, Sequence[Box]] | None = None,
) -> dict:
    """`eval.significance.compare` by protocol."""
    return {name: compare(gold, first, second, name, iou=iou, candidates=candidates) for name in protocols}


def run_files(path: Path) -> list[Path]:
    """The predictions of a system: a file is one run, the .jsonl files of a folder are its seeds, in order of name."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise UserError(f"{path}: a folder without .jsonl files; name a file of predictions or a folder of seeds")
    return files
