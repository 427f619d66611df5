"""Seconds of MSEA's search, 100,000 posts against 1,000 examples: ``python benchmarks/similar_speed.py [--smoke]``."""

from __future__ import annotations

import argparse
import time

import numpy as np

from rivegs_mllm.llm.embeddings import normalize_rows
from rivegs_mllm.llm.retrieval import nearest


def main(posts: int, examples: int) -> None:
    """Prints the seconds for features of a sentence encoder, and of that with CLIP's beside it."""
    rng = np.random.default_rng(0)
    for name, width in (("text, 384 numbers", 384), ("fused, 384 + 512", 896)):
        features = [normalize_rows(rng.normal(size=(number, width))) for number in (posts, examples)]
        banned = [[index % examples] for index in range(posts)]
        wall, own = time.perf_counter(), time.process_time()
        chosen = nearest(*features, 5, banned)
        wall, own = time.perf_counter() - wall, time.process_time() - own
        assert chosen.shape == (posts, 5)
        size = f"{posts:,} posts against {examples:,} examples"
        print(f"{name}: {size}: {own:.2f} s of processor, {wall:.2f} s by the clock")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few posts")
    main(*((1_000, 50) if parser.parse_args().smoke else (100_000, 1_000)))
