"""SIGKILL at random moments, many times over: nothing that was kept is asked again, and nothing is lost.

The runs are forked off a process that has imported everything, since a run starts in milliseconds then.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, completion
from test_distill import post_of

from rivegs_mllm.store.answer_store import read_rows, read_store

ROOT = Path(__file__).parents[2]
POSTS, IN_FLIGHT = 300, 8

NURSERY = f"""
import os, sys
sys.path[:0] = ["tests", "tests/distill"]
from test_distill import *
import rivegs_mllm.llm.openai_client
server = type("Server", (), {{"url": sys.argv[2]}})
wanted = recipe(Path(sys.argv[1]), server, posts({POSTS}))
import rivegs_mllm.store.answer_store as store
from functools import partial
import rivegs_mllm.distill.runner as teach
teach.Store = partial(store.Store, rows_a_shard=17)  # so that kills hit the making of shards too
retry = RetryPolicy(attempts=50, seconds=600, first_wait=0.01, last_wait=0.02)  # no question may fail for good
wanted = replace(wanted, limits=replace(wanted.limits, max_concurrency={IN_FLIGHT}, retry=retry))
wanted.teacher.timeout = 60.0
sys.stderr = open(os.devnull, "w")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        report = distill(wanted)
        os._exit(0 if not report.left else 3)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_killed_again_and_again(tmp_path, kills):
    rng = random.Random(kills)
    asked: Counter[str] = Counter()
    lock = threading.Lock()

    def reply(request, number):
        with lock:
            asked[post_of(request)] += 1
        if rng.random() < 0.05:
            return Reply(500, b"{}")
        answer = completion(f"Named entities: Ann (person)\n{post_of(request)}")
        answer.delay = rng.random() * 0.02
        return answer

    kept: dict[str, int] = {}
    killed = 0
    with ChatServer(reply) as server:
        arguments = [sys.executable, "-c", NURSERY, str(tmp_path), server.url]
        with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
            while True:
                before = server.count
                nursery.stdin.write("go\n")
                nursery.stdin.flush()
                child = int(nursery.stdout.readline())
                if killed < kills:
                    _wait_and_kill(child, server, before + rng.randrange(1, 16), rng.random() * 0.02)
                code = int(nursery.stdout.readline())
                if code == -signal.SIGKILL:
                    killed += 1
                time.sleep(0.05)  # what was on its way when it was killed arrives at the server
                for post, times in kept.items():
                    assert asked[post] == times, f"{post} was kept and is asked again"
                for row in read_rows(tmp_path / "store"):
                    assert row.status == "answered"
                    kept.setdefault(row.text.split("\n")[1], asked[row.text.split("\n")[1]])
                if code == 0:
                    break
                assert code == -signal.SIGKILL
            nursery.stdin.close()
    rows = list(read_rows(tmp_path / "store"))
    assert killed >= kills // 2, "the test has to kill to show anything"
    assert len(rows) == len({row.sample for row in rows}) == POSTS, "each answer is kept once"
    found = read_store(tmp_path / "store", "knowledge")
    assert all(found[f"post-{index}", ""][0].text.endswith(f"Ann meets Bob{index} in Bonn") for index in range(POSTS))
    tries = sum(row.tries for row in rows)
    assert server.count <= tries + killed * IN_FLIGHT * 2, "asked twice only what was under way when it was killed"
    assert not list((tmp_path / "store").glob("journal-*"))


def _wait_and_kill(child: int, server: ChatServer, count: int, seconds: float) -> None:
    """Kills the run some time after the server has been asked ``count`` times in all."""
    end = time.monotonic() + 20
    while server.count < count and time.monotonic() < end:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.001)
    time.sleep(seconds)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return
