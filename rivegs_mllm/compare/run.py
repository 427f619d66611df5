"""Systems side by side on the same posts: cascades and end-to-end models, their scores and what they cost.

Each system has a work folder in the folder of the comparison, so that an interrupted comparison resumes.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import draccus
import orjson

from eval.analysis import significance
from eval.scores import evaluate
from eval.stage_metrics import by_subset, stage_scores, with_nulls
from rivegs_mllm.cascade.base import ALL_SLOTS
from rivegs_mllm.cascade.config import CascadeRecipe, run_cascade, type_name_of
from rivegs_mllm.cascade.mllm import EndToEndStage, load_end_to_end
from rivegs_mllm.cascade.runner import StageReport, Step, file_fingerprints, run_steps
from rivegs_mllm.compare.legend import legend
from rivegs_mllm.compare.page import as_page
from rivegs_mllm.compare.systems import ComparedSystem, read_systems
from rivegs_mllm.compare.tables import as_markdown, as_tables
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.config.reading.yaml_print import recipe_file
from rivegs_mllm.data.entity_types import check_shared, left_out, of_types
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.models.adapter import trained_files
from rivegs_mllm.runtime.files import check_output, write_json, write_text
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.runtime.logs import LOG, log_to
from rivegs_mllm.runtime.post_errors import is_incomplete, summary
from rivegs_mllm.types import Prediction, Sample, UserError

__all__ = ["as_tables", "compare"]


def compare(
    recipes: Sequence[Path],
    folder: Path,
    split: str,
    out: Path,
    sweep: str | None = None,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> dict:
    """Runs each system on the posts of ``folder/<split>.jsonl`` and scores it; ``read_systems`` says which they are.

    Returns, and writes to ``out/compare.json``: ``{"data", "split", "posts", "command", "systems": {name: {"recipe",
    "about", "scores", "intervals", "stages", "costs", "total", "errors"}}, "differences": {name: {task: row}}}``.
    ``about`` is what the system is, in words, ``scores`` what `eval.scores.evaluate` gives, ``intervals`` of protocol
    ``strict`` what `eval.analysis.significance.f1_intervals` gives, ``stages`` what `eval.stage_metrics.stage_scores`
    gives by subset, ``costs`` a `StageReport` a stage, ``total`` their sum, ``errors`` how many posts could not be
    answered as they are, and lines that say so. ``differences`` are those of each further system against the first, as
    `eval.analysis.significance.compare` gives them for ``strict``. In the file a share of nothing is null. The tables
    are in ``out/compare.md`` and ``compare.html``, the predictions in ``out/<name>.jsonl``. Raises UserError for a
    recipe that is wrong, before any system is run.
    """
    systems = read_systems(recipes, sweep, only, folder, overrides)
    for name in systems:
        check_output(out / f"{name}.jsonl", [folder / f"{split}.jsonl"])
    samples = read_split(folder, split)
    samples = _of_their_types(systems, samples, folder, split)
    with lock_folder(out), log_to(out / LOG):
        command = _command(recipes, ["--data", folder, "--split", split, "--out", out], sweep, only)
        result = {"data": str(folder), "split": split, "posts": len(samples), "command": command}
        result |= _compare(systems, samples, folder, out)
        write_json(out / "compare.json", with_nulls(result))
        write_text(out / "compare.md", as_markdown(result))
        write_text(out / "compare.html", as_page(result))
    return result


def _command(recipes: Sequence[Path], where: Sequence[object], sweep: str | None, only: Sequence[str]) -> str:
    more = [*(["--sweep", sweep] if sweep else []), *(["--only", *only] if only else [])]
    return shlex.join(map(str, ["rivegs", "compare", *recipes, *where, *more]))


def _compare(systems: Mapping[str, ComparedSystem], samples: Sequence[Sample], folder: Path, out: Path) -> dict:
    found, differences = {}, {}
    first: list[Prediction] = []
    about = legend({name: system.recipe for name, system in systems.items()})
    for name, system in systems.items():
        try:
            predictions, costs = _run(system, of_types(samples, system.types), folder, out / name)
        except UserError as error:
            raise UserError(f"{system.where}: {error}") from error
        write_records(out / f"{name}.jsonl", predictions)
        write_text(recipe_file(out / f"{name}.jsonl"), system.text)
        errors = {"hindered": sum(map(is_incomplete, predictions)), "summary": summary(predictions)}
        figures = _figures(samples, predictions, system.recipe, costs)
        found[name] = {"recipe": system.where, "about": about[name], **figures, "errors": errors}
        if first:
            differences[name] = significance.compare(samples, [first], [predictions])["strict"]
        else:
            first = predictions
    return {"systems": found, "differences": differences}


def _of_their_types(
    systems: Mapping[str, ComparedSystem], samples: Sequence[Sample], folder: Path, split: str
) -> list[Sample]:
    """The posts with the entities of all systems' types; others are left out, and that is told, as is what a system
    cannot find. Raises UserError where one has no type of the posts."""
    met = {entity.type for sample in samples for entity in sample.entities}
    own = {name: system.types for name, system in systems.items()}
    for name, types in own.items():
        check_shared(samples, folder, types, systems[name].where)
    together = sorted(set().union(*own.values()))
    if told := left_out(samples, together):
        print(f"{split}: {told}")
    for name, types in own.items():
        if missed := sorted(met & set(together) - set(types)):
            print(f"{name}: does not know {', '.join(map(shown, missed))}, which it is scored on as the others are")
    return of_types(samples, together)


def _run(
    system: ComparedSystem, samples: Sequence[Sample], folder: Path, out: Path
) -> tuple[list[Prediction], list[StageReport]]:
    recipe = system.recipe
    if isinstance(recipe, CascadeRecipe):
        return run_cascade(recipe, samples, folder, out)
    weights = system.weights
    step = Step(ALL_SLOTS, "mllm", lambda _: EndToEndStage(load_end_to_end(recipe, weights, folder)))
    parts = {name: dataclasses.asdict(getattr(recipe, name)) for name in ("model", "answer", "predict")}
    settings = {**parts, "files": file_fingerprints([*system.files, *trained_files(weights)])}
    return run_steps([step], samples, out, recipe.predict.batch_size, settings, ())


def _figures(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    recipe: CascadeRecipe | Answering,
    costs: Sequence[StageReport],
) -> dict:
    subsets = {"all": (samples, predictions), **by_subset(samples, predictions)}
    stages = {name: stage_scores(*own) for name, own in subsets.items()}
    peaks = [cost.peak_memory for cost in costs if cost.peak_memory is not None]
    total = {
        "parameters": _parameters(recipe, costs),
        "seconds_a_post": sum(cost.seconds / cost.posts for cost in costs if cost.posts),
        "peak_memory": max(peaks, default=None),
    }
    plain = [dataclasses.asdict(cost) for cost in costs]
    intervals = significance.f1_intervals(samples, predictions)["strict"]
    scores = evaluate(samples, predictions)
    return {"scores": scores, "intervals": intervals, "stages": stages, "costs": plain, "total": total}


def _parameters(recipe: CascadeRecipe | Answering, costs: Sequence[StageReport]) -> int:
    """Of all models of a system together; stages of the same type and settings are one model."""
    if not isinstance(recipe, CascadeRecipe):
        return sum(cost.parameters or 0 for cost in costs)
    choices = recipe.stages()
    models = {}
    for cost in costs:
        choice = choices[cost.slot]
        models[type_name_of(choice), orjson.dumps(draccus.encode(choice), default=str)] = cost.parameters or 0
    return sum(models.values())
