"""Posts of all clients, answered together as they come."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rivegs_mllm.pipeline import Pipeline, Post
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.runtime.post_errors import kinds_of
from rivegs_mllm.serving.limits import Refusal
from rivegs_mllm.serving.metrics import Metrics


@dataclass(frozen=True)
class AskedPost:
    """A post to be answered: its text or tokens, the bytes of its picture, and the picture's (width, height)."""

    text: str | tuple[str, ...]
    picture: bytes | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Options:
    """The fields to be filled, and the threshold where another than the system's is to decide."""

    fields: tuple[str, ...]
    threshold: float | None = None


@dataclass(frozen=True)
class Answered:
    """A post's answer, the seconds that it waited and that the system took, and how many posts were answered with it,
    itself among them."""

    post: Post
    waited: float
    took: float
    together: int


@dataclass(eq=False)
class _Job:
    asked: AskedPost
    options: Options
    answer: asyncio.Future[Answered | Refusal]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """A queue of at most ``queue`` posts before one system.

    The system answers up to ``batch_size`` posts at a time in a thread of its own, those of the same options together.
    While it does, others gather: under load batches are full, and without it no post waits for others.
    """

    def __init__(self, pipeline: Pipeline, batch_size: int, queue: int, metrics: Metrics):
        self.pipeline = pipeline
        self.batch_size = batch_size
        self.queue = queue
        self.metrics = metrics
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "answering")
        self._seconds_a_post = 0.0

    def submit(self, posts: Sequence[AskedPost], options: Options) -> list[asyncio.Future[Answered | Refusal]]:
        """The answers to come; one that is cancelled is no longer worked on. Raises Refusal where there is no room for
        all of them."""
        waiting = self.waiting()
        if waiting + len(posts) > self.queue:
            seconds = max(1, math.ceil(self._seconds_a_post * waiting))
            raise Refusal(429, "queue full", f"{waiting} posts wait already; try again in {seconds} s", seconds)
        loop = asyncio.get_running_loop()
        jobs = [_Job(post, options, loop.create_future()) for post in posts]
        self._jobs.extend(jobs)
        self._arrived.set()
        return [job.answer for job in jobs]

    def waiting(self) -> int:
        """How many posts wait, without those whose clients have given up."""
        if any(job.answer.done() for job in self._jobs):
            self._jobs = deque(job for job in self._jobs if not job.answer.done())
        self.metrics.waiting.set(len(self._jobs))
        return len(self._jobs)

    async def run(self) -> None:
        """Answers posts until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                self._arrived.clear()
                continue
            start = time.perf_counter()
            posts = [job.asked for job in batch]
            answers = await loop.run_in_executor(self._thread, self._answer, posts, batch[0].options)
            took = time.perf_counter() - start
            self._count(answers, took)
            for job, answer in zip(batch, answers, strict=True):
                if job.answer.done():  # its client has given up meanwhile
                    continue
                if isinstance(answer, Post):
                    answer = Answered(answer, start - job.since, took, len(batch))
                job.answer.set_result(answer)

    def _next(self) -> list[_Job]:
        """The post that has waited longest, and those that can be answered together with it."""
        self.waiting()
        batch: list[_Job] = []
        rest: deque[_Job] = deque()
        for job in self._jobs:
            fits = len(batch) < self.batch_size and (not batch or job.options == batch[0].options)
            (batch if fits else rest).append(job)
        self._jobs = rest
        self.metrics.waiting.set(len(rest))
        return batch

    def _answer(self, posts: Sequence[AskedPost], options: Options) -> list[Post | Refusal]:
        """In the thread. What fails at several posts is tried with each, so that none fails for another's sake."""
        pairs = [(post.text, post.picture) for post in posts]
        try:
            return list(self.pipeline.batch(pairs, len(pairs), segments=options.fields, threshold=options.threshold))
        except Exception as error:  # whatever a model raises, the server goes on
            logging.getLogger(__name__).exception("posts failed")
            if len(posts) == 1:
                return [Refusal(500, "failed", f"the post could not be answered: {one_line(error)}")]
        return [answer for post in posts for answer in self._answer([post], options)]

    def _count(self, answers: Sequence[Post | Refusal], took: float) -> None:
        each = took / len(answers)
        self._seconds_a_post = 0.8 * self._seconds_a_post + 0.2 * each if self._seconds_a_post else each
        self.metrics.together.observe(len(answers))
        self.metrics.model_seconds.observe(took)
        for answer in answers:
            if isinstance(answer, Refusal):
                continue
            self.metrics.posts.inc()
            for kind in kinds_of(answer.prediction):
                self.metrics.post_errors.labels(kind).inc()
