"""A small OpenAI-compatible endpoint for tests and benchmarks, which counts what it is asked and can misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What the server sends. ``body`` None closes the connection without a word, ``cut`` in the middle of the body.

    ``times`` sends the body so often, ``pause`` waits so many seconds behind each, and ``raw`` is sent in place of all.
    """

    status: int = 200
    body: bytes | None = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    times: int = 1
    pause: float = 0.0
    raw: bytes = b""


def completion(text: str, finish_reason: str = "stop", model: str = "made-1", **usage: int) -> Reply:
    """A reply in the form of a chat completion."""
    used = {"prompt_tokens": 10, "completion_tokens": 5, **usage}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Reply(body=json.dumps({"id": "x", "model": model, "choices": [choice], "usage": used}).encode())


def text_of(request: dict) -> str:
    """The last turn's text."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


class ChatServer:
    """``with ChatServer(reply) as server``: ``reply(request, number)`` says what to send, in the order of arrival.

    ``asked`` counts the requests by the text of their last turn, ``requests`` holds them, ``headers`` theirs, ``most``
    is how many were open at a time, and ``sent`` how many bytes went out.
    """

    def __init__(self, reply: Callable[[dict, int], Reply], keep: bool = True):
        self.reply = reply
        self.keep = keep
        self.asked: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.count = self.open = self.most = self.sent = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.ready = threading.Event()

    def __enter__(self) -> ChatServer:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    @property
    def url(self) -> str:
        """What goes into base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.count += 1
        number = self.count
        if self.keep:
            self.asked[text_of(request)] += 1
            self.requests.append(request)
            self.headers.append(headers)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            reply = self.reply(request, number)
            if reply.delay:
                await asyncio.sleep(reply.delay)
            return await self._send(writer, reply)
        finally:
            self.open -= 1

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        if reply.raw:
            writer.write(reply.raw)
            await writer.drain()
            return False
        if reply.body is None:
            return False
        length = len(reply.body) * reply.times
        fields = {"content-type": "application/json", "content-length": length, **reply.headers}
        head = f"HTTP/1.1 {reply.status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        writer.write(head.encode() + b"\r\n")
        for _ in range(reply.times):
            writer.write(body)
            await writer.drain()
            self.sent += len(body)
            if reply.pause:
                await asyncio.sleep(reply.pause)
        return not reply.cut
