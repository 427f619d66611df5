"""All figures of `rivegs evaluate`: of one system, and of systems against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.analysis.calibration import reliability
from eval.analysis.errors import Requirement, error_budget
from eval.analysis.significance import compare, f1_intervals, seeds
from eval.protocols import DEFAULT, GMNER, SMNER, Criteria
from eval.scores import evaluate, iou_sweep, tasks_of
from rivegs_mllm.types import Prediction, Sample, UserError


def explain(gold: Sequence[Sample], predictions: Sequence[Prediction], criteria: Criteria = DEFAULT) -> dict:
    """`eval.scores.evaluate`, and under keys of their own the error analysis and the statistics.

    "intervals" ``{protocol: {subset: {task: {"f1", "low", "high"}}}}``, "error_budget" ``{"GMNER": budget}`` and with
    masks "SMNER", "iou_sweep" ``{protocol: {task: {threshold: row}}}``, "calibration" the reliability curve, None when
    no entity has a ``visible_score``. Raises UserError as `evaluate` does.
    """
    result = evaluate(gold, predictions, criteria)
    curve = reliability(gold, predictions)
    tasks = [task for task in tasks_of(gold, predictions) if task in (GMNER, SMNER)]
    return {
        **result,
        "intervals": f1_intervals(gold, predictions, criteria),
        "error_budget": {task.name: error_budget(gold, predictions, Requirement(task, criteria.iou)) for task in tasks},
        "iou_sweep": iou_sweep(gold, predictions, criteria),
        "calibration": curve if curve["total"] else None,
    }


def evaluate_systems(
    gold: Sequence[Sample],
    systems: Mapping[str, Sequence[Sequence[Prediction]]],
    criteria: Criteria = DEFAULT,
    explained: bool = False,
    swept: bool = False,
) -> dict:
    """What `rivegs evaluate --json` writes of systems, each by its name a list of runs, its seeds.

    The scores of the first system's first run, with ``explained`` as `explain` gives them, with ``swept`` only its
    "iou_sweep" beside them; and where it has several runs "seeds", ``{protocol: {task: {"f1": mean, "deviation",
    "runs"}}}``. Where there are other systems, "system",
    the first one's name, "against", the same of each other one by its name, and "comparison", by its name what
    `eval.analysis.significance.compare` gives of it against the first. Raises UserError for a system without a run.
    """
    score = explain if explained else evaluate
    results = {}
    for name, runs in systems.items():
        if not runs:
            raise UserError(f"evaluate: the system {name!r} has no predictions")
        results[name] = score(gold, runs[0], criteria)
        if swept and not explained:
            results[name]["iou_sweep"] = iou_sweep(gold, runs[0], criteria)
        if len(runs) > 1:
            results[name]["seeds"] = seeds(gold, runs, criteria)
    first, *others = systems
    if not others:
        return results[first]
    comparison = {name: compare(gold, systems[first], systems[name], criteria) for name in others}
    return {
        **results[first],
        "system": first,
        "against": {name: results[name] for name in others},
        "comparison": comparison,
    }


def run_files(path: Path) -> list[Path]:
    """The predictions of a system: a file is one run, the .jsonl files of a folder are its seeds, in order of name.

    Raises UserError for a folder without such files.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.jsonl"))
    if not files:
        raise UserError(f"{path}: a folder without .jsonl files; name a file of predictions or a folder of seeds")
    return files
