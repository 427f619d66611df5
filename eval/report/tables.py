"""Results as tables for the terminal: percent with two decimals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.analysis.errors import OUTCOMES
from eval.counts import without_strata
from eval.protocols import PROTOCOLS
from eval.sample_size import few

_LISTED = {
    "missing_predictions": "posts without a prediction",
    "unreadable_answers": "posts whose answer has parse errors",
    "boxes_without_area": "posts with a predicted box without area, which matches nothing",
    "boxes_outside": "posts with a predicted box that reaches outside the picture",
    "unknown_types": "posts with a predicted type that the gold does not have",
}


def format_scores(result: dict, subsets: bool = False, stages: bool = False) -> RenderableType:
    """The result of `eval.scores.evaluate` or `eval.analysis.summary.explain`: scores by protocol first, warnings about
    the input last.

    Of the subsets those that the posts are marked as are shown, with ``subsets`` all of them; the stages with
    ``stages``; intervals, budget, sweep and calibration where they are in the result.
    """
    intervals = result.get("intervals", {})
    shown = list(result["stages"]) if subsets else without_strata(result["stages"])
    parts: list[RenderableType] = []
    for protocol in PROTOCOLS:
        if protocol in result:
            by_subset = {name: result[protocol][name] for name in shown if name in result[protocol]}
            parts.append(_scores(protocol, by_subset, intervals.get(protocol)))
    if result.get("seeds"):
        parts.append(_seeds(result["seeds"]))
    if stages:
        parts += [_stages({name: result["stages"][name] for name in shown}), _confusion(result["stages"]["all"])]
    parts += [_budget(budget) for budget in result.get("error_budget", {}).values()]
    if result.get("iou_sweep"):
        parts.append(format_sweep(result["iou_sweep"]))
    if result.get("calibration"):
        parts.append(_calibration(result["calibration"]))
    return Group(*parts, *_odd(result))


def format_side_by_side(systems: Mapping[str, dict]) -> RenderableType:
    """F1 of several systems by name, each the result of `eval.scores.evaluate`, and what was odd in each."""
    parts: list[RenderableType] = []
    for protocol in PROTOCOLS:
        results = [result[protocol] for result in systems.values() if protocol in result]
        if results:
            table = _table(f"F1, protocol {protocol}", ["subset", "task"], list(systems))
            for subset in without_strata(results[0]):
                for place, task in enumerate(results[0][subset]):
                    found = [result.get(subset, {}).get(task) for result in results]
                    cells = [_percent(row["f1"]) if row else "" for row in found]
                    table.add_row(Text("" if place else subset), task, *cells)
                table.add_section()
            parts.append(table)
    for name, result in systems.items():
        if "seeds" in result:
            parts.append(Text(f"{name}: the first of its seeds; their means are compared below"))
        parts += [sentence(f"{name}: {note}") for note in _odd(result)]
    return Group(*parts)


def _odd(result: dict) -> list[Text]:
    """A line for each sort of odd input, and where there are too few posts to tell much."""
    notes = [sentence(note) for note in too_few(result)]
    for key, words in _LISTED.items():
        found = result[key]
        if found["count"]:
            ids = ", ".join(found["ids"][:10]) + (", ..." if found["count"] > 10 else "")
            notes.append(sentence(f"{found['count']} of {result['posts']} {words}: {ids}"))
    return notes


def sentence(text: str) -> Text:
    """A line of text, which a terminal wraps and a log keeps whole; to be printed with ``crop=False``."""
    return Text(text, no_wrap=True, overflow="ignore")


def too_few(result: dict) -> list[str]:
    """Lines on what has too few posts or gold entities for its figures to say much."""
    if note := few(result["posts"]):
        return [note]
    protocol = next(result[name] for name in PROTOCOLS if name in result)
    gold = {name: next(iter(protocol[name].values()))["gold"] for name in without_strata(protocol)}
    return [f"{name}: {note}" for name, count in gold.items() if (note := few(count, "gold entities"))]


def format_sweep(sweep: dict) -> RenderableType:
    """The result of `eval.scores.iou_sweep`: F1 by IoU threshold."""
    tables: list[RenderableType] = []
    for protocol, by_task in sweep.items():
        thresholds = list(next(iter(by_task.values())))
        table = _table(f"F1 by IoU threshold, protocol {protocol}", ["task"], thresholds)
        for task, by_iou in by_task.items():
            table.add_row(task, *(_percent(by_iou[threshold]["f1"]) for threshold in thresholds))
        tables.append(table)
    return Group(*tables)


def format_comparison(comparison: dict, names: tuple[str, str]) -> RenderableType:
    """The result of `eval.analysis.significance.compare` of two systems A and B of these names."""
    tables: list[RenderableType] = [Text(f"A: {names[0]}\nB: {names[1]}")]
    for protocol, by_task in comparison.items():
        table = _table(f"F1 of B against A, protocol {protocol}", ["task"], ["A", "B", "B - A", "95 %", "p"])
        table.add_column("")
        for task, row in by_task.items():
            change = f"{100 * row['difference']:+.2f}"
            known = row["low"] is not None
            between = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}" if known else "none"
            table.add_row(task, _mean(row["a"]), _mean(row["b"]), change, between, f"{row['p']:.4f}", row["verdict"])
        tables.append(table)
    return Group(*tables)


def format_proposals(proposals: dict) -> RenderableType:
    """The result of `eval.stage_metrics.proposal_scores`."""
    shares = ", ".join(f"{_percent(row['precision'])} in the first {top}" for top, row in proposals["top"].items())
    return Text(f"Candidates: of {proposals['total']} gold entities with boxes one is found for {shares} (Top-N-Prec)")


def _scores(protocol: str, subsets: dict, intervals: dict | None) -> Table:
    """With intervals in the place of the counts. Subsets that hold nothing are left out, and by type EEG and EES, which
    are GMNER and SMNER there."""
    more = ["95 %"] if intervals else ["correct", "predicted", "gold"]
    table = _table(f"Scores, protocol {protocol}", ["subset", "task"], ["P", "R", "F1", *more])
    for subset, by_task in subsets.items():
        label = Text(subset)
        for task, row in by_task.items():
            if not (row["predicted"] or row["gold"]) or (subset.startswith("type:") and task in ("EEG", "EES")):
                continue
            of = (row["predicted"], row["gold"], row["predicted"] + row["gold"])
            cells = [_share(row[key], n) for key, n in zip(("precision", "recall", "f1"), of, strict=True)]
            if intervals:
                held = intervals[subset][task]
                known = held["low"] is not None
                cells.append(f"{_percent(held['low'])} to {_percent(held['high'])}" if known else "none")
            else:
                cells += [str(row[key]) for key in ("correct", "predicted", "gold")]
            table.add_row(label, task, *cells)
            label = Text("")
        table.add_section()
    return table


def _stages(stages: dict) -> Table:
    headings = ["span F1", "visibility", "of", "Prec@0.5", "mIoU", "of"]
    masked = "segmentation" in stages["all"]
    if masked:
        headings.append("mask mIoU")
    title = "Stages: spans without type, then visibility and regions of entities with correct mention and type"
    table = _table(title, ["subset"], headings)
    for subset, row in stages.items():
        seen, boxed = row["entailment"], row["grounding"]
        cells = [_percent(row["span"]["f1"]) if "span" in row else ""]
        cells += [_share(seen["accuracy"], seen["total"]), str(seen["total"])]
        cells += [_share(boxed[key], boxed["total"]) for key in ("precision", "mean_iou")] + [str(boxed["total"])]
        if masked:
            cells.append(_percent(row["segmentation"]["mean_iou"]))
        if seen["total"] or boxed["total"]:
            table.add_row(Text(subset), *cells)
    return table


def _confusion(stages: dict) -> RenderableType:
    confusion, span = stages["entailment"]["confusion"], stages["span"]
    table = _table(
        "Visibility, of entities with correct mention and type",
        ["gold"],
        [f"predicted {predicted}" for predicted in confusion],
    )
    for gold, row in confusion.items():
        table.add_row(gold, *map(str, row.values()))
    figures = f"P {_percent(span['precision'])}, R {_percent(span['recall'])}, F1 {_percent(span['f1'])}"
    return Group(table, Text(f"Spans without type: {figures}"))


def _seeds(seeds: dict) -> Table:
    table = _table("F1 over seeds; all else is of the first", ["protocol", "task"], ["mean", "each"])
    for protocol, by_task in seeds.items():
        for task, row in by_task.items():
            table.add_row(protocol, task, _mean(row), ", ".join(map(_percent, row["runs"])))
    return table


def _mean(side: dict) -> str:
    return _percent(side["f1"]) + ("" if side["deviation"] is None else f" ± {_percent(side['deviation'])}")


def _budget(budget: dict) -> Table:
    """The outcomes that were met; their counts add up to the last row of the first part."""
    title = f"Error analysis, {budget['task']}: F1 {_percent(budget['f1'])}, and with one type of error corrected"
    table = _table(title, ["outcome"], ["predicted", "gold", "F1", "gain"])
    sides = (budget["predicted"], budget["gold"])
    for name, words in OUTCOMES.items():
        if any(side.get(name) for side in sides):
            corrected = budget["corrected"].get(name)
            gained = [_percent(corrected["f1"]), f"{100 * corrected['gain']:+.2f}"] if corrected else ["", ""]
            table.add_row(words, *(str(side.get(name, "")) for side in sides), *gained)
    table.add_row("all", *(str(sum(side.values())) for side in sides), "", "")
    table.add_section()
    for stage, row in budget["oracle"].items():
        estimated = f" ({row['estimated']} estimated)" if row["estimated"] else ""
        gain = f"{100 * (row['f1'] - budget['f1']):+.2f}"
        table.add_row(f"gold {stage}{estimated}", "", "", _percent(row["f1"]), gain)
    return table


def _calibration(curve: dict) -> Table:
    title = f"visible_score of {curve['total']} entities: expected calibration error {_percent(curve['ece'])}"
    table = _table(title, ["score"], ["entities", "mean score", "visible"])
    for row in curve["bins"]:
        if row["count"]:
            between = f"{row['low']:.1f} to {row['high']:.1f}"
            table.add_row(between, str(row["count"]), _percent(row["score"]), _percent(row["visible"]))
    return table


def _table(title: str, words: Sequence[str], figures: Sequence[str]) -> Table:
    """A table of light lines, 80 columns wide at most for what is usual. Columns of words first, then of figures."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, title_justify="left", title_style="bold")
    table.title = f"\n{title}"
    for heading in words:
        table.add_column(heading)
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _share(fraction: float, of: int) -> str:
    """A share, and a dash where it is one of nothing."""
    return _percent(fraction) if of else "–"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"
