"""How long scoring takes: python -m benchmarks.evaluate_speed [--smoke]

Made posts with the statistics of Twitter-GMNER (1.7 entities a post, 40 % of them visible) and predictions that
are right for about two entities in three. `looping` is the worst case for matching: no spans, mentions said again.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from eval.scores import evaluate
from rivegs_mllm.records import read_predictions, read_samples, write_records
from rivegs_mllm.types import TYPES, Box, Entity, Prediction, Sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="200 posts, twice")
    args = parser.parse_args()
    posts, repeats = (200, 2) if args.smoke else (args.posts, args.repeats)
    rng = random.Random(1)
    gold = [_post(rng, index) for index in range(posts)]
    usual = [Prediction(sample.id, entities=_usual(rng, sample)) for sample in gold]
    looping = [Prediction(sample.id, entities=_looping(sample)) for sample in gold]
    with tempfile.TemporaryDirectory() as folder:
        gold_file, answer_file = Path(folder, "gold.jsonl"), Path(folder, "predictions.jsonl")
        write_records(gold_file, gold)
        write_records(answer_file, usual)
        print(f"{posts} posts, {repeats} repeats, seconds")
        _report("read both files", repeats, lambda: (read_samples(gold_file), read_predictions(answer_file)))
    _report("evaluate", repeats, lambda: evaluate(gold, usual))
    _report("evaluate, looping", repeats, lambda: evaluate(gold, looping))


def _report(name: str, repeats: int, run: Callable[[], object]) -> None:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    print(f"{name:20} median {statistics.median(seconds):.3f}  min {min(seconds):.3f}  max {max(seconds):.3f}")


def _post(rng: random.Random, index: int) -> Sample:
    entities = []
    for place in range(rng.choices(range(6), (4, 48, 30, 12, 4, 2))[0]):
        boxes = tuple(_box(rng) for _ in range(1 + (rng.random() < 0.09))) if rng.random() < 0.4 else ()
        span = (2 * place, 2 * place + 1)
        entities.append(Entity(f"Name{place}", rng.choice(TYPES), span, visible=bool(boxes), boxes=boxes))
    tokens = tuple(f"Name{place // 2}" for place in range(12))
    return Sample(str(index), tokens, entities=tuple(entities), subset=rng.choice(("seen", "unseen")))


def _box(rng: random.Random) -> Box:
    x, y = rng.uniform(0, 500), rng.uniform(0, 400)
    return Box(x, y, x + rng.uniform(20, 200), y + rng.uniform(20, 200))


def _usual(rng: random.Random, sample: Sample) -> tuple[Entity, ...]:
    said = []
    for entity in sample.entities:
        if rng.random() < 0.1:
            continue
        if rng.random() < 0.1:
            entity = replace(entity, type=rng.choice(TYPES))
        if rng.random() < 0.2:
            entity = replace(entity, visible=True, boxes=(_box(rng),))
        said.append(entity)
    return tuple(said)


def _looping(sample: Sample) -> tuple[Entity, ...]:
    return tuple(replace(entity, text="Name0", span=None) for entity in sample.entities for _ in range(4))


if __name__ == "__main__":
    main()
