"""How long a user waits for the message about a mistake: python benchmarks/message_time.py [--smoke]

Each command of MISTAKES is run on its own, in a folder with a small dataset, and prints one line. What is measured are
seconds of CPU from the start of Python to its end; a second is the bound. The table is that of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY, CASCADE = "recipes/tiny/e2e.yaml", "recipes/cascade/tiny.yaml"
TEACHER = "recipes/distill/emblems_smollm2.yaml"
BOUND = 1.0


@dataclass(frozen=True)
class Mistake:
    """A wrong command, what its message has to say (``.*`` for anything), and a module taken for not installed."""

    words: str
    says: str
    without: str = ""


MISTAKES = (
    Mistake("trian RECIPE", "trian: no such command; did you mean train?"),
    Mistake(f"predict {TINY} --data data", "missing: --out"),
    Mistake(f"predict {TINY} --data", "--data: needs a value"),
    Mistake("evaluate data p.jsonl --iou high", "--iou: 'high' is not a number"),
    Mistake("evaluate data p.jsonl --protocol strikt", "'strikt' is none of .*; did you mean strict?"),
    Mistake("report data p.jsonl --limt 3", "--limt: no such option; did you mean --limit?"),
    Mistake("import lable-studio x.json --out o", "lable-studio: no such format; did you mean label-studio?"),
    Mistake("train none.yaml", "none.yaml: no such recipe"),
    Mistake(f"train {TINY} --data nowhere", "nowhere: no split 'train' .*; there is no such folder"),
    Mistake(f"train {TINY} --data data --epochs=3", "epochs: no such key; did you mean train.num_train_epochs?"),
    Mistake(f"train {TINY} --data data --lr 1e-4", "lr: no such key; did you mean train.learning_rate?"),
    Mistake(f"train {TINY} --data data --lora.rank 8", "lora.rank: no such key; did you mean lora.r?"),
    Mistake(
        f"train {TINY} --data data --batch_size=4",
        "batch_size: no such key; did you mean train.per_device_train_batch_size or predict.batch_size?",
    ),
    Mistake(f"train {TINY} --data data --muon", "--muon: .* needs a value: --muon=VALUE"),
    Mistake(f"train {TINY} --data data --train.learning_rate fast", "train.learning_rate: 'fast' is not a number"),
    Mistake(f"train {TINY} --data data --train.max_steps=-7", "train.max_steps: -7 is not a number of at least -1"),
    Mistake(f"train {TINY} --data data --seed 3", "seed: no such key; did you mean train.seed"),
    Mistake(f"train {TINY} --data data --model.base=./none", "model.base: ./none is no folder"),
    Mistake(f"train {TINY} --data data --model.quantization=nf4", "rivegs-mllm[quant]", "bitsandbytes"),
    Mistake(f"train {CASCADE}", "a recipe of a cascade, which is for rivegs predict and compare"),
    Mistake("train recipes/stages/tagger_tiny.yaml --data data", "rivegs-mllm[cascade]", "torchcrf"),
    Mistake(f"preview {TINY} --data data --answer.segment=entities", "did you mean answer.segments?"),
    Mistake(f"audit data --recipe {TINY} --model.dtyp=float32", "did you mean model.dtype?"),
    Mistake("memory recipes/e2e/qwen2_5_vl_3b.yaml --lora.rank 8", "did you mean lora.r?"),
    Mistake("rehearse recipes/e2e/qwen2_5_vl_3b.yaml --gpu 5090", "--gpu: no '5090'; did you mean 4090?"),
    Mistake(f"rehearse {TINY} --data nowhere", "nowhere: no split 'train' .*; there is no such folder"),
    Mistake("init --data nowhere", "nowhere: no split 'train' .*; there is no such folder"),
    Mistake("init --data data --base qwen2_5_vl_3", "--base: no 'qwen2_5_vl_3'; did you mean qwen2_5_vl_3b?"),
    Mistake("audit nowhere", "nowhere: none of a dataset"),
    Mistake(f"predict {TINY} --data data --split tset --out p.jsonl", "no split 'tset'"),
    Mistake(f"predict {TINY} --data data --out p.jsonl --adapter runs/none", "runs/none/rivegs_contract.json: no such"),
    Mistake(f"predict {CASCADE} --data data --out p.jsonl", "runs/demo/.*: no such file or folder"),
    Mistake(f"compare {CASCADE} {TINY} --data data --out c --grounder.typ=gold", "did you mean grounder.type?"),
    Mistake(f"compare {CASCADE} --data data --out c --tagger.type=gld", "tagger.type: 'gld' is none of .*'gold'"),
    Mistake("try Hello --model runs/none", "runs/none: no such folder or recipe"),
    Mistake("merge runs/none --out merged", "runs/none: no such folder or recipe"),
    Mistake("merge data --out merged", "data/rivegs_contract.json: no such file"),
    Mistake("push runs/none me/mine", "runs/none: no such folder or recipe"),
    Mistake(f"distill {TEACHER} --data nowhere", "nowhere: no split 'train'"),
    Mistake(f"distill {TEACHER} --data data --teacher.modle=x", "did you mean teacher.model?"),
    Mistake("propose recipes/regions/proposals.yaml --data nowhere --out r", "nowhere: no split 'train'"),
)


def make_folder(folder: Path) -> None:
    """A dataset of one post a split in ``folder/data``."""
    (folder / "data").mkdir()
    (folder / "runs").mkdir()
    for split in ("train", "dev", "test"):
        post = {"id": split, "tokens": ["Ada", "speaks"], "entities": [{"text": "Ada", "type": "PER", "span": [0, 1]}]}
        (folder / "data" / f"{split}.jsonl").write_text(json.dumps(post) + "\n")
    (folder / "p.jsonl").write_text("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a few of them")
    args = parser.parse_args()
    slowest = 0.0
    print("| `rivegs ...` | message | CPU s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder))
        for mistake in MISTAKES[::8] if args.smoke else MISTAKES:
            message, seconds = run(mistake.words.split(), mistake.without, Path(folder))
            slowest = max(slowest, seconds)
            print(f"| `{mistake.words}` | {message} | {seconds:.2f} |", flush=True)
    print(f"messages: slowest {slowest:.2f} s")


def run(words: Sequence[str], without: str, folder: Path) -> tuple[str, float]:
    """The line that a command says, and the CPU seconds that it took."""
    program = "import sys; sys.modules.update(dict.fromkeys(filter(None, [sys.argv.pop(1)]))); "
    program += "from rivegs_mllm.cli.main import main; sys.exit(main())"
    before = _children()
    done = subprocess.run(
        [sys.executable, "-c", program, without, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip().removeprefix("error: "), _children() - before


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
