"""The server's application around a system of the test's own, by uvicorn in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from http_client import Client

from rivegs_mllm.pipeline import Pipeline
from rivegs_mllm.pipeline.system import Answer
from rivegs_mllm.serving.app import make_app
from rivegs_mllm.serving.limits import Limits


@contextmanager
def local_server(system: Answer, fields: tuple[str, ...], limits: Limits, batch_size: int) -> Iterator[Client]:
    """A client of it, within the block."""
    pipeline = Pipeline(system, ("PER", "ORG"), fields, "cpu", batch_size)
    with socket.create_server(("127.0.0.1", 0)) as own:
        server = uvicorn.Server(uvicorn.Config(make_app(pipeline, "made", limits), log_config=None))
        thread = threading.Thread(target=server.run, args=([own],))
        thread.start()
        try:
            yield Client(own.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(60)
