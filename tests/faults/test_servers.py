"""Teachers' servers that are wrong in every way: a run ends in time, says what is wrong, keeps what was paid for, and
goes on with a good server; the key is nowhere to be found."""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, completion
from test_distill import good, posts, recipe

from rivegs_mllm.distill.config import Limits
from rivegs_mllm.distill.runner import distill
from rivegs_mllm.llm.client import OpenAIChat, RetryPolicy
from rivegs_mllm.llm.openai_client import MAX_BYTES
from rivegs_mllm.store.answer_store import ANSWERED, read_rows
from rivegs_mllm.types import UserError

KEY = "sekret-key-0123456789"
ELSEWHERE = "http://127.0.0.1:9/elsewhere"
MOST_SECONDS = 15


def answer(**changes) -> dict:
    """A chat completion with changes at its top."""
    return {**json.loads(completion("Named entities: Ann (person)").body), **changes}


def says(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {name.replace("_", "-"): one for name, one in headers.items()})


def choice(**changes) -> Reply:
    made = answer()
    made["choices"][0].update(changes)
    return says(made)


def message(**changes) -> Reply:
    made = answer()
    made["choices"][0]["message"].update(changes)
    return says(made)


def later(value: str) -> Reply:
    return Reply(429, b'{"error": {"message": "slow down"}}', {"retry-after": value})


DEEP = b'{"choices": ' + b"[" * 100_000
SERVERS = {
    "no JSON": Reply(body=b"\x00\xff\xfe{]"),
    "an empty body": Reply(body=b""),
    "HTML with status 200": Reply(body=b"<html>captive portal</html>", headers={"content-type": "text/html"}),
    "HTML with status 502": Reply(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}),
    "a number": says(3),
    "a list": says([]),
    "null": says(None),
    "deep JSON": Reply(body=DEEP),
    "no choices": says({"choices": []}),
    "choices that are none": says({"choices": {"a": 1}}),
    "no message": says({"choices": [{"index": 0}]}),
    "a message that is a text": says({"choices": [{"message": "hello"}]}),
    "a content that is a list": message(content=[1]),
    "a content that is a number": message(content=5),
    "a content that is null": message(content=None),
    "half a character": message(content="Named entities: \ud800 none"),
    "NUL": message(content="Named entities: none\0\0"),
    "a reason that is an object": choice(finish_reason={"a": 1}),
    "a reason of a megabyte": choice(finish_reason="x" * 2**20),
    "a model that is a list": says(answer(model=["a"])),
    "a usage that is a list": says(answer(usage=[1, 2])),
    "more tokens than there are": says(answer(usage={"prompt_tokens": 9223372036854775808, "completion_tokens": -1})),
    "tokens that are NaN": Reply(body=b'{"usage": {"prompt_tokens": NaN}, ' + completion("none").body[1:]),
    "tokens that are an object": says(answer(usage={"prompt_tokens": {"a": 1}, "completion_tokens": "5"})),
    "an answer of 64 MB": Reply(body=b"x" * 2**20, times=64),
    "a 500 of 800 MB": Reply(500, b"x" * 2**20, times=800),
    "a 500 of broken gzip": Reply(500, b"\x1f\x8b broken", {"content-encoding": "gzip"}),
    "a 500 of gzip that unfolds": Reply(500, gzip.compress(b"x" * 10**8), {"content-encoding": "gzip"}),
    "a 200 of broken gzip": Reply(200, b"\x1f\x8b broken", {"content-encoding": "gzip"}),
    "a 200 of gzip that unfolds": Reply(200, gzip.compress(b"x" * 10**8), {"content-encoding": "gzip"}),
    "a 500 in another character set": Reply(500, b"\xff\xfe\x00", {"content-type": "text/plain; charset=utf-32"}),
    "a character set that is none": Reply(500, b"oops", {"content-type": "text/plain; charset=banana"}),
    "a wrong content type": Reply(body=completion("none").body, headers={"content-type": "image/png"}),
    "no answer at all": Reply(body=None),
    "half an answer": Reply(body=completion("half of it").body, cut=True),
    "an answer that trickles": Reply(body=b"{", times=1000, pause=0.2),
    "an answer that comes late": Reply(body=completion("late").body, delay=3),
    "no HTTP": Reply(raw=b"SSH-2.0-OpenSSH_9.0\r\n"),
    "a head without an end": Reply(raw=b"HTTP/1.1 200 -\r\n" + b"x: y\r\n" * 100_000),
    "429 with seconds": later("0.1"),
    "429 with an hour": later("3600"),
    "429 with infinity": later("inf"),
    "429 with NaN": later("nan"),
    "429 with less than nothing": later("-5"),
    "429 with a date": later("Wed, 21 Oct 2065 07:28:00 GMT"),
    "429 with a date of no calendar": later("Wed, 99 Foo 99999 99:99:99 GMT"),
    "429 with a word": later("soon"),
    "400": Reply(400, b'{"error": {"message": "too long"}}'),
    "an error that is a list": Reply(400, b'{"error": [1, {"a": null}]}'),
    "401": Reply(401, json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode()),
    "403": Reply(403, b"{}"),
    "404": Reply(404, b"not found"),
    "501": Reply(501, b""),
    "a status of no kind": Reply(799, b"{}"),
    "the key in an answer": message(content=f"Named entities: none. Your key is {KEY}."),
    "the key as model and reason": says({**answer(model=f"m-{KEY}"), "system_fingerprint": KEY}),
    "the key in an error": Reply(400, f'{{"error": {{"message": "{"x" * 285} {KEY}"}}}}'.encode()),
    "the key in what is no answer": Reply(body=b"y" * 290 + KEY.encode()),
    "the key in a refusal": message(content=None, refusal=f"I cannot take {KEY}"),
    **{
        f"a {status} elsewhere": Reply(status, b'{"choices": []}', {"location": f"{ELSEWHERE}?k={KEY}"})
        for status in (301, 302, 303, 307, 308)
    },
    "a redirect to itself": Reply(307, b"", {"location": "/v1/chat/completions"}),
    "a redirect to a file": Reply(302, b"", {"location": "file:///etc/passwd"}),
    "a redirect to nowhere": Reply(302, b""),
}


def run(folder: Path, server: ChatServer, retry_failed: bool = False) -> str:
    """Distils three posts. What the user is told."""
    settings = recipe(
        folder,
        server,
        posts(3),
        teacher=OpenAIChat("made", server.url, api_key_env="MADE_KEY", timeout=1.0),
        limits={},
    )
    limits = Limits(max_concurrency=3, retry=RetryPolicy(attempts=2, seconds=2, first_wait=0.01, last_wait=0.02))
    settings.limits = limits
    try:
        return str(distill(settings, retry_failed))
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    return told


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MADE_KEY", KEY)


QUICK = [
    "no JSON",
    "half a character",
    "a reason that is an object",
    "more tokens than there are",
    "a 500 of 800 MB",
    "a 500 of broken gzip",
    "a 500 in another character set",
    "the key in an answer",
    "the key in an error",
    "the key in what is no answer",
    "a 301 elsewhere",
    "a 307 elsewhere",
]


@pytest.mark.parametrize("names", [QUICK, pytest.param(list(SERVERS), marks=pytest.mark.faults)], ids=["few", "all"])
def test_a_server_that_is_wrong(trials, tmp_path, capsys, names):
    def attempt(name):
        folder = tmp_path / str(names.index(name))
        start = time.monotonic()
        with ChatServer(lambda *_: SERVERS[name]) as server:
            told = run(folder, server)
            assert server.count <= 6, "two tries a question"
            assert server.sent <= 3 * 2 * (MAX_BYTES + 2**23), "what is in flight on its way not counted"
        assert time.monotonic() - start < MOST_SECONDS
        rows = list(read_rows(folder / "store"))
        paid = sum(row.status == ANSWERED for row in rows)
        with ChatServer(good) as server:
            run(folder, server)
            run(folder, server, retry_failed=True)
            assert server.count == 3 - paid, "what is answered is never asked again"
        rows = list(read_rows(folder / "store"))
        assert {row.sample for row in rows if row.status == ANSWERED} == {"post-0", "post-1", "post-2"}
        assert all(map(math.isfinite, (value for row in rows for value in (row.cost, row.latency))))
        assert all(len(row.error) < 700 for row in rows)
        kept = b"".join(path.read_bytes() for path in (folder / "store").iterdir())
        shown = told + "".join(capsys.readouterr()) + "".join(f"{row}" for row in rows)
        for secret in (KEY, KEY[:12]):
            assert secret.encode() not in kept
            assert secret not in shown

    trials.each("distill: a teacher's server that is wrong", names, attempt)


def test_a_redirect_is_told_and_followed_by_nothing(tmp_path):
    with ChatServer(good) as other:
        moved = Reply(307, b"", {"location": other.url + "/chat/completions"})
        with ChatServer(lambda *_: moved) as server:
            told = run(tmp_path, server)
        assert other.count == 0
    assert "redirects (307)" in told
    assert "teacher.base_url" in told


def test_half_a_character_is_mended_and_stored(tmp_path):
    with ChatServer(lambda *_: SERVERS["half a character"]) as server:
        run(tmp_path, server)
        assert server.count == 3
    assert {row.text for row in read_rows(tmp_path / "store")} == {"Named entities: \ufffd none"}


def test_a_short_key_does_not_blot_out_words(tmp_path, monkeypatch):
    monkeypatch.setenv("MADE_KEY", "a")
    with ChatServer(good) as server:
        run(tmp_path, server)
    assert all(row.text.startswith("Named entities: Ann (person)") for row in read_rows(tmp_path / "store"))


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MADE_KEY", "sekret\nX-Evil: 1")
    with ChatServer(good) as server:
        told = run(tmp_path, server)
    assert "MADE_KEY" in told
    assert "sekret" not in told
