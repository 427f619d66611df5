"""Results as tables for the terminal: percent with two decimals."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.attribution import VERDICTS
from eval.protocols import PROTOCOLS

_LISTED = {
    "missing_predictions": "posts without a prediction",
    "unreadable_answers": "posts whose answer was not wholly readable",
    "boxes_without_area": "posts with a predicted box without area, which agrees with nothing",
    "boxes_outside": "posts with a predicted box that reaches outside the picture",
    "unknown_types": "posts with a predicted type that the gold does not have",
}


def format_scores(result: dict) -> RenderableType:
    """The result of `eval.scores.evaluate` or `eval.explain.explain`: scores by protocol first, last what was odd."""
    intervals = result.get("intervals", {})
    parts: list[RenderableType] = [
        _scores(name, result[name], intervals.get(name)) for name in result if name in PROTOCOLS
    ]
    if result.get("seeds"):
        parts.append(_seeds(result["seeds"]))
    parts.append(_stages(result["stages"]))
    parts += [_budget(budget) for budget in result.get("error_budget", {}).values()]
    if result.get("iou_sweep"):
        parts.append(format_sweep(result["iou_sweep"]))
    if result.get("calibration"):
        parts.append(_calibration(result["calibration"]))
    for key, words in _LISTED.items():
        found = result[key]
        if found["count"]:
            shown = ", ".join(found["ids"][:10]) + (", ..." if found["count"] > 10 else "")
            parts.append(Text(f"{found['count']} of {result['posts']} {words}: {shown}"))
    return Group(*parts)


def format_sweep(sweep: dict) -> RenderableType:
    """The result of `eval.scores.iou_sweep`: F1 by IoU threshold."""
    tables: list[RenderableType] = []
    for protocol, by_task in sweep.items():
        table = Table()
        for heading in ("IoU", *by_task):
            table.add_column(heading, justify="right")
        for threshold in next(iter(by_task.values())):
            table.add_row(threshold, *(_percent(by_iou[threshold]["f1"]) for by_iou in by_task.values()))
        tables += [Text(f"F1 by IoU threshold, protocol {protocol}"), table]
    return Group(*tables)


def format_comparison(comparison: dict, names: tuple[str, str]) -> RenderableType:
    """The result of `eval.explain.compare_systems` of two systems A and B of these names."""
    tables: list[RenderableType] = [Text(f"A: {names[0]}\nB: {names[1]}")]
    for protocol, by_task in comparison.items():
        table = Table(title=f"F1 of B against A, protocol {protocol}", title_justify="left")
        table.add_column("task")
        for heading in ("A", "B", "B - A", "95 %", "p"):
            table.add_column(heading, justify="right")
        table.add_column("")
        for task, row in by_task.items():
            change = f"{100 * row['difference']:+.2f}"
            between = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
            table.add_row(task, _mean(row["a"]), _mean(row["b"]), change, between, f"{row['p']:.4f}", row["verdict"])
        tables.append(table)
    return Group(*tables)


def _scores(protocol: str, subsets: dict, intervals: dict | None) -> Table:
    table = Table(title=f"Scores, protocol {protocol}", title_justify="left")
    for heading in ("subset", "task"):
        table.add_column(heading)
    for heading in ("P", "R", "F1", *(["95 %"] if intervals else []), "correct", "predicted", "gold"):
        table.add_column(heading, justify="right")
    for subset, by_task in subsets.items():
        label = Text(subset)
        for task, row in by_task.items():
            percents = [_percent(row[key]) for key in ("precision", "recall", "f1")]
            if intervals:
                held = intervals[subset][task]
                percents.append(f"{_percent(held['low'])} to {_percent(held['high'])}")
            counts = [str(row[key]) for key in ("correct", "predicted", "gold")]
            table.add_row(label, task, *percents, *counts)
            label = Text("")
        table.add_section()
    return table


def _stages(stages: dict) -> Table:
    table = Table(title="Stages, of the entities named rightly", title_justify="left")
    table.add_column("subset")
    for heading in ("visibility right", "of", "boxes IoU > 0.5", "mean IoU", "of"):
        table.add_column(heading, justify="right")
    masked = "segmentation" in stages["all"]
    if masked:
        table.add_column("mask mIoU", justify="right")
    for subset, row in stages.items():
        seen, boxed = row["entailment"], row["grounding"]
        cells = [_percent(seen["accuracy"]), str(seen["total"])]
        cells += [_percent(boxed["precision"]), _percent(boxed["mean_iou"]), str(boxed["total"])]
        if masked:
            cells.append(_percent(row["segmentation"]["mean_iou"]))
        table.add_row(Text(subset), *cells)
    return table


def _seeds(seeds: dict) -> Table:
    table = Table(title="F1 over seeds; all else is of the first", title_justify="left")
    for heading in ("protocol", "task"):
        table.add_column(heading)
    for heading in ("mean", "each"):
        table.add_column(heading, justify="right")
    for protocol, by_task in seeds.items():
        for task, row in by_task.items():
            table.add_row(protocol, task, _mean(row), ", ".join(map(_percent, row["runs"])))
    return table


def _mean(side: dict) -> str:
    return _percent(side["f1"]) + ("" if side["deviation"] is None else f" ± {_percent(side['deviation'])}")


def _budget(budget: dict) -> Table:
    title = f"Where {budget['task']} is lost: F1 {_percent(budget['f1'])}, and with one thing mended"
    table = Table(title=title, title_justify="left")
    table.add_column("verdict")
    for heading in ("predicted", "gold", "F1", "gain"):
        table.add_column(heading, justify="right")
    for name, words in VERDICTS.items():
        counts = [str(budget[side].get(name, "")) for side in ("predicted", "gold")]
        mended = budget["mended"].get(name)
        gained = [_percent(mended["f1"]), f"{100 * mended['gain']:+.2f}"] if mended else ["", ""]
        table.add_row(words, *counts, *gained)
    table.add_section()
    for stage, row in budget["replaced"].items():
        estimated = f" ({row['estimated']} estimated)" if row["estimated"] else ""
        gain = f"{100 * (row['f1'] - budget['f1']):+.2f}"
        table.add_row(f"{stage} as in the gold{estimated}", "", "", _percent(row["f1"]), gain)
    return table


def _calibration(curve: dict) -> RenderableType:
    title = f"visible_score of {curve['total']} entities: expected calibration error {_percent(curve['ece'])}"
    table = Table()
    for heading in ("score", "entities", "mean score", "visible"):
        table.add_column(heading, justify="right")
    for row in curve["bins"]:
        if row["count"]:
            between = f"{row['low']:.1f} to {row['high']:.1f}"
            table.add_row(between, str(row["count"]), _percent(row["score"]), _percent(row["visible"]))
    return Group(Text(title), table)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
