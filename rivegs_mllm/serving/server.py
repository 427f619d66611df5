"""The process: a port, a system, and an end when it is told to."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from PIL import Image

from rivegs_mllm.pipeline import load
from rivegs_mllm.runtime.logs import warnings_on_console
from rivegs_mllm.serving.app import make_app
from rivegs_mllm.serving.limits import Limits
from rivegs_mllm.types import UserError

_BACKLOG = 2048


def serve(
    source: str | Path, host: str, port: int, limits: Limits, batch_size: int | None, overrides: Sequence[str]
) -> None:
    """Serves the system in ``source``, as ``load`` takes it, until SIGTERM or SIGINT; posts in hand are answered first.

    Port 0 is one that is free. Raises UserError for a port that cannot be had, before the system is loaded.
    """
    with _bound(host, port) as own:
        pipeline = load(source, batch_size=batch_size, overrides=overrides)
        pipeline("Ready ?", Image.new("RGB", (64, 64)))  # what is imported and allocated at a first post, is now
        config = uvicorn.Config(
            make_app(pipeline, str(source), limits),
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=int(limits.body_seconds + limits.deadline) + 1,
        )
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # When it has ended, uvicorn raises the signal that ended it once more, which would be the process's exit code.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else each damaged form is a line of the log
        own.listen(_BACKLOG)
        with warnings_on_console():
            print(f"serving {source} on {_url(own)} until Ctrl-C", flush=True)
            server.run(sockets=[own])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that holds the port and does not listen yet. Raises UserError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        own = socket.socket(family, kind, protocol)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--host {host} --port {port}: {why}") from None
    return own


def _url(own: socket.socket) -> str:
    host, port = own.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
