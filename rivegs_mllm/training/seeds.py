"""One recipe with several seeds: a folder each, and the mean and standard deviation of their figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from accelerate import PartialState
from rich.table import Table

from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.training.run.folder import read_metrics, run_lock
from rivegs_mllm.types import UserError

SEEDS_FILE = "seeds.json"

Figures = Mapping[str, Mapping[str, float]]
"""By split, dev or test, the figures of a run."""


def train_seeds(train: Callable[[Sequence[str]], Path], out: Path, seeds: Sequence[int]) -> dict:
    """Trains with each seed into ``out/seed-N`` and writes ``out/seeds.json``; started again, it resumes.

    ``train`` is given overrides of the recipe and returns the run's folder. The result is
    ``{"seeds": {seed: figures}, "mean": figures, "deviation": figures}``, figures by split and name; the deviation is
    that of a sample, 0 for one seed. Raises UserError where the seeds are not distinct or nothing was evaluated.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: {' '.join(map(str, seeds))} names a seed twice")
    with run_lock(out):
        runs = {}
        for seed in seeds:
            folder = train([f"--train.output_dir={out / f'seed-{seed}'}", f"--train.seed={seed}"])
            runs[str(seed)] = read_metrics(folder)
        if not any(runs[str(seeds[0])].values()):
            raise UserError(f"{out}: nothing was evaluated; set train.eval_strategy, or data.test to a split to score")
        every = list(runs.values())
        deviation = _over(every, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)
        result = {"seeds": runs, "mean": _over(every, statistics.fmean), "deviation": deviation}
        if PartialState().is_main_process:
            write_json(out / SEEDS_FILE, result)
    return result


def _over(runs: Sequence[Figures], summary: Callable[[list[float]], float]) -> dict:
    return {
        split: {name: summary([run[split][name] for run in runs]) for name in figures}
        for split, figures in runs[0].items()
    }


def format_seeds(result: dict) -> Table:
    """The result of ``train_seeds`` as a table, in percent with two decimals."""
    table = Table(title=f"{len(result['seeds'])} seeds", title_justify="left")
    for heading in ("split", "figure", *(f"seed {seed}" for seed in result["seeds"]), "mean", "deviation"):
        table.add_column(heading, justify="left" if heading in ("split", "figure") else "right")
    for split, figures in result["mean"].items():
        for name in figures:
            columns = [*result["seeds"].values(), result["mean"], result["deviation"]]
            table.add_row(split, name, *(f"{100 * column[split][name]:.2f}" for column in columns))
    return table
