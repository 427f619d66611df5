"""Systems side by side on the same posts: cascades and end-to-end models, their scores and what they cost.

A work folder a system lies in the folder of the comparison, so that it goes on where it was cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import draccus
import orjson
from rich.console import Group
from rich.table import Table
from rich.text import Text

from eval.scores import evaluate
from eval.stages import stage_scores
from rivegs_mllm.cascade.mllm import mllm_files, whole_stage
from rivegs_mllm.cascade.run import CascadeRecipe, check_needs, is_cascade, read_cascade, run_cascade, type_of
from rivegs_mllm.cascade.stage import WHOLE
from rivegs_mllm.cascade.steps import StageReport, Step, run_steps, stamps
from rivegs_mllm.recipe import Recipe, read_recipe
from rivegs_mllm.records import read_split, write_records
from rivegs_mllm.runs import write_json
from rivegs_mllm.types import Prediction, Sample, UserError

TASKS = ("MNER", "GMNER", "EEG", "SMNER", "EES")
BATCH = 64
"""Posts that an end-to-end model answers before they are written to disk; its recipe says how many at a time."""

_NONE = "-"
_SCORE_HEADS = ("system", "posts", *TASKS, "span F1", "visibility", "Prec@0.5", "box mIoU", "mask mIoU")
_COST_HEADS = ("system", "stage", "type", "parameters", "seconds a post", "peak memory")


def compare(recipes: Sequence[Path], folder: Path, split: str, out: Path) -> dict:
    """Runs each system on the posts of ``folder/<split>.jsonl`` and scores it.

    Returns, and writes to ``out/compare.json``: ``{"posts", "systems": {name: {"recipe", "scores", "stages", "costs",
    "total"}}}``, a system's name that of its recipe file. ``scores`` is what `eval.scores.evaluate` gives, ``stages``
    what `eval.stages.stage_scores` gives by subset, ``costs`` a `StageReport` a stage, ``total`` their sum. The tables
    of them are in ``out/compare.md``, the predictions in ``out/<name>.jsonl``. Raises UserError for a recipe that is
    wrong, before any system is run.
    """
    systems = _read(recipes)
    samples = read_split(folder, split)
    found = {}
    for name, (path, recipe) in systems.items():
        try:
            predictions, costs = _run(path, recipe, samples, folder, out / name)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        write_records(out / f"{name}.jsonl", predictions)
        found[name] = {"recipe": str(path), **_figures(samples, predictions, recipe, costs)}
    result = {"data": str(folder), "split": split, "posts": len(samples), "systems": found}
    write_json(out / "compare.json", result)
    (out / "compare.md").write_text(as_markdown(result), encoding="utf-8")
    return result


def _read(recipes: Sequence[Path]) -> dict[str, tuple[Path, CascadeRecipe | Recipe]]:
    """The recipes by the names of their files."""
    systems: dict[str, tuple[Path, CascadeRecipe | Recipe]] = {}
    for path in recipes:
        if path.stem in systems:
            raise UserError(f"{path} and {systems[path.stem][0]} have the same file name; rename one")
        if is_cascade(path):
            recipe = read_cascade(path)
            try:
                check_needs(recipe)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        else:
            recipe = read_recipe(path)
        systems[path.stem] = (path, recipe)
    return systems


def _run(
    path: Path, recipe: CascadeRecipe | Recipe, samples: Sequence[Sample], folder: Path, out: Path
) -> tuple[list[Prediction], list[StageReport]]:
    if isinstance(recipe, CascadeRecipe):
        return run_cascade(recipe, samples, folder, out)
    step = Step(WHOLE, "mllm", lambda: whole_stage(path, None, folder))
    parts = {name: dataclasses.asdict(getattr(recipe, name)) for name in ("model", "answer", "predict")}
    return run_steps([step], samples, out, BATCH, {**parts, "files": stamps(mllm_files(path, None))}, ())


def _figures(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    recipe: CascadeRecipe | Recipe,
    costs: Sequence[StageReport],
) -> dict:
    subsets = {"all": samples}
    for name in sorted({sample.subset for sample in samples} - {""}):
        subsets[name] = [sample for sample in samples if sample.subset == name]
    by_id = {prediction.id: prediction for prediction in predictions}
    stages = {name: stage_scores(own, [by_id[sample.id] for sample in own]) for name, own in subsets.items()}
    peaks = [cost.peak_memory for cost in costs if cost.peak_memory is not None]
    total = {
        "parameters": _parameters(recipe, costs),
        "seconds_a_post": sum(_a_post(cost) for cost in costs),
        "peak_memory": max(peaks, default=None),
    }
    plain = [dataclasses.asdict(cost) for cost in costs]
    return {"scores": evaluate(samples, predictions), "stages": stages, "costs": plain, "total": total}


def _a_post(cost: StageReport) -> float:
    return cost.seconds / cost.posts if cost.posts else 0.0


def _parameters(recipe: CascadeRecipe | Recipe, costs: Sequence[StageReport]) -> int:
    """Of all models of a system together; stages of the same type and settings are one model."""
    if not isinstance(recipe, CascadeRecipe):
        return sum(cost.parameters or 0 for cost in costs)
    choices = recipe.stages()
    models = {}
    for cost in costs:
        choice = choices[cost.slot]
        models[type_of(choice), orjson.dumps(draccus.encode(choice), default=str)] = cost.parameters or 0
    return sum(models.values())


def as_markdown(result: dict) -> str:
    """The tables as a page: scores of the systems, then what they cost."""
    scores = _markdown(_SCORE_HEADS, score_rows(result))
    costs = _markdown(_COST_HEADS, cost_rows(result))
    return (
        f"# {len(result['systems'])} systems on {result['posts']} posts of {result['data']}, {result['split']}\n\n"
        f"F1 in percent, protocol strict. {_JUDGED_ALONE}\n\n{scores}\n{_COST_NOTE}\n\n{costs}"
    )


def as_tables(result: dict) -> Group:
    """The tables for the terminal."""
    scores = _rich("F1 and stages in percent, protocol strict", _SCORE_HEADS, score_rows(result))
    return Group(scores, Text(_JUDGED_ALONE), _rich("Costs", _COST_HEADS, cost_rows(result)), Text(_COST_NOTE))


_JUDGED_ALONE = (
    "Visibility, Prec@0.5 and IoU are of the entities whose mention and type are right: each stage is judged alone."
)
_COST_NOTE = (
    "Seconds without loading. Parameters of models that several stages share count once in the sum. "
    "Peak memory of the GPU, or of the process where there is none."
)


def score_rows(result: dict) -> list[tuple[str, ...]]:
    """A row a system and subset, as `_SCORE_HEADS` names its cells."""
    rows = []
    for name, system in result["systems"].items():
        strict = system["scores"]["strict"]
        for subset, stages in system["stages"].items():
            tasks = [_percent(strict[subset][task]["f1"]) if task in strict[subset] else _NONE for task in TASKS]
            rows.append((name, subset, *tasks, *_stage_cells(stages)))
    return rows


def _stage_cells(stages: Mapping) -> list[str]:
    boxes, masks = stages["grounding"], stages["segmentation"]
    return [
        _percent(stages["span"]["f1"]),
        _percent(stages["entailment"]["accuracy"]) if stages["entailment"]["total"] else _NONE,
        _percent(boxes["precision"]) if boxes["total"] else _NONE,
        _percent(boxes["mean_iou"]) if boxes["total"] else _NONE,
        _percent(masks["mean_iou"]) if masks and masks["total"] else _NONE,
    ]


def cost_rows(result: dict) -> list[tuple[str, ...]]:
    """A row a stage and one for their sum, as `_COST_HEADS` names its cells."""
    rows = []
    for name, system in result["systems"].items():
        for cost in (StageReport(**own) for own in system["costs"]):
            cells = _cost_cells(cost.parameters, _a_post(cost), cost.peak_memory)
            rows.append((name, cost.slot, cost.kind, *cells))
        total = system["total"]
        cells = _cost_cells(total["parameters"], total["seconds_a_post"], total["peak_memory"])
        rows.append((name, "together", "", *cells))
    return rows


def _cost_cells(parameters: int | None, seconds: float, peak: int | None) -> tuple[str, str, str]:
    millions = _NONE if parameters is None else f"{parameters / 1e6:,.1f} M"
    return millions, f"{seconds:.3f}", _NONE if peak is None else f"{peak / 1e9:.2f} GB"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _rich(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right")
    last = ""
    for name, *cells in rows:
        if last and name != last:
            table.add_section()
        table.add_row(Text("" if name == last else name), *map(Text, cells))
        last = name
    return table
