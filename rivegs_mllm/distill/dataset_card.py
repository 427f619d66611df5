"""The dataset card of a store: teachers, questions, failures, cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import draccus
import orjson

from rivegs_mllm.distill.config import DistillRecipe
from rivegs_mllm.runtime.files import write_bytes, write_text
from rivegs_mllm.store.answer_store import FAILED, read_rows

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


def record_run(recipe: DistillRecipe, kind: str, prompt: str, report: dict) -> list[str]:
    """Adds a run to the store's list of runs. Damaged lines of that list are dropped; returns a note on them."""
    path = recipe.store / RUNS
    before, notes = _runs(path)
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
    if notes:
        write_bytes(path, b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in before))
    with path.open("ab") as file:
        file.write(orjson.dumps(run, option=orjson.OPT_APPEND_NEWLINE, default=str))
    return notes


def write_card(recipe: DistillRecipe) -> Path:
    """Writes the card, of all runs of the store, and gives its path."""
    runs, _ = _runs(recipe.store / RUNS)
    parts = [_HEAD, _counts(recipe.store)]
    latest = {(run["kind"], run["teacher"]["teacher"]): run for run in runs if run["prompt"]}
    for (kind, teacher), run in sorted(latest.items()):
        parts.append(_described(kind, teacher, run))
    path = recipe.store / CARD
    write_text(path, "\n".join(parts))
    return path


def _runs(path: Path) -> tuple[list[dict], list[str]]:
    """The runs in a list of them, and in a line what of it is none: cut off, or damaged."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    runs = [run for run in map(_run, lines) if run is not None]
    lost = len(lines) - len(runs)
    return runs, [f"{path}: {len(runs):,} runs kept, {lost:,} damaged or cut-off lines dropped"] if lost else []


def _run(line: bytes) -> dict | None:
    try:
        run = orjson.loads(line)
        _described(run["kind"], run["teacher"]["teacher"], run)
        return run if type(run["kind"]) is str else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _counts(store: Path) -> str:
    """A table with one line a kind and teacher, and one of the faults."""
    figures: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    faults: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    latest = {row.place: (row.status, row.faults) for row in read_rows(store)}
    for (kind, _, _, teacher), (status, found) in latest.items():
        count = figures[kind, teacher]
        count["all"] += 1
        count["failed"] += status == FAILED
        count["flagged"] += bool(found)
        faults[kind, teacher].update(found)
    for row in read_rows(store):
        count = figures[row.kind, row.teacher]
        count["prompt"] += row.prompt_tokens or 0
        count["completion"] += row.completion_tokens or 0
        count["cost"] += row.cost
    lines = [
        "| kind | teacher | questions | failed | flagged | prompt tokens | answer tokens | cost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kind, teacher), count in sorted(figures.items()):
        lines.append(
            f"| {kind} | {_cell(teacher)} | {count['all']:,} | {_share(count, 'failed')} | {_share(count, 'flagged')} "
            f"| {count['prompt']:,} | {count['completion']:,} | {count['cost']:,.4f} |"
        )
    marks = [
        f"- {kind} of {_cell(teacher)}: {name} {count:,}"
        for (kind, teacher), found in sorted(faults.items())
        for name, count in found.most_common()
    ]
    note = "Flagged are answers that fail a quality check; training leaves them out unless `distilled.clean` is false."
    return "\n".join(["## Counts", *lines, "", note, *marks, ""])


def _described(kind: str, teacher: str, run: dict) -> str:
    fence = "~" * 8  # tildes, since a prompt may hold backticks
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
