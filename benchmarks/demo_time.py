"""The demo, step by step with its times, as ``make demo`` runs it: ``python benchmarks/demo_time.py``.

Makes a benchmark, fine-tunes the end-to-end model on it, and writes the page of its results; then the base
before tuning, the stages of a cascade, and both ways compared. Run again it goes on where it stopped: what is trained
or answered is not done twice. Last line: "demo: page after X s, all after Y s". With ``--smoke`` the same commands run
at their smallest in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rivegs_mllm.models.device import has_bfloat16

ROOT = Path(__file__).parents[1]
DATA = "runs/demo/emblems"
E2E = "recipes/tiny/e2e.yaml"
STAGES = ("segmenter", "entailment", "tagger", "grounding")
SYSTEMS = ("mllm_given_expressions", "mllm_given_fields", "tiny", "tiny_no_expression", "tiny_mllm_grounder")


@dataclass(frozen=True)
class Step:
    """``seconds`` is how long it took on two cores of a Xeon of 2023. Several commands run two at a time."""

    what: str
    seconds: float
    commands: tuple[str, ...]


def steps(smoke: bool) -> list[Step]:
    """The demo's steps in order. The page is written by the sixth, of the tuned model, and then once more."""
    build = "--train 24 --dev 6 --test 6" if smoke else ""
    few = "--train.max_steps=2 --train.save_steps=2" if smoke else ""
    stage = f"{few} --train.save_strategy=steps --train.eval_strategy=steps --train.eval_steps=2" if smoke else ""
    short = "--predict.max_new_tokens=16" if smoke else ""
    many = "--train 24 --dev 6 --test 6" if smoke else "--names 480 --dev 100 --test 100"
    systems = SYSTEMS[2:3] if smoke else SYSTEMS
    compared = f"{E2E} recipes/cascade/tiny.yaml recipes/cascade/tiny_ablations.yaml --only e2e {' '.join(systems)}"
    return [
        Step("makes 3,000 posts with pictures", 8, (f"rivegs build emblems --out {DATA} --seed 0 {build}",)),
        Step("checks them", 2, (f"rivegs audit {DATA}",)),
        Step("fine-tunes the end-to-end model", 260, (f"rivegs train {E2E} --model.dtype={dtype()} {few}",)),
        Step("predicts the test posts", 30, (predict("after", short),)),
        Step("scores the predictions", 1, (evaluate("after"),)),
        Step("writes the page", 3, (report("report", "runs/demo/after.jsonl"),)),
        Step("shows what the model is given", 7, (f"rivegs preview {E2E} --out runs/demo/preview.html",)),
        Step("predicts with the base model", 43, (predict("before", f"--base-model {short}"),)),
        Step("scores these predictions", 1, (evaluate("before"),)),
        Step("adds them to the page", 3, (report("report", "runs/demo/before.jsonl", "runs/demo/after.jsonl"),)),
        Step("makes posts of more names", 8, (f"rivegs build emblems --out runs/demo/many --seed 1 {many}",)),
        Step(
            "trains the cascade's stages, two at a time",
            150,
            tuple(f"rivegs train recipes/stages/{name}_tiny.yaml {stage}" for name in STAGES),
        ),
        Step("compares the systems", 120, (f"rivegs compare {compared} --data {DATA} --out runs/demo/compare",)),
        Step(
            "writes the page of cascade and end-to-end model",
            3,
            (report("cascade", "runs/demo/after.jsonl", "runs/demo/compare/tiny.jsonl"),),
        ),
    ]


def dtype() -> str:
    """bfloat16 where the processor has instructions for it, since others are many times slower in it."""
    return "bfloat16" if has_bfloat16() else "float32"


def predict(name: str, options: str) -> str:
    return f"rivegs predict {E2E} --data {DATA} --out runs/demo/{name}.jsonl {options}"


def evaluate(name: str) -> str:
    return f"rivegs evaluate {DATA} runs/demo/{name}.jsonl --json runs/demo/{name}.json"


def report(page: str, *predictions: str) -> str:
    return f"rivegs report {DATA} {' '.join(predictions)} --out runs/demo/{page}.html"


def run(steps: Sequence[Step], folder: Path, console: Console) -> list[float]:
    """Runs the steps in ``folder`` and returns the seconds of each. Exits with the code of one that fails."""
    times: list[float] = []
    for number, step in enumerate(steps, 1):
        usual, left = _clock(step.seconds), _clock(_left(steps, times))
        console.print(f"[bold]step {number} of {len(steps)}: {step.what}[/] (usually {usual}; {left} to the end)")
        started = time.monotonic()
        code = _run(step.commands, folder)
        if code:
            console.print(f"step {number} ended with exit code {code}; the same command resumes there")
            sys.exit(code)
        times.append(time.monotonic() - started)
    return times


def _left(steps: Sequence[Step], times: Sequence[float]) -> float:
    """The seconds that the rest should take on this machine, by what it took so far."""
    usual = sum(step.seconds for step in steps[: len(times)])
    pace = sum(times) / usual if usual > 10 else 1.0
    return pace * sum(step.seconds for step in steps[len(times) :])


def _run(commands: Sequence[str], folder: Path) -> int:
    """The exit code of the first command that fails, else 0. Two at a time have a thread each."""
    at_once = min(len(commands), 2)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "RIVEGS_NEXT": "0"}
    if at_once > 1:
        environment["OMP_NUM_THREADS"] = "1"
    running: list[subprocess.Popen] = []
    waiting = list(commands)
    code = 0
    while (waiting and not code) or running:
        while waiting and not code and len(running) < at_once:
            command = shlex.split(waiting.pop(0))
            print("$", shlex.join(command), flush=True)
            running.append(subprocess.Popen(command, cwd=folder, env=environment))
        time.sleep(0.05)
        code = code or next((own.returncode for own in running if own.poll()), 0)
        running = [own for own in running if own.poll() is None]
    return code


def _table(steps: Sequence[Step], times: Sequence[float]) -> Table:
    table = Table("step", title="the demo's time")
    for column in ("s", "share", "usual s"):
        table.add_column(column, justify="right")
    for step, seconds in zip(steps, times, strict=True):
        table.add_row(step.what, f"{seconds:.1f}", f"{seconds / sum(times):.0%}", f"{step.seconds:.0f}")
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="at the smallest size, in a temporary folder")
    smoke = parser.parse_args().smoke
    console = Console(highlight=False, soft_wrap=True)
    todo = steps(smoke)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if smoke else ROOT
        if smoke:
            (folder / "recipes").symlink_to(ROOT / "recipes")
        times = run(todo, folder, console)
    console.print(_table(todo, times))
    if not smoke:
        console.print("the page: runs/demo/report.html; cascade or end-to-end model: runs/demo/compare/compare.html,")
        console.print("and post by post: runs/demo/cascade.html")
    page = sum(times[: 1 + [step.what for step in todo].index("writes the page")])
    console.print(f"demo: page after {page:.0f} s, all after {sum(times):.0f} s")


if __name__ == "__main__":
    main()
