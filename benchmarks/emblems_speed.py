"""Posts a second of the Emblems builder on one core: ``python benchmarks/emblems_speed.py [--smoke]``."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from random import Random

from data_builders.emblems.build import build_emblems, draw_post, plan_posts
from data_builders.emblems.encyclopedia import make_encyclopedia


def main(posts: int) -> None:
    """Prints the rates of planning, of drawing, and of the complete build with its files; in processor time."""
    entries = make_encyclopedia(Random(0), 48, 24)
    start = time.process_time()
    planned = list(plan_posts(0, "train", posts, entries))
    report("planned", posts, start)
    start = time.process_time()
    for rng, subset, plan in planned:
        draw_post(rng, "x", subset, plan)
    report("drawn with masks", posts, start)
    with tempfile.TemporaryDirectory() as folder:
        start, wall = time.process_time(), time.perf_counter()
        build_emblems(Path(folder), seed=0, train=posts, dev=0, test=0)
        report("built", posts, start)
        print(f"built, by the clock on the wall: {posts / (time.perf_counter() - wall):.0f} posts a second")


def report(what: str, posts: int, start: float) -> None:
    """Prints the rate since ``start`` of the processor clock."""
    print(f"{what}: {posts / (time.process_time() - start):.0f} posts a second of one core")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few posts")
    main(50 if parser.parse_args().smoke else 1000)
