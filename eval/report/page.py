"""One HTML page that shows what one system or two get right and wrong. It needs no other file and no network.

Its parts: `eval.report.posts` (the gallery's data), `eval.report.plots` (plots), and in the folder ``templates`` its
template, tables, style and script.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from markupsafe import Markup

from eval.analysis.errors import CORRECT, OUTCOMES
from eval.analysis.post_costs import post_costs
from eval.analysis.significance import USUAL, compare
from eval.analysis.summary import explain
from eval.counts import without_strata
from eval.protocols import GMNER, SMNER, Task
from eval.report.plots import calibration_curve, iou_curve, waterfall
from eval.report.posts import (
    Answers,
    Costs,
    OutcomesByTask,
    PictureFault,
    outcomes_by_task,
    picture_faults_in_words,
    picture_of,
    post_as_json,
    with_picture,
)
from eval.report.tables import too_few
from eval.scores import tasks_of
from rivegs_mllm.pages.colours import type_colours
from rivegs_mllm.pages.template import page_template, shared_style
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Prediction, Sample, UserError

_PAGE = Path(__file__).parent / "templates"
_ODD = {
    "missing_predictions": "without a prediction",
    "unreadable_answers": "answer with parse errors",
    "boxes_without_area": "a predicted box without area, which matches nothing",
    "boxes_outside": "a predicted box that reaches outside the picture",
    "unknown_types": "a predicted type that the gold does not have",
}


@dataclass(frozen=True)
class Origin:
    """How a page was made: the ``command``, and the full recipes of the systems whose recipe is known."""

    command: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)


def write_report(
    out: Path,
    gold: Sequence[Sample],
    predictions: Mapping[str, Sequence[Prediction]],
    folder: Path,
    limit: int = 60,
    image_root: Path | None = None,
    origin: Origin = Origin(),
) -> list[str]:
    """Writes the page to ``out``, atomically: scores with intervals, error analysis, curves, and every post.

    ``predictions`` are one system's or two systems', by name; of two, the second is compared with the first. At most
    ``limit`` posts carry their picture, made small; ``folder`` is what the samples' image paths are relative to. What
    lies outside it is shown only from ``image_root``. Returns what is wrong with pictures that are missing or not of
    the size on record; the page says so too. Raises UserError for no system or more than two, and as
    `eval.scores.evaluate` does.
    """
    if not 1 <= len(predictions) <= 2:
        raise UserError(f"report: one system or two, not {len(predictions)}")
    if limit < 0:
        raise UserError(f"report: --limit {limit} posts with pictures; it must be 0 or more")
    limit = min(limit, len(gold))
    systems = list(predictions.values())
    results = [explain(gold, predicted) for predicted in systems]
    answers = {name: {answer.id: answer for answer in predicted} for name, predicted in predictions.items()}
    tasks = [
        task for task in min((tasks_of(gold, predicted) for predicted in systems), key=len) if task in (GMNER, SMNER)
    ]
    figures = _figures(results, list(predictions), tasks)
    outcomes = [outcomes_by_task(sample, answers, tasks) for sample in gold]
    costs = {task.name: np.stack([post_costs(gold, predicted, task) for predicted in systems], 1) for task in tasks}
    type_costs = [_type_costs(result) for result in results]
    pictured = with_picture(gold, outcomes, type_costs, costs[GMNER.name].max(1), limit)
    by_post = [{name: of[place].tolist() for name, of in costs.items()} for place in range(len(gold))]
    posts, faults = _posts(gold, answers, outcomes, by_post, pictured, folder, image_root)
    problems = picture_faults_in_words(faults)
    page = _render(
        names=list(predictions),
        results=results,
        comparison=compare(gold, [systems[0]], [systems[1]])["strict"] if len(systems) == 2 else {},
        tasks=[task.name for task in tasks],
        moves=_moves([by_task[GMNER.name] for by_task in outcomes]) if len(systems) == 2 else {},
        posts=posts,
        problems=problems,
        origin=origin,
        version=version("rivegs-mllm"),
        **figures,
        data={
            "systems": list(predictions),
            "outcomes": OUTCOMES,
            "types": _types(gold, systems),
            "posts": posts,
        },
    )
    write_text(out, page)
    return problems


def system_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file of predictions: its name without ending, with as many folders as tell them apart.

    Raises UserError where a file comes twice, and for a folder.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: a folder; the page shows single runs, name a file of predictions in it")
    parts = [path.resolve().with_suffix("").parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("report: the same file of predictions comes twice")
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return []


def _posts(
    gold: Sequence[Sample],
    answers: Answers,
    outcomes: Sequence[OutcomesByTask],
    costs: Sequence[Costs],
    pictured: set[str],
    folder: Path,
    image_root: Path | None,
) -> tuple[list[dict], list[PictureFault]]:
    posts, faults = [], []
    for sample, by_task, own in zip(gold, outcomes, costs, strict=True):
        picture, fault = picture_of(sample, folder, image_root) if sample.id in pictured else (None, None)
        posts.append(post_as_json(sample, answers, by_task, own, picture, fault))
        if fault:
            faults.append(fault)
    return posts, faults


def _figures(results: Sequence[Mapping], names: Sequence[str], tasks: Sequence[Task]) -> dict:
    waterfalls = {}
    for task in tasks:
        budgets = [result["error_budget"][task.name] for result in results]
        # The axis begins at a multiple of ten, 20 to 30 points below the lower F1, or small gains could not be seen.
        least = max(0, 10 * (int(10 * min(budget["f1"] for budget in budgets)) - 2))
        waterfalls[task.name] = [waterfall(budget, place, least) for place, budget in enumerate(budgets)]
    curves = [result["calibration"] for result in results]
    sweeps = [
        {task.name: result["iou_sweep"]["strict"][task.name] for task in tasks if task.name in result["error_budget"]}
        for result in results
    ]
    return {
        "waterfalls": waterfalls,
        "iou": iou_curve(sweeps, names),
        "calibration": calibration_curve(curves, names) if any(curves) else None,
    }


def _render(**values: object) -> str:
    style, *scripts = ((_PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "post.js", "page.js"))
    style, script = shared_style() + style, "".join(scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    results, posts = values["results"], values["posts"]
    budget = results[0]["error_budget"]["GMNER"]["corrected"]
    return page_template(_PAGE / "page.html.jinja").render(
        **values,
        two=len(results) == 2,
        masked="SMNER" in values["tasks"],
        scored=list(max((result["strict"]["all"] for result in results), key=len)),
        outlined=any(
            entity["masks"]
            for post in posts
            for entities in (post["gold"], *(predicted["entities"] for predicted in post["predicted"]))
            for entity in entities
        ),
        subsets=[name for name in without_strata(results[0]["strict"]) if name != "all"],
        costliest=max(
            (name for name in budget if budget[name]["gain"] > 0), key=lambda n: budget[n]["gain"], default=""
        ),
        pictured=sum(post["picture"] is not None for post in posts),
        outcomes=OUTCOMES,
        met={task: _met([result["error_budget"][task] for result in results]) for task in values["tasks"]},
        odd=_ODD,
        found=[key for key in _ODD if any(result[key]["count"] for result in results)],
        few=list(dict.fromkeys(note for result in results for note in too_few(result))),
        draws=USUAL.draws,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
    )


def _met(budgets: Sequence[Mapping]) -> list[str]:
    """The outcomes that any system has."""
    sides = [budget[side] for budget in budgets for side in ("predicted", "gold")]
    return [name for name in OUTCOMES if any(side.get(name) for side in sides)]


def _hash(text: str) -> str:
    """The hash by which the page's security policy allows its own style and script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _type_costs(result: Mapping) -> dict[str, float]:
    return {name: row["gain"] for name, row in result["error_budget"][GMNER.name]["corrected"].items()}


def _types(gold: Sequence[Sample], systems: Sequence[Sequence[Prediction]]) -> list[tuple[str, float, int]]:
    """The types that are met, each with its hue and ring."""
    posts = (*gold, *(one for predicted in systems for one in predicted))
    colours = type_colours(entity.type for post in posts for entity in post.entities)
    return [(name, hue, ring) for name, (hue, ring) in colours.items()]


def _moves(outcomes: Sequence[Sequence]) -> dict:
    """The gold entities by the outcomes of two systems: ``{"counts": {(A's outcome, B's): count}, "tally", "rows",
    "columns"}``."""
    counts = Counter(
        (first.name, second.name) for a, b in outcomes for first, second in zip(a.gold, b.gold, strict=True)
    )
    tally = Counter({"fixed": 0, "regressed": 0, "right": 0, "wrong": 0})
    for (first, second), count in counts.items():
        if second == CORRECT:
            tally["right" if first == CORRECT else "fixed"] += count
        else:
            tally["regressed" if first == CORRECT else "wrong"] += count
    rows, columns = ([name for name in OUTCOMES if any(key[side] == name for key in counts)] for side in (0, 1))
    return {"counts": counts, "tally": tally, "rows": rows, "columns": columns}
