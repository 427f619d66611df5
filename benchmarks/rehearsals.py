"""The table of rehearsals in docs/training.md: python benchmarks/rehearsals.py --data DIR [--gpus N] [--gpu NAME]

Every recipe of recipes/e2e is rehearsed (`rivegs rehearse`), one after the other, each in a process of its own.
``--smoke`` takes one of them, on a few made posts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_builders.emblems.build import build_emblems

ROOT = Path(__file__).parents[1]
OF_THE_MACHINE = ("base", "processor")
"""Warnings of these say that the hub is out of reach, for every recipe alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a dataset folder")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu", default="a100-80")
    parser.add_argument("--smoke", action="store_true", help="one recipe, on a few made posts")
    args = parser.parse_args()
    if args.smoke:
        with tempfile.TemporaryDirectory() as folder:
            args.data = Path(folder)
            build_emblems(args.data, 0, train=24, dev=6, test=6)
            rehearse_all(args, 1)
    elif args.data is None:
        parser.error("name the folder of a dataset by --data, or give --smoke")
    else:
        rehearse_all(args)


def rehearse_all(args: argparse.Namespace, count: int | None = None) -> None:
    """Prints the table, of the first ``count`` recipes, None for all."""
    recipes = [path for path in sorted((ROOT / "recipes/e2e").glob("*.yaml")) if not path.name.startswith("_")]
    print("| recipe | tokens a post, median and most | GB of memory | training | evaluations | GB of disk | found |")
    print("|---|---|---|---|---|---|---|")
    start = time.perf_counter()
    for recipe in recipes[:count]:
        print(row(recipe, rehearse(recipe, args)), flush=True)
    print(f"rehearsed in {time.perf_counter() - start:.0f} s")


def rehearse(recipe: Path, args: argparse.Namespace) -> list[dict]:
    """What was found, as `rivegs rehearse --json` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "rivegs_mllm.cli.main", "rehearse", str(recipe), "--data", str(args.data)]
        command += ["--gpus", str(args.gpus), "--gpu", args.gpu, "--json", str(found)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not found.exists():
            sys.exit(f"{recipe}: {done.stderr}")
        return json.loads(found.read_text())


def row(recipe: Path, checks: list[dict]) -> str:
    """A line of the table."""
    figures = {name: value for check in checks for name, value in check["figures"].items()}
    wrong = [own for own in checks if own["level"] != "ok" and own["subject"] not in OF_THE_MACHINE]
    found = "; ".join(f"{own['level']}: {own['subject']}" for own in wrong) or "nothing"
    tokens = f"{figures['tokens_median']:,.0f}, {figures['tokens_max']:,}"
    cells = (
        recipe.name,
        tokens,
        f"{figures['memory_gb']:.1f}",
        f"{figures['hours'] * 60:.0f} min",
        f"{figures.get('evaluation_hours', 0) * 60:.0f} min",
        f"{figures['disk_gb']:.1f}",
        found,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
