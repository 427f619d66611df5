"""A server under load: python benchmarks/serve_load.py [--smoke] [--clients N] [--seconds S] [--model RUN]

Starts ``rivegs serve`` as a process of its own and asks it as many clients do: each posts a text with a picture, waits
for the answer, and posts again; told to come again later it does. Beside them some misbehave: they send broken
pictures, bodies that are too large, bytes one by one, and some leave before they are answered. An answer counts as
mixed if it is not that of its post: every text has a word of its own, and every client a picture of its own size.
Without --model a system stands in that takes 5 ms a post, so that what is measured is the server; with it, a trained
one. The tables are those of docs/serving.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
STAND_IN = """
import signal, sys, time
import rivegs_mllm.serving.server as server
from rivegs_mllm.pipeline import Pipeline
from rivegs_mllm.serving.limits import Limits
from rivegs_mllm.types import Entity, Prediction

def answer(samples, wanted, threshold):
    time.sleep(0.005 * len(samples))
    return [Prediction(own.id, entities=(Entity(own.tokens[0], "PER", (0, 1)),)) for own in samples]

server.load = lambda *_, **__: Pipeline(answer, ("PER",), ("entities",), "cpu", 16)
server.serve("a stand-in", "127.0.0.1", 0, Limits(body_seconds=3), None, ())
"""
COMMAND = "import sys; from rivegs_mllm.cli.main import main; sys.exit(main())"
ILL = ("broken picture", "damaged picture", "body too large", "slow client", "client that leaves")


@dataclass
class Seen:
    """What came of all that was sent: seconds of the answers, and what else there was, by kind."""

    seconds: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    put_off: int = 0
    elapsed: float = 0.0
    ill: Counter[tuple[str, str]] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)


def picture(width: int) -> bytes:
    """A JPEG of noise, ``width`` by 200 pixels."""
    pixels = np.random.default_rng(width).integers(0, 255, (200, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def post(text: str, image: bytes) -> aiohttp.FormData:
    """A post as a form."""
    form = aiohttp.FormData()
    form.add_field("text", text)
    form.add_field("image", image, filename="a.jpg", content_type="image/jpeg")
    return form


async def client(number: int, url: str, session: aiohttp.ClientSession, end: float, seen: Seen) -> None:
    """One that behaves, until the time is over; what it has asked then, it waits for."""
    image, width, asked = picture(200 + number), 200 + number, 0
    while time.perf_counter() < end:
        word, asked = f"C{number}x{asked}", asked + 1
        start = time.perf_counter()
        try:
            while True:
                async with session.post(f"{url}/v1/ground", data=post(f"{word} is here", image)) as reply:
                    answer = await reply.json()
                if reply.status not in (429, 503):
                    break
                seen.put_off += 1
                await asyncio.sleep(float(reply.headers["Retry-After"]) * random.uniform(0.5, 1.5))
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            seen.lost[type(error).__name__] += 1
            continue
        if reply.status != 200:
            seen.lost[str(reply.status)] += 1
            continue
        seen.seconds.append(time.perf_counter() - start)
        seen.mixed += answer["tokens"][0] != word or answer["size"] != [width, 200]


async def ill_use(kind: str, url: str, session: aiohttp.ClientSession, end: float, seen: Seen) -> None:
    """One that misbehaves in one way, again and again."""
    good = picture(300)
    while time.perf_counter() < end:
        what = "no answer"
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            if kind == "slow client":
                what = await dribble(url)
            elif kind == "client that leaves":
                what = await leave(url, post("a", good), session)
            elif kind == "body too large":
                what = await outcome(url, bytes(20 * 2**20), session)
            else:
                image = b"no picture" if kind == "broken picture" else good[: len(good) // 2]
                what = await outcome(url, post("a", image), session)
        seen.ill[kind, what] += 1
        await asyncio.sleep(0.1)


async def outcome(url: str, body: bytes | aiohttp.FormData, session: aiohttp.ClientSession) -> str:
    """The status, and whether an answer tells of errors."""
    async with session.post(f"{url}/v1/ground", data=body) as reply:
        answer = await reply.json()
    return f"{reply.status}, told in errors" if answer.get("errors") else str(reply.status)


async def dribble(url: str) -> str:
    """Sends a byte now and then; the status that ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    head = b"POST /v1/ground HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    writer.write(head)
    try:
        while True:
            writer.write(b" ")
            with contextlib.suppress(asyncio.TimeoutError):
                return (await asyncio.wait_for(reader.readline(), 0.5)).split()[1].decode()
    finally:
        writer.close()


async def leave(url: str, form: aiohttp.FormData, session: aiohttp.ClientSession) -> str:
    """Asks, and closes the connection soon after."""
    with contextlib.suppress(asyncio.TimeoutError):
        async with session.post(f"{url}/v1/ground", data=form, timeout=aiohttp.ClientTimeout(0.05)):
            return "answered before"
    return "left"


async def watch(process: int, end: float, seen: Seen) -> None:
    """Notes the server's memory twice a second."""
    own = psutil.Process(process)
    start = time.perf_counter()
    while time.perf_counter() < end:
        seen.memory.append((time.perf_counter() - start, own.memory_info().rss))
        await asyncio.sleep(0.5)


async def load_on(url: str, process: int, clients: int, seconds: float) -> Seen:
    """What comes of so many clients in so many seconds, and of two of each kind that misbehaves."""
    seen = Seen()
    start = time.perf_counter()
    end = start + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        works = [client(number, url, session, end, seen) for number in range(clients)]
        works += [ill_use(kind, url, session, end, seen) for kind in ILL for _ in range(2)]
        await asyncio.gather(*works, watch(process, end, seen))
    seen.elapsed = time.perf_counter() - start
    return seen


def report(seen: Seen, refused: str) -> None:
    """Prints the tables and the last line."""
    print("| misuse | what came of it | times |\n|---|---|---:|")
    for (kind, what), times in sorted(seen.ill.items()):
        print(f"| {kind} | {what} | {times} |")
    print(f"\nthe server's own counters: {refused}")
    rss = [size / 2**20 for _, size in seen.memory]
    third = max(1, len(rss) // 3)
    print(
        f"memory: {rss[0]:.0f} MB at the start; {np.mean(rss[third : 2 * third]):.0f} MB in the middle third, "
        f"{np.mean(rss[-third:]):.0f} MB in the last; {max(rss):.0f} MB at most"
    )
    rate = len(seen.seconds) / seen.elapsed
    print(f"{rate:.1f} posts a second; {seen.put_off} times told to come again; lost: {dict(seen.lost)}")
    p50, p95, p99 = (1000 * np.percentile(seen.seconds, (50, 95, 99))).round()
    lost = sum(seen.lost.values())
    print(
        f"serve: {len(seen.seconds)} answered, {lost} lost, {seen.mixed} mixed, "
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms"
    )


async def refusals(url: str) -> str:
    """The server's own counts of what it did not answer."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
        found = re.findall(r'rivegs_refused_total{reason="(.*)"} (\d+)', await reply.text())
    return ", ".join(f"{reason} {number}" for reason, number in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="20 clients for 5 seconds")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", help="a trained run, in the place of the stand-in")
    args = parser.parse_args()
    clients, seconds = (20, 5.0) if args.smoke else (args.clients, args.seconds)
    words = ["-c", COMMAND, "serve", args.model, "--port", "0"] if args.model else ["-c", STAND_IN]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True) as server:
        url = re.search(r"http://\S+", server.stdout.readline())[0]
        seen = asyncio.run(load_on(url, server.pid, clients, seconds))
        refused = asyncio.run(refusals(url))
        server.send_signal(signal.SIGTERM)
        code = server.wait(120)
    print(f"{clients} clients for {seconds:g} s; the server ended with {code}")
    report(seen, refused)
    return int(bool(code or seen.lost or seen.mixed))


if __name__ == "__main__":
    sys.exit(main())
