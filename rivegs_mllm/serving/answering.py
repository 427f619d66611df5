"""Waiting for answers: until they are there, the deadline is over, or the client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from rivegs_mllm.serving.batcher import Answered, AskedPost, Batcher, Options
from rivegs_mllm.serving.limits import Refusal


async def answers(
    batcher: Batcher, posts: Sequence[AskedPost], options: Options, request: Request, deadline: float
) -> list[Answered]:
    """The answers to a request's posts, in their order. Raises Refusal; then none of them is worked on further."""
    submitted = batcher.submit(posts, options)
    coming, left = asyncio.ensure_future(_all(submitted)), asyncio.ensure_future(_left(request))
    try:
        done, _ = await asyncio.wait({coming, left}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if coming in done:
            return coming.result()
        if left in done:
            raise Refusal(499, "disconnected", "the client left")
        raise Refusal(504, "deadline", f"no answer within {deadline:g} s; try again when there is less to do")
    finally:
        for waited_for in (coming, left, *submitted):
            waited_for.cancel()


async def _all(submitted: Sequence[asyncio.Future[Answered | Refusal]]) -> list[Answered]:
    found = [await own for own in submitted]
    for own in found:
        if isinstance(own, Refusal):
            raise own
    return [own for own in found if isinstance(own, Answered)]


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def record(answered: Answered, asked: AskedPost) -> dict[str, object]:
    """An answer as a client is sent it: a ``GroundAnswer``."""
    times = {"waited": answered.waited, "took": answered.took, "together": answered.together}
    return {**answered.post.to_dict(), "size": asked.size, "times": times}
