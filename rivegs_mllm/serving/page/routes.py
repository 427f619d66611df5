"""What a browser is given: the page, its style and script, and examples. All of it comes from this server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response

from rivegs_mllm.pages.colours import type_colours
from rivegs_mllm.pages.template import shared_style
from rivegs_mllm.pipeline import Pipeline
from rivegs_mllm.serving.page.examples import examples

_EXAMPLES = 6
_HEADERS = {
    # Nothing from elsewhere, and no script or style within the page: a post that holds HTML cannot run any.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, pipeline: Pipeline, name: str) -> None:
    """Adds the page at ``/``, and what it needs below ``/page``; OpenAPI does not tell of them."""
    folder = Path(__file__).parent
    ready = examples(_EXAMPLES)
    setup = {
        "model": name,
        "fields": pipeline.fields,
        "types": type_colours(pipeline.types),
        "examples": [{"text": own.text, "picture": f"/page/example-{number}.jpg"} for number, own in enumerate(ready)],
    }
    files = {
        "/": ((folder / "index.html").read_bytes(), "text/html"),
        "/page/page.js": ((folder / "page.js").read_bytes(), "text/javascript"),
        "/page/page.css": ((folder / "page.css").read_bytes(), "text/css"),
        "/page/base.css": (shared_style().encode(), "text/css"),
        "/page/setup.json": (orjson.dumps(setup), "application/json"),
        **{f"/page/example-{number}.jpg": (own.picture, "image/jpeg") for number, own in enumerate(ready)},
    }
    for path, (content, kind) in files.items():
        app.add_route(path, _sending(content, kind), include_in_schema=False)


def _sending(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return send
