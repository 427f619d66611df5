"""A comparison of systems as one HTML page that needs no other file, for a phone too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

from eval.sample_size import few
from rivegs_mllm.compare.tables import (
    TASK_COLUMNS,
    grounded,
    percent,
    stage_cells,
    stage_table,
    title_of,
    total_cells,
    visible_entities,
)
from rivegs_mllm.pages.template import page_template, shared_style

_STAGE_HEADS = ("grounded", "span F1", "visibility", "box IoU > 0.5", "mean box IoU", "mean mask IoU")
_TOTAL_HEADS = ("parameters", "seconds per post", "peak memory")
_NONE = "–"


@dataclass(frozen=True)
class Cell:
    """A figure, the small ``notes`` beneath it, and how it is set off: "best", "better", "worse" or not."""

    text: str
    notes: tuple[str, ...] = ()
    mark: str = ""


Rows = dict[str, list[Cell]]
"""Of each system by name the cells of its row."""


@dataclass(frozen=True)
class PageTable:
    """A table of systems: ``heads`` are terms of the pages' glossary, ``parts`` its rows for each subset of posts."""

    heads: Sequence[str]
    parts: Mapping[str, Rows]


def as_page(result: Mapping) -> str:
    """The comparison that `rivegs_mllm.compare.run.compare` returns as HTML."""
    systems = result["systems"]
    return page_template(Path(__file__).with_name("page.html.jinja")).render(
        title=title_of(result),
        style=Markup(shared_style()),
        systems=[(name, system["about"], system["recipe"]) for name, system in systems.items()],
        first=next(iter(systems)),
        bars=_bars(systems),
        scores=_scores(systems),
        differences=_differences(result["differences"]),
        few=few(result["posts"]),
        stages=_stages(systems),
        totals=PageTable(
            _TOTAL_HEADS, {"": {name: _plain(total_cells(own["total"])) for name, own in systems.items()}}
        ),
        seconds=_seconds(result),
        data=result["data"],
        command=result["command"],
        version=version("rivegs-mllm"),
    )


def _scores(systems: Mapping[str, Mapping]) -> PageTable:
    """F1 of each task that any system can be scored in, with its interval."""
    tasks = [task for task in TASK_COLUMNS if any(task in own["scores"]["strict"]["all"] for own in systems.values())]
    parts = {
        subset: _with_best({name: [_f1(own, subset, task) for task in tasks] for name, own in systems.items()})
        for subset in _subsets(systems)
    }
    return PageTable(tasks, parts)


def _f1(system: Mapping, subset: str, task: str) -> Cell:
    row = system["intervals"][subset].get(task)
    if row is None:
        return Cell(_NONE)
    known = row["low"] is not None
    return Cell(percent(row["f1"]), (f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",) if known else ())


def _differences(differences: Mapping[str, Mapping]) -> PageTable | None:
    """Of each further system against the first: the difference in F1, its interval and p. None of one system."""
    if not differences:
        return None
    tasks = [task for task in TASK_COLUMNS if any(task in by_task for by_task in differences.values())]
    rows = {name: [_difference(by_task.get(task)) for task in tasks] for name, by_task in differences.items()}
    return PageTable(tasks, {"": rows})


def _difference(row: Mapping | None) -> Cell:
    if row is None:
        return Cell(_NONE)
    known = row["low"] is not None
    interval = f"{_signed(row['low'], 1)} to {_signed(row['high'], 1)}" if known else "no interval"
    mark = {"B is better": "better", "A is better": "worse"}.get(row["verdict"], "")
    return Cell(_signed(row["difference"], 2), (interval, f"p\u00a0=\u00a0{row['p']:.4f}"), mark)


def _stages(systems: Mapping[str, Mapping]) -> PageTable:
    parts = {}
    for subset in _subsets(systems):
        rows = {}
        for name, own in systems.items():
            rows[name] = _plain(stage_cells(own["stages"][subset], "SMNER" in own["scores"]["strict"][subset]))
        parts[subset] = _with_best(rows)
    return PageTable(_STAGE_HEADS, parts)


def _totals(systems: Mapping[str, Mapping]) -> PageTable:
    return PageTable(_TOTAL_HEADS, {"": {name: _plain(total_cells(own["total"])) for name, own in systems.items()}})


def _seconds(result: Mapping) -> PageTable:
    """Of each slot the type of its stage, and its seconds per post."""
    (_, *slots), rows = stage_table(result)
    cells = {
        name: [Cell(kind.replace("_", " "), (seconds,) if seconds else ()) for kind, _, seconds in parts]
        for name, *own in rows
        for parts in [[cell.rpartition(" ") if " " in cell else (_NONE, "", "") for cell in own]]
    }
    return PageTable(slots, {"": cells})


def _subsets(systems: Mapping[str, Mapping]) -> list[str]:
    return list(next(iter(systems.values()))["stages"])


def _plain(texts: Sequence[str]) -> list[Cell]:
    return [Cell(_NONE if text == "-" else text) for text in texts]


def _with_best(rows: Rows) -> Rows:
    """The rows with the highest figure of each column set off, unless all systems have the same."""
    best = []
    for column in zip(*rows.values(), strict=True):
        values = {float(cell.text) for cell in column if cell.text != _NONE}
        best.append(f"{max(values):.2f}" if len(values) > 1 else None)
    return {
        name: [replace(cell, mark="best") if cell.text == top else cell for cell, top in zip(cells, best, strict=True)]
        for name, cells in rows.items()
    }


def _bars(systems: Mapping[str, Mapping]) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each system the share that it grounds of each subset, in percent; of all posts where there are no subsets,
    and nothing where no entity is visible."""
    bars = []
    for name, system in systems.items():
        subsets = [subset for subset in system["stages"] if subset != "all"] or ["all"]
        shown = [subset for subset in subsets if visible_entities(system["stages"][subset])]
        bars.append((name, [(subset, 100 * grounded(system["stages"][subset])) for subset in shown]))
    return bars


def _signed(value: float, digits: int) -> str:
    return f"{100 * value:+.{digits}f}".replace("-", "−")
