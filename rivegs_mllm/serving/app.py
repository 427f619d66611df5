"""The application: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from rivegs_mllm.pipeline import Pipeline
from rivegs_mllm.runtime.post_errors import NOT_ANSWERED, kinds_of
from rivegs_mllm.serving.answering import answers, record
from rivegs_mllm.serving.batcher import Batcher
from rivegs_mllm.serving.chat import ChatRequest, completion, post_of
from rivegs_mllm.serving.documentation import BATCH_POSTS, CHAT_MESSAGES, DESCRIPTION, GROUND_BODY
from rivegs_mllm.serving.intake import Intake
from rivegs_mllm.serving.limits import Limits, Refusal, error_body
from rivegs_mllm.serving.metrics import Metrics, Observed
from rivegs_mllm.serving.page.routes import add_page
from rivegs_mllm.serving.reading import asked_post, decoded, read_ground, read_options, validation_message
from rivegs_mllm.serving.records import BatchAnswer, BatchRequest, ErrorAnswer, GroundAnswer

_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": why}
    for code, why in {
        413: "larger than the server takes",
        422: "not what the path takes, or not a picture",
        429: "too many posts wait; Retry-After says when to try again",
        504: "no answer within the deadline",
    }.items()
}


def make_app(pipeline: Pipeline, name: str, limits: Limits) -> FastAPI:
    """The application of one system, which clients are told the ``name`` of."""
    metrics = Metrics()
    batcher = Batcher(pipeline, pipeline.batch_size, limits.queue, metrics)

    @asynccontextmanager
    async def answering(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.ensure_future(batcher.run())
        yield
        running.cancel()

    app = FastAPI(
        title="RiVEGS-MLLM", description=DESCRIPTION, lifespan=answering, docs_url=None, redoc_url=None
    )  # the pages of FastAPI's documentation load their scripts from elsewhere
    _add_errors(app, metrics)
    _add_ground(app, pipeline, batcher, limits)
    _add_chat(app, pipeline, batcher, name, limits)
    _add_state(app, pipeline, batcher, name, metrics)
    add_page(app, pipeline, name)
    paths = frozenset(route.path for route in app.routes)
    app.add_middleware(Intake, limits=limits, metrics=metrics)
    app.add_middleware(Observed, metrics=metrics, paths=paths)
    return app


def _add_ground(app: FastAPI, pipeline: Pipeline, batcher: Batcher, limits: Limits) -> None:
    @app.post("/v1/ground", response_model=GroundAnswer, responses=_ERRORS, openapi_extra=GROUND_BODY)
    async def ground(request: Request) -> Response:
        """The entities of one post. The body is JSON, or a form with the picture as a file."""
        wanted, file = await read_ground(request)
        options = read_options(pipeline, wanted.segments, wanted.threshold, wanted.masks)
        asked = asked_post(wanted.text, decoded(wanted.image) if file is None else file, limits)
        (answered,) = await answers(batcher, [asked], options, request, limits.deadline)
        if NOT_ANSWERED in kinds_of(answered.post.prediction):
            raise Refusal(500, "failed", answered.post.errors[-1])
        return _json(record(answered, asked))

    @app.post("/v1/ground/batch", response_model=BatchAnswer, responses=_ERRORS, openapi_extra=BATCH_POSTS)
    async def ground_batch(wanted: BatchRequest, request: Request) -> Response:
        """The entities of several posts, in their order. One that could not be answered says so in its ``errors``."""
        if len(wanted.posts) > limits.posts:
            message = f"posts: {len(wanted.posts)} are more than the {limits.posts} that a request may have"
            raise Refusal(413, "too many posts", message)
        options = read_options(pipeline, wanted.segments, wanted.threshold, wanted.masks)
        asked = []
        for number, post in enumerate(wanted.posts):
            try:
                asked.append(asked_post(post.text, decoded(post.image), limits))
            except Refusal as refusal:
                raise Refusal(refusal.status, refusal.reason, f"posts.{number}: {refusal}") from None
        found = await answers(batcher, asked, options, request, limits.deadline)
        return _json({"posts": [record(*pair) for pair in zip(found, asked, strict=True)]})


def _add_chat(app: FastAPI, pipeline: Pipeline, batcher: Batcher, name: str, limits: Limits) -> None:
    @app.post("/v1/chat/completions", responses=_ERRORS, openapi_extra=CHAT_MESSAGES)
    async def chat(wanted: ChatRequest, request: Request) -> Response:
        """The entities of one post, for clients of OpenAI: the answer's content is the JSON of ``/v1/ground``."""
        text, image = post_of(wanted)
        asked = asked_post(text, decoded(image), limits)
        options = read_options(pipeline, None, None, None)
        (answered,) = await answers(batcher, [asked], options, request, limits.deadline)
        return _json(completion(name, orjson.dumps(record(answered, asked)).decode()))

    @app.get("/v1/models")
    async def models() -> Response:
        """The one system that is served."""
        return _json({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "rivegs"}]})


def _add_state(app: FastAPI, pipeline: Pipeline, batcher: Batcher, name: str, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        """What is served, and how many posts wait."""
        own = {"fields": pipeline.fields, "types": pipeline.types, "device": pipeline.device}
        return _json({"status": "ok", "model": name, **own, "waiting": batcher.waiting()})

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every answer that is an error is JSON of one shape, and counted by its reason."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        metrics.refused.labels(refusal.reason).inc()
        return _json(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        return await refused(request, Refusal(422, "unreadable", validation_message(error.errors())))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        said = f"{request.url.path:.200}: {error.detail}" if error.status_code in (404, 405) else str(error.detail)
        return _json(error_body(error.status_code, said), error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _json(error_body(500, "the server failed; its log says at what"), 500)


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
