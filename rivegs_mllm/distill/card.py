"""The dataset card of a store: who was asked what, how it went, what it cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import draccus
import orjson

from rivegs_mllm.distill.recipe import DistillRecipe
from rivegs_mllm.distill.store import FAILED, read_rows
from rivegs_mllm.files import write_text

RUNS = "runs.jsonl"
CARD = "README.md"

_HEAD = """\
---
configs:
- config_name: default
  data_files: shard-*.parquet
---
# Answers of language models about posts

Made by `rivegs distill`; the columns are described in docs/distilling.md of RiVEGS-MLLM. Of several rows of the same
kind, sample, mention and teacher the last one counts.
"""


def note_run(recipe: DistillRecipe, kind: str, prompt: str, report: dict) -> None:
    """Adds a run to the store's list of runs."""
    run = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kind": kind,
        "data": {"folder": recipe.data.folder.name, "splits": recipe.data.splits},
        "teacher": recipe.teacher.identity,
        "sampling": asdict(recipe.sampling),
        "task": draccus.encode(recipe.task),
        "licence": recipe.licence,
        "prompt": prompt,
        "report": report,
    }
    with (recipe.store / RUNS).open("ab") as file:
        file.write(orjson.dumps(run, option=orjson.OPT_APPEND_NEWLINE, default=str))


def write_card(recipe: DistillRecipe) -> Path:
    """Writes the card, of all runs of the store, and gives its path."""
    runs = [orjson.loads(line) for line in (recipe.store / RUNS).read_bytes().splitlines()]
    parts = [_HEAD, _counts(recipe.store)]
    latest = {(run["kind"], run["teacher"]["teacher"]): run for run in runs if run["prompt"]}
    for (kind, teacher), run in sorted(latest.items()):
        parts.append(_described(kind, teacher, run))
    path = recipe.store / CARD
    write_text(path, "\n".join(parts))
    return path


def _counts(store: Path) -> str:
    """A table with one line a kind and teacher, and one of the faults."""
    figures: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    faults: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    latest = {row.place: (row.status, row.faults) for row in read_rows(store)}
    for (kind, _, _, teacher), (status, found) in latest.items():
        count = figures[kind, teacher]
        count["all"] += 1
        count["failed"] += status == FAILED
        count["marked"] += bool(found)
        faults[kind, teacher].update(found)
    for row in read_rows(store):
        count = figures[row.kind, row.teacher]
        count["prompt"] += row.prompt_tokens or 0
        count["completion"] += row.completion_tokens or 0
        count["cost"] += row.cost
    lines = [
        "| kind | teacher | questions | failed | marked | prompt tokens | answer tokens | cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kind, teacher), count in sorted(figures.items()):
        lines.append(
            f"| {kind} | {_cell(teacher)} | {count['all']:,} | {_share(count, 'failed')} | {_share(count, 'marked')} "
            f"| {count['prompt']:,} | {count['completion']:,} | {count['cost']:,.4f} |"
        )
    marks = [
        f"- {kind} of {_cell(teacher)}: {name} {count:,}"
        for (kind, teacher), found in sorted(faults.items())
        for name, count in found.most_common()
    ]
    said = "Marked are answers in which the checks found faults; training leaves them out unless it is told otherwise."
    return "\n".join(["## Counts", *lines, "", said, *marks, ""])


def _described(kind: str, teacher: str, run: dict) -> str:
    fence = "~" * 8
    return "\n".join(
        [
            f"## {kind} of {_cell(teacher)}",
            f"- teacher: `{orjson.dumps(run['teacher']).decode()}`",
            f"- sampling: `{orjson.dumps(run['sampling']).decode()}`",
            f"- task: `{orjson.dumps(run['task']).decode()}`",
            f"- data: {run['data']['folder']}, splits {', '.join(run['data']['splits'])}",
            f"- licence: {run['licence'] or 'not stated; look up what the terms of the teacher allow before sharing'}",
            "",
            "A prompt as it was sent:",
            fence,
            run["prompt"].replace(fence, ""),
            fence,
            "",
        ]
    )


def _share(count: Counter[str], name: str) -> str:
    return f"{count[name]:,} ({100 * count[name] / count['all']:.1f} %)" if count["all"] else "0"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
