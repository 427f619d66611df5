"""Requests a second of a distillation, and its own time a request, against a local server that answers at once.

``python benchmarks/distill_speed.py [--smoke]``. The server runs in a process of its own; own time is the processor
time of the distilling process, planning, storing and the dataset card among it, but not the imports. The last line is
that of 64 requests in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.distill.config import DistillData, DistillRecipe, Limits
from rivegs_mllm.distill.runner import distill
from rivegs_mllm.distill.tasks import KnowledgeTask
from rivegs_mllm.llm.client import OpenAIChat, Sampling
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.store.answer_store import read_rows
from rivegs_mllm.types import Sample

SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from chat_server import ChatServer, completion
reply = completion("Named entities: Bonn (location)")
with ChatServer(lambda *_: reply, keep=False) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def main(posts: int) -> None:
    """Prints a line for 1, 16, 256 and 64 questions in flight, and the seconds of a start where all is answered."""
    tests = Path(__file__).parents[1] / "tests"
    arguments = [sys.executable, "-c", SERVER, str(tests)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            samples = [Sample(f"post-{index}", ("Rain", "in", "Bonn", str(index))) for index in range(posts)]
            write_records(folder / "train.jsonl", samples)
            with contextlib.redirect_stdout(io.StringIO()):
                measure(folder, url, 2, posts)  # for the imports
            for max_concurrency in (1, 16, 256):
                measure(folder, url, max_concurrency, posts)
            start = time.perf_counter()
            measure_nothing(folder, url, posts)
            print(f"started again with {posts:,} answers there: {time.perf_counter() - start:.2f} s")
            each = measure(folder, url, 64, posts)
            print(f"distill: {each:.2f} ms of own processor time a request")
        server.stdin.close()


def measure(folder: Path, url: str, max_concurrency: int, posts: int) -> float:
    """Prints the rate of one run into a store of its own, and the processor time of this process a request in ms, which
    it gives back."""
    wall, own = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        report = distill(recipe(folder, url, max_concurrency))
    seconds, processor = time.perf_counter() - wall, time.process_time() - own
    kept = sum(1 for _ in read_rows(folder / f"store-{max_concurrency}"))
    assert report.answered == kept == posts, report
    rate, each = posts / seconds, 1000 * processor / posts
    again = f", {report.requests - posts} sent again" if report.requests > posts else ""
    print(f"{max_concurrency:4} at a time: {rate:6.0f} requests a second, {each:.2f} ms of own time each{again}")
    return each


def measure_nothing(folder: Path, url: str, posts: int) -> None:
    """A run that finds everything answered."""
    report = distill(recipe(folder, url, 256))
    assert (report.requests, report.done_before) == (0, posts)


def recipe(folder: Path, url: str, max_concurrency: int) -> DistillRecipe:
    """Knowledge without examples about all posts."""
    return DistillRecipe(
        data=DistillData(folder),
        store=folder / f"store-{max_concurrency}",
        task=KnowledgeTask(ExampleSelection(choose="none")),
        teacher=OpenAIChat("made", url, api_key_env=None, timeout=600),
        sampling=Sampling(max_tokens=64),
        limits=Limits(max_concurrency=max_concurrency),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few posts")
    main(200 if parser.parse_args().smoke else 4000)
