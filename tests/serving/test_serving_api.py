"""`rivegs serve` as a process of its own, asked over HTTP."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from http_client import Client, form

from rivegs_mllm import load
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.images import picture_size

pytest.importorskip("prometheus_client", reason="of the extra serve")
ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from rivegs_mllm.cli.main import main; sys.exit(main())"


class Post(NamedTuple):
    """A post to ask about."""

    text: str
    picture: bytes

    @property
    def encoded(self) -> str:
        """The picture in base64."""
        return base64.b64encode(self.picture).decode()


@contextmanager
def started(source: Path, *options: str) -> Iterator[tuple[subprocess.Popen, Client]]:
    """The server as a process, which may be ended within the block and is over behind it."""
    words = [sys.executable, "-c", COMMAND, "serve", str(source), "--port", "0", *options]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"serving {source} on http://127.0.0.1:"), process.communicate()
        yield process, Client(int(line.split("127.0.0.1:")[1].split()[0]))
    finally:
        process.kill()
        process.wait()


def end(process: subprocess.Popen, number: int) -> tuple[int, str]:
    """Its exit code after a signal, and what it has said on its way."""
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture(scope="module")
def run(trained) -> Path:
    return trained.recipe.parent / "run"


@pytest.fixture(scope="module")
def posts(trained) -> list[Post]:
    """Those that have a picture."""
    found = [Post(own.text, (trained.data / own.image).read_bytes()) for own in trained.samples if own.image]
    assert len(found) > 2
    return found


@pytest.fixture(scope="module")
def served(run) -> Iterator[Client]:
    with started(run) as (process, client):
        yield client
        assert end(process, signal.SIGTERM) == (0, "")


@pytest.fixture(scope="module")
def expected(run, posts) -> list[dict]:
    """What the system says when it is called in Python."""
    found = list(map(load(run), *zip(*posts, strict=True)))
    assert any(entity.boxes for post in found for entity in post.entities)
    return [json.loads(json.dumps(post.to_dict())) for post in found]


def without_scores(answer: dict) -> dict:
    """Without what differs in the last digits with the posts beside it, and what only a server says."""
    entities = [{key: value for key, value in own.items() if key != "visible_score"} for own in answer["entities"]]
    return {**{key: value for key, value in answer.items() if key not in ("size", "times")}, "entities": entities}


def test_a_form_json_and_a_batch_say_what_the_system_says(served, posts, expected):
    from rivegs_mllm.serving.records import BatchAnswer, GroundAnswer

    for post, right in zip(posts, expected, strict=True):
        for answer in (
            served.post("/v1/ground", *form({"text": post.text}, post.picture)),
            served.json("/v1/ground", {"text": post.text, "image": post.encoded}),
        ):
            assert answer.status == 200, answer.body
            GroundAnswer.model_validate_json(answer.body)  # what OpenAPI promises
            assert without_scores(answer.json()) == without_scores(right)
            assert tuple(answer.json()["size"]) == picture_size(io.BytesIO(post.picture))
    asked = [{"text": post.text, "image": post.encoded} for post in posts]
    answer = served.json("/v1/ground/batch", {"posts": asked})
    BatchAnswer.model_validate_json(answer.body)
    assert [without_scores(own) for own in answer.json()["posts"]] == list(map(without_scores, expected))


def test_options(served, posts):
    post = posts[0]
    names = served.post("/v1/ground", *form({"text": post.text, "segments": "entities"}, post.picture)).json()
    assert names["entities"]
    assert all(own["visible"] is None and not own["boxes"] for own in names["entities"])
    image = f"data:image/jpeg;base64,{post.encoded}"
    strict = served.json("/v1/ground", {"text": names["tokens"], "image": image, "threshold": 1, "masks": False}).json()
    assert [own["visible"] for own in strict["entities"]] == [False] * len(names["entities"])


def test_a_client_of_openai(served, posts, expected):
    openai = pytest.importorskip("openai")
    url = f"data:image/jpeg;base64,{posts[0].encoded}"
    content = [{"type": "text", "text": posts[0].text}, {"type": "image_url", "image_url": {"url": url}}]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        (model,) = client.models.list().data
        said = client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": content}])
        assert without_scores(json.loads(said.choices[0].message.content)) == without_scores(expected[0])
        content[1]["image_url"]["url"] = f"{served.url}/health"
        with pytest.raises(openai.UnprocessableEntityError, match="others are not fetched"):
            client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": content}])


JSON = "application/json"


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "words"),
    [
        ("/v1/ground", b"nope", JSON, 422, "the body: Invalid JSON"),
        ("/v1/ground", b"[" * 100_000, JSON, 422, "the body: "),
        ("/v1/ground", b"{}", JSON, 422, "text: Field required"),
        ("/v1/ground", b'{"text": 7}', JSON, 422, "text: "),
        ("/v1/ground", b'{"text": "\\ud800"}', JSON, 422, "the body: "),
        ("/v1/ground", b'{"text": ["a b"]}', JSON, 422, "text: 'a b' is no token"),
        ("/v1/ground", b'{"text": "a", "thresold": 1}', JSON, 422, "thresold: "),
        ("/v1/ground", b'{"text": "a", "threshold": NaN}', JSON, 422, "threshold: "),
        ("/v1/ground", b'{"text": "a", "masks": true}', JSON, 422, "masks: the system has no segmenter"),
        ("/v1/ground", b'{"text": "a", "segments": ["eyes"]}', JSON, 422, "segments: ['eyes'] are not some of"),
        ("/v1/ground", b'{"text": "a", "image": "{url}"}', JSON, 422, "a path or URL is not opened"),
        ("/v1/ground", b'{"text": "a", "image": "{path}"}', JSON, 422, "a path or URL is not opened"),
        ("/v1/ground", b'{"text": "a", "image": "QUJD"}', JSON, 422, "image: the picture: not a picture"),
        ("/v1/ground", b'{"text": "%s"}' % (b"a" * 30_000), JSON, 413, "text: 30,000 characters"),
        ("/v1/ground", b"x", "text/plain", 415, "send application/json or multipart/form-data"),
        ("/v1/ground", b"x", "multipart/form-data", 400, "the form cannot be read: Missing boundary"),
        ("/v1/ground", b"x", "multipart/form-data; boundary=b", 400, "the form cannot be read"),
        ("/v1/ground", bytes(17 * 2**20), JSON, 413, "larger than 16,777,216 bytes"),
        ("/v1/ground/batch", b'{"posts": []}', JSON, 422, "posts: "),
        ("/v1/ground/batch", b'{"posts": [{"text": "a"}, {"text": "b", "image": "Q"}]}', JSON, 422, "posts.1: image"),
        ("/v1/ground/batch", b'{"posts": [%s]}' % b",".join([b'{"text": "a"}'] * 65), JSON, 413, "posts: 65 are more"),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "stream": true}', JSON, 422, "str"),
        ("/none", b"", JSON, 404, "/none: Not Found"),
    ],
    ids=lambda own: "body" if isinstance(own, bytes) else None,  # one has 17 MB
)
def test_what_is_wrong_is_one_line(served, posts, tmp_path, path, body, kind, status, words):
    """A picture's path is that of a picture that is there, and a URL that of this server."""
    picture = tmp_path / "match.jpg"
    picture.write_bytes(posts[0].picture)
    body = body.replace(b"{path}", str(picture).encode()).replace(b"{url}", f"{served.url}/health".encode())
    answer = served.post(path, body, kind)
    assert answer.status == status
    error = answer.json()["error"]
    assert error["code"] == status
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert served.get("/health").json()["status"] == "ok"


def test_a_damaged_picture_is_told_and_no_file_of_the_server(served, posts):
    answer = served.post("/v1/ground", *form({"text": posts[0].text}, posts[0].picture[:900])).json()
    assert answer["errors"][0].startswith("no picture: the picture: damaged or truncated")


def test_health_metrics_and_openapi(served):
    assert served.post("/v1/ground", *form({"text": "Hello"})).status == 200
    health = served.get("/health").json()
    assert health["fields"] == ["knowledge", "entities", "expressions", "visible", "boxes"]
    numbers = served.get("/metrics").body.decode()
    assert 'rivegs_requests_total{code="200",path="/v1/ground"}' in numbers
    assert 'path="/none' not in numbers, "as many series as clients like"
    described = served.get("/openapi.json").json()
    (examples,) = [own["examples"] for own in body_of(described, "/v1/ground") if "examples" in own]
    for example in examples.values():
        assert served.json("/v1/ground", example["value"]).status == 200
    for path in ("/v1/ground/batch", "/v1/chat/completions"):
        (content,) = body_of(described, path)
        for example in content["examples"].values():
            assert served.json(path, example["value"]).status == 200, path


def body_of(described: dict, path: str) -> list[dict]:
    return list(described["paths"][path]["post"]["requestBody"]["content"].values())


def test_sigterm_answers_what_is_in_hand(run, posts):
    asked = [form({"text": post.text}, post.picture) for post in posts * 2]
    with started(run, "--batch-size", "2") as (process, client), ThreadPoolExecutor(len(asked)) as clients:
        coming = [clients.submit(client.post, "/v1/ground", *own) for own in asked]
        while client.get("/health").json()["waiting"] < len(asked) - 4:
            pass
        assert end(process, signal.SIGTERM) == (0, "")
        assert [own.result().status for own in coming] == [200] * len(asked)


def test_a_cascade(trained, tmp_path):
    recipe = tmp_path / "cascade.yaml"
    slots = ("knowledge", "tagger", "expander", "entailment", "grounder")
    recipe.write_text("".join(f"{slot}: {{type: mllm, recipe: {trained.recipe}}}\n" for slot in slots))
    with started(recipe, "--batch_size=3") as (process, client):
        assert client.json("/v1/ground", {"text": trained.samples[0].text}).json()["entities"]
        assert end(process, signal.SIGINT) == (0, "")


def test_mistakes_are_one_line_before_anything_is_loaded(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, said in (
            (["runs/none/model"], "runs/none/model: no such folder or recipe"),
            ([str(run), "--port", port], f"--port {port}: Address already in use"),
            ([str(run), "--port", "70000"], "--port: 70000 is not a port"),
            ([str(run), "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
            ([str(run), "--queue", "0"], "--queue: 0 is not a whole number"),
            ([str(run), "--deadline", "nan"], "--deadline: nan is not a number of seconds"),
        ):
            assert main(["serve", *words]) == 2
            error = capsys.readouterr().err
            assert said in error
            assert error.count("\n") == 1
