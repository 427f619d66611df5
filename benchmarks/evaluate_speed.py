"""How long scoring takes: python -m benchmarks.evaluate_speed [--smoke]

Made posts with the statistics of Twitter-GMNER (1.7 entities a post, 40 % of them visible) and predictions that
are right for about two entities in three. `looping` is the worst case for matching: no spans, mentions said again.
`masks` has the boxes as masks too, in pictures of 720 x 620 pixels. `rivegs evaluate` is the command with its start.
`files` scores two files of as many posts as --file-posts says, and gives the memory that this took. CPU seconds are
what counts on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pycocotools import mask as coco

from eval.analysis.errors import error_budget
from eval.analysis.significance import compare, f1_intervals
from eval.protocols import PROTOCOLS, Criteria
from eval.scores import evaluate, evaluate_files, iou_sweep
from rivegs_mllm.data.jsonl import read_predictions, read_samples, to_line, write_records
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Prediction, Sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posts", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--file-posts", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="200 posts, twice, and files of 2000")
    parser.add_argument("--only-files", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_files:
        _score_files(*args.only_files)
        return
    posts, repeats, file_posts = (200, 2, 2000) if args.smoke else (args.posts, args.repeats, args.file_posts)
    rng = random.Random(1)
    gold = [_post(rng, index) for index in range(posts)]
    usual = [Prediction(sample.id, entities=_usual(rng, sample)) for sample in gold]
    other = [Prediction(sample.id, entities=_usual(rng, sample)) for sample in gold]
    looping = [Prediction(sample.id, entities=_looping(sample)) for sample in gold]
    print(f"{posts} posts, {repeats} repeats, seconds of CPU (and by the clock), medians")
    with tempfile.TemporaryDirectory() as folder:
        gold_file, answer_file = Path(folder, "gold.jsonl"), Path(folder, "predictions.jsonl")
        write_records(gold_file, gold)
        write_records(answer_file, usual)
        command = [sys.executable, "-m", "rivegs_mllm.cli.main", "evaluate", str(gold_file), str(answer_file)]
        _report("rivegs evaluate", repeats, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        _report("read both files", repeats, lambda: (read_samples(gold_file), read_predictions(answer_file)))
    _report("evaluate", repeats, lambda: evaluate(gold, usual))
    _report("evaluate, looping", repeats, lambda: evaluate(gold, looping))
    with_masks = [replace(sample, entities=_masked(sample.entities)) for sample in gold]
    masks_said = [replace(prediction, entities=_masked(prediction.entities)) for prediction in usual]
    _report("evaluate, masks", repeats, lambda: evaluate(with_masks, masks_said))
    _report("all protocols", repeats, lambda: evaluate(gold, usual, Criteria(tuple(PROTOCOLS))))
    _report("sweep of IoU", repeats, lambda: iou_sweep(gold, usual))
    _report("error budget", repeats, lambda: error_budget(gold, usual))
    _report("intervals", repeats, lambda: f1_intervals(gold, usual))
    _report("comparison", repeats, lambda: compare(gold, [usual], [other]))
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "gold.jsonl"), Path(folder, "predictions.jsonl")
        _write_files(*files, gold, usual, file_posts)
        # A process of its own, whose memory is that of scoring alone.
        command = [sys.executable, "-m", "benchmarks.evaluate_speed", "--only-files", *map(str, files)]
        subprocess.run(command, check=True)


def _report(name: str, repeats: int, run: Callable[[], object]) -> None:
    clock, busy = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), _busy()
        run()
        clock.append(time.perf_counter() - start)
        busy.append(_busy() - before)
    print(f"{name:20} {statistics.median(busy):.3f} ({statistics.median(clock):.3f})", flush=True)


def _busy() -> float:
    """Seconds of CPU that this process and those it has started and waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _write_files(gold_file: Path, answer_file: Path, gold: list[Sample], said: list[Prediction], posts: int) -> None:
    """The posts again and again under new ids."""
    with gold_file.open("wb") as golds, answer_file.open("wb") as answers:
        for index in range(posts):
            sample, prediction = gold[index % len(gold)], said[index % len(gold)]
            golds.write(to_line(replace(sample, id=str(index))))
            answers.write(to_line(replace(prediction, id=str(index))))


def _score_files(gold_file: Path, answer_file: Path) -> None:
    start, busy = time.perf_counter(), time.process_time()
    result = evaluate_files(gold_file, answer_file)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    entities = result["strict"]["all"]["MNER"]["predicted"]
    took = f"{seconds:.1f} s ({busy:.1f} s of CPU){_peak()}"
    print(f"files of {result['posts']} posts, {entities} predicted entities: {took}")


def _peak() -> str:
    """The most memory that this process has held, where the system says so."""
    status = Path("/proc/self/status")
    if not status.exists():
        return ""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return f", at most {int(line.split()[1]) / 1024:.0f} MB"


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


def _masked(entities: tuple[Entity, ...]) -> tuple[Entity, ...]:
    return tuple(replace(entity, masks=tuple(map(_mask, entity.boxes))) for entity in entities)


def _mask(box: Box) -> Mask:
    corners = [box.xmin, box.ymin, box.xmax, box.ymin, box.xmax, box.ymax, box.xmin, box.ymax]
    (code,) = coco.frPyObjects([corners], 620, 720)
    return Mask((620, 720), code["counts"].decode())


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
