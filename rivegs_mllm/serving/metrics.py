"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_POSTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a ``registry`` of their own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("rivegs_requests", "Requests by path and status", ["path", "code"], registry=own)
        self.seconds = Histogram(
            "rivegs_request_seconds", "Seconds of a request", ["path"], registry=own, buckets=_SECONDS
        )
        self.refused = Counter("rivegs_refused", "Requests that were not answered, by reason", ["reason"], registry=own)
        self.posts = Counter("rivegs_posts", "Posts answered", registry=own)
        self.post_errors = Counter(
            "rivegs_post_errors", "Posts of which a part could not be read, by kind", ["kind"], registry=own
        )
        self.waiting = Gauge("rivegs_queue_posts", "Posts that wait", registry=own)
        self.held = Gauge("rivegs_held_bytes", "Bytes of requests at hand", registry=own)
        self.together = Histogram("rivegs_batch_posts", "Posts answered together", registry=own, buckets=_POSTS)
        self.model_seconds = Histogram(
            "rivegs_batch_seconds", "Seconds of the system for posts answered together", registry=own, buckets=_SECONDS
        )


class Observed:
    """Counts and times the requests of an application. ``paths`` are those told apart; all others are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self.app = app
        self.metrics = metrics
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        code = "none"  # of a client that left before it was answered

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = str(message["status"])
            await send(message)

        path = scope["path"] if scope["path"] in self.paths else "other"
        try:
            await self.app(scope, receive, noting)
        finally:
            self.metrics.requests.labels(path, code).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)
