"""A client that does what it is told, also what is wrong."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """A server's answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Of a server on this machine; a connection a request."""

    port: int

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Reply:
        """A page."""
        return self._asked("GET", path, None, {})

    def post(self, path: str, body: bytes, kind: str) -> Reply:
        """A body of a media type."""
        return self._asked("POST", path, body, {"Content-Type": kind})

    def json(self, path: str, content: object) -> Reply:
        """A body of JSON."""
        return self.post(path, json.dumps(content).encode(), "application/json")

    def _asked(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


def form(fields: dict[str, str], picture: bytes | None = None) -> tuple[bytes, str]:
    """A form's body and media type, with a picture as a file."""
    edge = "----------------an-edge"
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if picture is not None:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
        parts += [head.encode(), picture, b"\r\n"]
    return b"".join([*parts, f"--{edge}--\r\n".encode()]), f"multipart/form-data; boundary={edge}"
