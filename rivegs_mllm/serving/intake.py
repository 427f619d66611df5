"""Bodies of requests, read within bounds before anything else sees them."""

from __future__ import annotations

import asyncio
import contextlib

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rivegs_mllm.serving.limits import Limits, Refusal
from rivegs_mllm.serving.metrics import Metrics

_DISCARD_SECONDS = 5.0
"""How long the rest of a body that is refused is read and thrown away: a client that still sends sees no answer."""


class _GoneError(Exception):
    """The client left."""


class _Body:
    """A request's body as it comes."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self._parts.append(part)

    def whole(self) -> bytes:
        """All of it, which is then kept here no longer."""
        joined = b"".join(self._parts)
        self._parts.clear()
        return joined


class Intake:
    """Hands requests on to an application when their bodies are whole.

    Bounded are a body's size and the time it takes, whatever its headers say, and the bytes of all requests until they
    are answered. So a slow client costs a buffer and no more.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics):
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = _Body()
        try:
            await self._read(scope, receive, body)
            await self.app(scope, _replayed(body.whole(), receive), send)
        except _GoneError:
            self.metrics.refused.labels("disconnected").inc()
        except Refusal as refusal:
            self.metrics.refused.labels(refusal.reason).inc()
            headers = {**refusal.headers(), "Connection": "close"}
            answer = Response(orjson.dumps(refusal.body()), refusal.status, headers, "application/json")
            await answer(scope, receive, send)
        finally:
            self._hold(-body.size)

    async def _read(self, scope: Scope, receive: Receive, body: _Body) -> None:
        """Reads the body. Raises Refusal for one that is too large or too slow, or comes at a time when
        there is no room; _GoneError."""
        declared = Headers(scope=scope).get("content-length", "")
        try:
            if declared.isdecimal():
                self._check(int(declared), int(declared))
            await asyncio.wait_for(self._fill(receive, body), self.limits.body_seconds)
        except asyncio.TimeoutError:
            raise Refusal(408, "slow", f"the request took over {self.limits.body_seconds:g} s to arrive") from None
        except Refusal:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive), _DISCARD_SECONDS)
            raise

    async def _fill(self, receive: Receive, body: _Body) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            self._check(body.size + len(part), len(part))
            body.add(part)
            self._hold(len(part))
            if not message.get("more_body", False):
                return

    def _check(self, size: int, more: int) -> None:
        limits = self.limits
        if size > limits.body_bytes:
            raise Refusal(413, "body too large", f"the request is larger than {limits.body_bytes:,} bytes")
        if self.held + more > limits.held_bytes:
            raise Refusal(503, "no memory", "the server holds as many requests as it has memory for", 1)

    def _hold(self, size: int) -> None:
        self.held += size
        self.metrics.held.set(self.held)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the whole body first, and then what comes after it: that the client leaves."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _discard(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
