"""What a server takes on, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of single requests, and of all that a server holds at a time.

    ``queue`` and ``posts`` are posts: those that wait, and those of one request. ``deadline`` is the seconds from a
    request's last byte to its answer, ``body_seconds`` those from its first byte to its last. ``body_bytes`` is one
    request's size, ``held_bytes`` that of all requests that are being read, waiting or being answered. ``characters``
    is a post's text, ``pixels`` a picture's, by its header.
    """

    queue: int = 256
    posts: int = 64
    deadline: float = 60.0
    body_seconds: float = 30.0
    body_bytes: int = 16 * 2**20
    held_bytes: int = 512 * 2**20
    characters: int = 20_000
    pixels: int = 50_000_000


class Refusal(Exception):  # noqa: N818  (it is an answer to a client, not a fault)
    """A request that is not answered: the HTTP ``status``, one line for the client, the ``reason`` that metrics count
    it by, and the seconds after which to try again, where that helps."""

    def __init__(self, status: int, reason: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        """The answer as JSON; clients of OpenAI look for the message there, too."""
        return error_body(self.status, str(self))

    def headers(self) -> dict[str, str]:
        """Those that go with it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def error_body(status: int, message: str) -> dict[str, object]:
    """What every answer that is an error holds; the message is one line."""
    return {"error": {"message": " ".join(message.split()), "code": status}}
