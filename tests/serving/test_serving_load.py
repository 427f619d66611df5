"""A server under load and ill use: bounds, deadlines, clients that leave, and whose answer is whose.

The system behind it is one whose speed and faults the test sets; everything before it is the server's own.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from http_client import Client, form

from rivegs_mllm.types import Entity, Prediction, Sample

pytest.importorskip("prometheus_client", reason="of the extra serve")
from local_server import local_server

from rivegs_mllm.serving.limits import Limits

FIELDS = ("entities", "visible")


@contextmanager
def served(system: System, limits: Limits, batch_size: int = 8) -> Iterator[Client]:
    with local_server(system, FIELDS, limits, batch_size) as client:
        try:
            yield client
        finally:
            system.open.set()


class System:
    """Names the first word of each post; waits until ``open`` is set; fails at a post that says "bad"."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.batches: list[tuple[str, ...]] = []

    def __call__(self, samples: Sequence[Sample], wanted: tuple[str, ...], threshold: float | None) -> list[Prediction]:
        self.open.wait(60)
        self.batches.append(tuple(sample.text for sample in samples))
        if any(sample.tokens[0] == "bad" for sample in samples):
            raise RuntimeError("bad post")
        return [
            Prediction(sample.id, " ".join(wanted), (Entity(sample.tokens[0], "PER", (0, 1)),)) for sample in samples
        ]


def waiting(client: Client) -> int:
    return client.get("/health").json()["waiting"]


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def number(client: Client, name: str) -> float:
    lines = client.get("/metrics").body.decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_each_client_has_its_own_answer_and_options_are_not_mixed():
    system = System()
    with served(system, Limits()) as client, ThreadPoolExecutor(32) as clients:

        def ask(index: int) -> None:
            segments = ["entities"] if index % 3 else None
            answer = client.json("/v1/ground", {"text": f"name{index} there", "segments": segments}).json()
            assert [own["text"] for own in answer["entities"]] == [f"name{index}"]
            assert answer["knowledge"] == ("entities" if segments else "entities visible")

        list(clients.map(ask, range(300)))
    assert sum(map(len, system.batches)) == 300
    assert 1 < max(map(len, system.batches)) <= 8


def test_a_post_that_fails_fails_alone():
    system = System()
    with served(system, Limits()) as client, ThreadPoolExecutor(8) as clients:
        system.open.clear()
        asked = [{"text": text} for text in ("bad day", "Ada", "Bob")]
        coming = [clients.submit(client.json, "/v1/ground", own) for own in asked]
        until(lambda: number(client, "rivegs_held_bytes") == sum(len(json.dumps(own)) for own in asked))
        system.open.set()
        bad, *others = [own.result() for own in coming]
    assert bad.status == 500
    assert "bad post" in bad.json()["error"]["message"]
    assert [own.json()["entities"][0]["text"] for own in others] == ["Ada", "Bob"]


def test_beyond_the_queue_a_client_is_told_when_to_come_again():
    system = System()
    with served(system, Limits(queue=2, posts=2), batch_size=1) as client, ThreadPoolExecutor(8) as clients:
        system.open.clear()
        coming = []
        for index in range(3):  # one is worked on, and two wait
            coming.append(clients.submit(client.json, "/v1/ground", {"text": f"post {index}"}))
            until(lambda held=index: number(client, "rivegs_held_bytes") and waiting(client) == held)
        refused = client.json("/v1/ground", {"text": "more"})
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 posts wait already" in refused.json()["error"]["message"]
        system.open.set()
        assert [own.result().status for own in coming] == [200] * 3
        assert client.json("/v1/ground", {"text": "more"}).status == 200


def test_past_its_deadline_a_post_is_not_worked_on():
    system = System()
    with served(system, Limits(deadline=0.5), batch_size=1) as client, ThreadPoolExecutor(8) as clients:
        system.open.clear()
        coming = [clients.submit(client.json, "/v1/ground", {"text": f"post {index}"}) for index in range(3)]
        assert [own.result().status for own in coming] == [504] * 3
        assert waiting(client) == 0
        system.open.set()
        assert client.json("/v1/ground", {"text": "another"}).status == 200
    assert len(system.batches) == 2


def test_a_client_that_leaves_is_not_worked_for():
    system = System()
    with served(system, Limits(), batch_size=1) as client, ThreadPoolExecutor(1) as clients:
        system.open.clear()
        first = clients.submit(client.json, "/v1/ground", {"text": "first"})
        until(lambda: number(client, "rivegs_held_bytes"))
        body, kind = form({"text": "left"})
        head = f"POST /v1/ground HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.port)) as own:
            own.sendall(head.encode() + body)
            until(lambda: waiting(client) == 1)
        until(lambda: waiting(client) == 0)
        system.open.set()
        assert first.result().status == 200
        assert number(client, 'rivegs_refused_total{reason="disconnected"}') == 1
    assert system.batches == [("first",)]


def raw(client: Client, *parts: bytes) -> bytes:
    """What comes back for bytes that are sent as they are."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as own:
        for part in parts:
            own.sendall(part)
        answer = b""
        while more := own.recv(65536):
            answer += more
        return answer


HEAD = b"POST /v1/ground HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_bodies_that_are_too_large_too_slow_or_too_many():
    system = System()
    limits = Limits(body_bytes=10_000, held_bytes=15_000, body_seconds=0.6)
    with served(system, limits) as client:
        declared = raw(client, HEAD + b"Content-Length: 20000\r\n\r\n", b"a" * 20000)
        chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
        growing = raw(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk, b"0\r\n\r\n")
        for answer in (declared, growing):
            assert answer.startswith(b"HTTP/1.1 413 "), answer
            assert b"larger than 10,000 bytes" in answer
        slow = raw(client, HEAD + b"Content-Length: 100\r\n\r\n", b"{")
        assert slow.startswith(b"HTTP/1.1 408 "), slow
        with socket.create_connection(("127.0.0.1", client.port)) as own:
            own.sendall(HEAD + b"Content-Length: 9000\r\n\r\n" + b" " * 8999)
            until(lambda: number(client, "rivegs_held_bytes") == 8999)
            full = raw(client, HEAD + b"Content-Length: 9000\r\n\r\n" + b" " * 9000)
            assert full.startswith(b"HTTP/1.1 503 "), full
            assert b"retry-after: 1" in full.lower()
        until(lambda: number(client, "rivegs_held_bytes") == 0)
        for reason, times in (("body too large", 2), ("slow", 1), ("no memory", 1)):
            assert number(client, f'rivegs_refused_total{{reason="{reason}"}}') == times, reason
    assert system.batches == []


def test_a_picture_of_too_many_pixels_is_refused_by_its_header():
    system = System()
    header = b"IHDR" + bytes.fromhex("000186a0000186a00802000000")
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + header + zlib.crc32(header).to_bytes(4, "big") + bytes(4) + b"IDAT"
    with served(system, Limits(pixels=1000)) as client:
        answer = client.post("/v1/ground", *form({"text": "a"}, png))
        assert answer.status == 422
        assert "pixels" in answer.json()["error"]["message"]
        small = b"BM" + bytes.fromhex("3a000000000000003600000028000000280000002800000001001800") + bytes(40)
        answer = client.post("/v1/ground", *form({"text": "a"}, small))
        assert (answer.status, answer.json()["error"]["message"]) == (
            413,
            "image: 40 x 40 is more than 1,000 pixels; make it smaller",
        )
    assert system.batches == []
