"""Runs of training as they are found in folders, and tables of them. No library of models is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from rivegs_mllm.runtime.foreign import printable, read_object
from rivegs_mllm.types import UserError

RUN_FILE = "run.json"
_FINISHED = ("rivegs_contract.json", "stage.json")
_DEEPEST = 3
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder. ``state`` is "trained", or how far it came; ``settings`` by key; ``scores`` by split and figure,
    shares from 0 to 1; ``starts`` as `rivegs_mllm.training.run.card` records them."""

    folder: Path
    state: str
    settings: Mapping[str, object]
    scores: Mapping[str, Mapping[str, float]]
    starts: Sequence[Mapping[str, object]]


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders, at most three levels below them, by name. Raises UserError where there is none."""
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name one that holds runs, or a run")
        for path in sorted(_run_files(folder)):
            if run := _read(path):
                found[path.parent] = run
    if not found:
        raise UserError(f"{' '.join(map(str, folders))}: no run; `rivegs train RECIPE` makes one")
    return list(found.values())


def _run_files(folder: Path) -> list[Path]:
    found = []
    for name, inner, files in os.walk(folder):
        here = Path(name)
        if RUN_FILE in files:
            found.append(here / RUN_FILE)
        if RUN_FILE in files or len(here.relative_to(folder).parts) >= _DEEPEST:
            inner.clear()
    return found


def _read(path: Path) -> Run | None:
    """The run, None where the file is another's: the slots of a cascade keep one of that name beside their answers."""
    folder = path.parent
    try:
        run = read_object(path, "")
    except UserError:
        return Run(folder, f"{RUN_FILE} is damaged", {}, {}, [])
    settings, starts = run.get("settings"), run.get("starts")
    if type(settings) is not dict:
        return None
    known = [own for own in starts if type(own) is dict] if type(starts) is list else []
    return Run(folder, _state(folder), settings, _scores(folder / "metrics.json"), known)


def _state(folder: Path) -> str:
    if any((folder / name).is_file() for name in _FINISHED):
        return "trained"
    numbers = [own.name.rpartition("-")[2] for own in folder.glob("checkpoint-*")]
    steps = max((int(number) for number in numbers if number.isdigit()), default=None)
    return "started" if steps is None else f"stopped, checkpoint of step {steps}"


def _scores(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = read_object(path, "")
    except UserError:  # not there, or not whole
        return {}
    return {
        split: {name: value for name, value in own.items() if type(value) in (int, float)}
        for split, own in content.items()
        if type(own) is dict
    }


def table(runs: Sequence[Run]) -> Table:
    """A row a run: folder, state, its main scores, when it was last started, and on what machine."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "state", "scores", "last start (UTC)", "machine"):
        shown.add_column(name, overflow="fold")
    for run in runs:
        last = run.starts[-1] if run.starts else {}
        cells = (str(run.folder), run.state, _main_scores(run), str(last.get("at", "-")), str(last.get("machine", "-")))
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    return shown


def _main_scores(run: Run) -> str:
    """The F1s of test, or of dev; where there is none the first figures."""
    for split in ("test", "dev"):
        figures = run.scores.get(split, {})
        main = [name for name in figures if name.endswith("_f1")] or list(figures)[:3]
        if main:
            return f"{split}: " + ", ".join(f"{name} {figures[name]:.3f}" for name in main)
    return "-"


def differences(runs: Sequence[Run]) -> Table:
    """The settings, versions and machines in which the runs are not all alike: a row a key, a column a run."""
    facts = [{**run.settings, **_made_by(run)} for run in runs]
    shown = Table("setting", box=box.SIMPLE_HEAD)
    for run in runs:
        shown.add_column(Text(printable(str(run.folder))), overflow="fold")
    for key in sorted(set().union(*facts)):
        values = [_short(own.get(key)) for own in facts]
        if len(set(values)) > 1:
            shown.add_row(Text(printable(key)), *map(Text, values))
    if not shown.rows:
        shown.add_row("all are alike", *("" for _ in runs))
    return shown


def _made_by(run: Run) -> dict[str, object]:
    last = run.starts[-1] if run.starts else {}
    packages = last.get("packages")
    made = {name: last.get(name) for name in ("commit", "machine", "processes", "python")}
    return made | (packages if type(packages) is dict else {})


def _short(value: object) -> str:
    text = "-" if value is None else printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
