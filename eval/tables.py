"""Results as tables for the terminal: percent with two decimals."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.protocols import PROTOCOLS

_LISTED = {
    "missing_predictions": "posts without a prediction",
    "unreadable_answers": "posts whose answer was not wholly readable",
    "boxes_without_area": "posts with a predicted box without area, which agrees with nothing",
    "boxes_outside": "posts with a predicted box that reaches outside the picture",
    "unknown_types": "posts with a predicted type that the gold does not have",
}


def format_scores(result: dict) -> RenderableType:
    """The result of `eval.scores.evaluate`: scores by protocol, then stages, then what was odd."""
    parts: list[RenderableType] = [_scores(name, result[name]) for name in result if name in PROTOCOLS]
    parts.append(_stages(result["stages"]))
    for key, words in _LISTED.items():
        found = result[key]
        if found["count"]:
            shown = ", ".join(found["ids"][:10]) + (", ..." if found["count"] > 10 else "")
            parts.append(Text(f"{found['count']} of {result['posts']} {words}: {shown}"))
    return Group(*parts)


def format_sweep(sweep: dict) -> RenderableType:
    """The result of `eval.scores.iou_sweep`: F1 by IoU threshold."""
    table = Table(title="F1 by IoU threshold", title_justify="left")
    table.add_column("protocol")
    table.add_column("task")
    thresholds = list(next(iter(next(iter(sweep.values())).values())))
    for threshold in thresholds:
        table.add_column(threshold, justify="right")
    for protocol, by_task in sweep.items():
        for task, by_iou in by_task.items():
            table.add_row(protocol, task, *(_percent(by_iou[threshold]["f1"]) for threshold in thresholds))
    return table


def _scores(protocol: str, subsets: dict) -> Table:
    table = Table(title=f"Scores, protocol {protocol}", title_justify="left")
    for heading in ("subset", "task"):
        table.add_column(heading)
    for heading in ("P", "R", "F1", "correct", "predicted", "gold"):
        table.add_column(heading, justify="right")
    for subset, by_task in subsets.items():
        label = Text(subset)
        for task, row in by_task.items():
            percents = [_percent(row[key]) for key in ("precision", "recall", "f1")]
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


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
