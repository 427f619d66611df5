"""A comparison of systems as tables, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from eval.report.tables import sentence
from eval.sample_size import few
from rivegs_mllm.cascade.base import ALL_SLOTS, SLOTS

TASK_COLUMNS = ("MNER", "GMNER", "EEG", "SMNER", "EES")
STAGE_FIGURES = ("grounded", "span F1", "visibility", "Prec@0.5", "box mIoU", "mask mIoU")
TOTALS = ("parameters", "s/post", "peak memory")
SCORES_NOTE = (
    "F1 and stages in percent, protocol strict. Grounded: the share of visible entities whose mention, type, "
    "visibility and box are correct. Visibility, Prec@0.5 and mIoU are of entities with the correct mention and "
    "type: each stage is evaluated in isolation."
)
COSTS_NOTE = (
    "Seconds per post, without loading. Parameters of models that several stages share count once. "
    "Peak memory is that of the GPU, or of the process where there is none."
)
_NONE = "-"
_SHORT = {
    "knowledge": "knowl.",
    "expander": "exp.",
    "entailment": "entail.",
    "grounder": "ground.",
    "segmenter": "segm.",
    "span F1": "span\nF1",
    "visibility": "visi-\nbility",
    "box mIoU": "box\nmIoU",
    "mask mIoU": "mask\nmIoU",
}
"""Shorter headings, for a terminal of 80 columns."""

Row = tuple[str, ...]


def as_markdown(result: Mapping) -> str:
    """The comparison as a Markdown page: scores and totals in one table, then what each stage took."""
    heads, rows = one_table(result)
    stage_heads, stage_rows = stage_table(result)
    return (
        f"# {_titled(result)}\n\n{SCORES_NOTE} {COSTS_NOTE}\n\n{_markdown(heads, rows)}\n"
        f"Seconds per post of each stage, after its type:\n\n{_markdown(stage_heads, stage_rows)}"
    )


def as_tables(result: Mapping) -> Group:
    """The comparison for a terminal of 80 columns: scores, stages, and costs apart."""
    heads, rows = one_table(result)
    rows = [(name if subset == "all" else f"  {subset}", *cells) for name, subset, *cells in rows]
    tasks, stages = 1 + len(TASK_COLUMNS), 1 + len(TASK_COLUMNS) + len(STAGE_FIGURES)
    heads = (heads[0], *heads[2:])
    totals = [(row[0], *row[stages:]) for row in rows if any(row[stages:])]
    slots, costs = stage_table(result, kinds=False)
    return Group(
        sentence(_titled(result)),
        _rich(heads[:tasks], [row[:tasks] for row in rows]),
        _rich((heads[0], *heads[tasks:stages]), [(row[0], *row[tasks:stages]) for row in rows]),
        sentence(SCORES_NOTE),
        _rich((heads[0], *heads[stages:]), totals),
        _rich(slots, costs),
        sentence(COSTS_NOTE),
    )


def one_table(result: Mapping) -> tuple[Row, list[Row]]:
    """Heads, and a row a system and subset; what a system costs as a whole stands in its first row."""
    rows = []
    for name, system in result["systems"].items():
        strict, totals = system["scores"]["strict"], total_cells(system["total"])
        for subset, stages in system["stages"].items():
            tasks = [percent(strict[subset][task]["f1"]) if task in strict[subset] else _NONE for task in TASK_COLUMNS]
            rows.append((name, subset, *tasks, *stage_cells(stages, "SMNER" in strict[subset]), *totals))
            totals = ("",) * len(TOTALS)
    return ("system", "posts", *TASK_COLUMNS, *STAGE_FIGURES, *TOTALS), rows


def stage_cells(stages: Mapping, masked: bool) -> list[str]:
    """`STAGE_FIGURES` as texts; ``masked``: whether the system gives masks."""
    boxes, masks = stages["grounding"], stages["segmentation"]
    return [
        percent(grounded(stages)) if visible_entities(stages) else _NONE,
        percent(stages["span"]["f1"]),
        percent(stages["entailment"]["accuracy"]) if stages["entailment"]["total"] else _NONE,
        percent(boxes["precision"]) if boxes["total"] else _NONE,
        percent(boxes["mean_iou"]) if boxes["total"] else _NONE,
        percent(masks["mean_iou"]) if masked and masks and masks["total"] else _NONE,
    ]


def grounded(stages: Mapping) -> float:
    """The share of visible entities whose mention, type, visibility and box are correct, 0 where there are none;
    ``stages`` is what `eval.stage_metrics.stage_scores` gives."""
    return stages["grounding"]["correct"] / max(1, visible_entities(stages))


def visible_entities(stages: Mapping) -> int:
    """How many entities of the gold have a box."""
    return sum(stages["grounding"][part] for part in ("total", "said_invisible", "unmatched"))


def total_cells(total: Mapping) -> Row:
    """`TOTALS` as texts."""
    peak = total["peak_memory"]
    memory = _NONE if peak is None else f"{peak / 1e9:.2f} GB"
    return f"{total['parameters'] / 1e6:,.1f} M", f"{total['seconds_a_post']:.3f}", memory


def stage_table(result: Mapping, kinds: bool = True) -> tuple[Row, list[Row]]:
    """Heads, and a row a system: for each slot its stage's type, with ``kinds``, and seconds per post. Slots that no
    system fills are left out."""
    systems = {name: {cost["slot"]: cost for cost in system["costs"]} for name, system in result["systems"].items()}
    slots = [slot for slot in (ALL_SLOTS, *SLOTS) if any(slot in costs for costs in systems.values())]
    rows = [(name, *(_cost(costs.get(slot), kinds) for slot in slots)) for name, costs in systems.items()]
    return ("system", *slots), rows


def _cost(cost: Mapping | None, kinds: bool) -> str:
    if cost is None:
        return _NONE
    seconds = f"{cost['seconds'] / cost['posts'] if cost['posts'] else 0:.3f}"
    return f"{cost['kind']} {seconds}" if kinds else seconds


def title_of(result: Mapping) -> str:
    """How many systems, on which posts."""
    return f"{len(result['systems'])} systems on {result['posts']} posts of {result['data']}, {result['split']}"


def _titled(result: Mapping) -> str:
    """The title, and a warning where there are few posts."""
    return "; ".join(filter(None, (title_of(result), few(result["posts"]))))


def percent(share: float) -> str:
    """A fraction in percent."""
    return f"{100 * share:.2f}"


def _markdown(heads: Row, rows: Iterable[Row]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _rich(heads: Sequence[str], rows: Iterable[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, head in enumerate(heads):
        side = "right" if place else "left"
        table.add_column(_SHORT.get(head, head), justify=side, no_wrap=not place, overflow="fold")
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table
