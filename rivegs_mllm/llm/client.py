"""Teachers: language models that answer in the chat format, whatever runs them.

A question is a list of messages as transformers and OpenAI have them: ``{"role", "content"}``, the content a text or a
list of ``{"type": "text", "text": ...}`` and ``{"type": "image", "path": ...}``. Pictures are named by their file; a
teacher opens them when it is asked and sends them as data URLs where it sends them at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Protocol

import draccus
import orjson
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, stop_before_delay

from rivegs_mllm.config.bounds import (
    BatchSize,
    Bounds,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveInt,
    Seed,
    Side,
    TokenCount,
)
from rivegs_mllm.data.images import PictureError, open_for_model, picture_digest
from rivegs_mllm.types import UserError

Messages = list[dict]


class TeacherError(UserError):
    """A teacher that can answer no question at all: wrong key, wrong model, no credit. Says what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a question: ``text``, or ``error``, which says why there is none.

    ``finish_reason`` is "stop", "length" where the answer was truncated, or another reason. Tokens are None
    where the teacher does not count them. ``latency`` is the seconds of the last attempt, ``attempts`` how many there
    were. ``model`` is the model that answered, as the teacher calls it. ``retryable`` says whether the same question
    may be answered another time, not before ``retry_after`` seconds are over.
    """

    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency: float = 0.0
    error: str = ""
    model: str = ""
    retryable: bool = False
    retry_after: float = 0.0
    attempts: int = 1


@dataclass(frozen=True)
class Sampling:
    """How an answer is sampled. ``temperature`` 0 is greedy; ``max_tokens`` is the length of the longest answer."""

    temperature: Annotated[float, Bounds(0, 100)] = 0.0
    top_p: Annotated[float, Bounds(above=0, high=1)] = 1.0
    max_tokens: TokenCount = 256
    seed: Seed = 0
    stop: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RetryPolicy:
    """When a question is asked again: ``attempts`` in all and no new one after ``seconds`` from the first.

    Between two attempts it waits a random time, up to ``first_wait`` seconds and twice as much after each,
    ``last_wait`` at most ("full jitter"), and longer where the teacher asks for it.
    """

    attempts: Annotated[int, Bounds(1, 1000)] = 6
    seconds: NonNegativeFloat = 300.0
    first_wait: NonNegativeFloat = 1.0
    last_wait: NonNegativeFloat = 60.0


class Teacher(Protocol):
    """An open teacher. It may be asked many questions at a time, all from one event loop."""

    async def ask(self, messages: Messages) -> Answer:
        """One attempt. What is wrong with this question alone is the answer's ``error``. Raises TeacherError."""

    async def close(self) -> None:
        """Releases connections and memory."""


class Chat(draccus.ChoiceRegistry):
    """The settings of a teacher: ``type:`` is openai, vllm, hf or replay."""

    @property
    @abstractmethod
    def identity(self) -> dict:
        """The settings that make it another teacher where they change, ``teacher`` (its name) and ``revision`` among
        them."""

    @abstractmethod
    def open(self, sampling: Sampling) -> Teacher:
        """The teacher, ready to be asked. Raises UserError where it cannot be had."""


@Chat.register_subclass("openai")
@dataclass
class OpenAIChat(Chat):
    """Any endpoint that speaks OpenAI's chat completions: OpenAI, vllm serve, transformers serve, llama.cpp ..."""

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    """The environment variable that holds the key; null for an endpoint that wants none."""
    name: str | None = None
    """The teacher's name in stores; the model's name where null."""
    revision: str = ""
    """Which version of the model this is, where its name does not say it."""
    timeout: Annotated[float, Bounds(above=0, high=86400)] = 120.0
    """Seconds in which an answer must have come."""
    max_side: Side = 1024
    """The longer side of a picture as it is sent, in pixels; larger ones are made smaller."""
    max_tokens_field: str = "max_tokens"
    """The request's field for the longest answer; OpenAI's reasoning models want max_completion_tokens."""
    extra: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Further fields of the request."""

    @property
    def identity(self) -> dict:
        """Its name, model, revision, pictures and further fields; where it is served does not matter."""
        names = {"teacher": self.name or self.model, "model": self.model, "revision": self.revision}
        return {**names, "max_side": self.max_side, "extra": self.extra}

    def open(self, sampling: Sampling) -> Teacher:
        """A client. Raises UserError where the key is not in the environment."""
        from rivegs_mllm.llm.openai_client import OpenAITeacher  # aiohttp is of the extra `distill`

        return OpenAITeacher(self, sampling)


@Chat.register_subclass("hf")
@dataclass
class HFChat(Chat):
    """A model in this process, through transformers: a language model or a multimodal one.

    ``model`` is a folder, a hub id, or ``package:NAME/FOLDER``, a folder inside an installed package.
    """

    model: str
    gguf_file: str | None = None
    """A GGUF file in that folder or repository."""
    name: str | None = None
    revision: str | None = None
    batch_size: BatchSize = 8
    dtype: str = "auto"
    device: str = "auto"
    """auto, cpu, or a device such as cuda:0; auto spreads the model over what there is."""
    max_side: Side = 1024

    @property
    def identity(self) -> dict:
        """Its name, weights and numbers. A model in a folder is known by the folder's own name, wherever it lies."""
        model = Path(self.model).name if Path(self.model).is_dir() else self.model
        names = {"teacher": self.name or model, "model": model, "revision": self.revision or ""}
        return {**names, "gguf_file": self.gguf_file, "dtype": self.dtype, "max_side": self.max_side}

    def open(self, sampling: Sampling) -> Teacher:
        """The loaded model."""
        from rivegs_mllm.llm.transformers_client import HFTeacher

        return HFTeacher(self, sampling)


@Chat.register_subclass("vllm")
@dataclass
class VLLMChat(Chat):
    """A model in this process, through vLLM's continuous batching, over the GPUs of one or many machines."""

    model: str
    name: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel_size: PositiveInt = 1
    data_parallel_size: PositiveInt = 1
    executor: Annotated[str, OneOf(("mp", "ray"))] = "mp"
    """``mp`` for the GPUs of this machine, ``ray`` for those of a Ray cluster that this machine is in."""
    gpu_memory_utilization: Annotated[float, Bounds(above=0, high=1)] = 0.9
    max_model_len: TokenCount | None = None
    pictures: NonNegativeInt = 1
    """How many pictures a question may hold."""
    max_side: Side = 1024

    @property
    def identity(self) -> dict:
        """Its name, weights and numbers; how many GPUs share the work does not matter."""
        names = {"teacher": self.name or self.model, "model": self.model, "revision": self.revision or ""}
        return {**names, "dtype": self.dtype, "quantization": self.quantization, "max_side": self.max_side}

    def open(self, sampling: Sampling) -> Teacher:
        """The engine, started."""
        from rivegs_mllm.llm.transformers_client import VLLMTeacher

        return VLLMTeacher(self, sampling)


@Chat.register_subclass("replay")
@dataclass
class ReplayChat(Chat):
    """The answers that a store holds to the very same questions. No model is asked."""

    store: Path
    teacher: str | None = None
    """The name of the teacher whose answers are taken; null for those of whichever answered first."""

    @property
    def identity(self) -> dict:
        """The name of whom it replays."""
        return {"teacher": self.teacher or "replay", "revision": ""}

    def open(self, sampling: Sampling) -> Teacher:
        """The store's answers by question. Raises UserError where there is no such store."""
        from rivegs_mllm.store.answer_store import answers_by_question

        return ReplayTeacher(answers_by_question(self.store, self.teacher), self.store)


class ReplayTeacher:
    """Answers from ``answers``, question digest to text."""

    def __init__(self, answers: dict[str, str], store: Path):
        self.answers = answers
        self.store = store

    async def ask(self, messages: Messages) -> Answer:
        """The stored text."""
        try:
            text = self.answers.get(question_digest(messages))
        except PictureError as error:
            return Answer(error=str(error))
        if text is None:
            return Answer(error=f"{self.store} holds no answer to this question; distil it first")
        return Answer(text, finish_reason="stop")

    async def close(self) -> None:
        """Nothing is held."""


async def ask(
    teacher: Teacher,
    messages: Messages,
    policy: RetryPolicy,
    may_try: Callable[[], bool] = lambda: True,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Answer | None:
    """The answer to a question after as many attempts as ``policy`` allows; the last one's where none succeeds.

    ``may_try`` is called before each attempt; where it returns False, nothing more is sent, and the answer of the
    attempt before is returned, or None. ``pause`` waits between two attempts, in seconds. Raises TeacherError.
    """
    last: Answer | None = None
    attempts = 0

    async def once() -> Answer | None:
        nonlocal last, attempts
        if not may_try():
            return None
        attempts += 1
        last = await teacher.ask(messages)
        return last

    retrying = AsyncRetrying(
        sleep=pause,
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(policy.seconds),
        wait=lambda state: _wait(policy, state),
        retry=retry_if_result(lambda answer: answer is not None and answer.retryable),
        retry_error_callback=lambda state: state.outcome.result(),
    )
    answer = await retrying(once) or last  # None where `may_try` stopped it after a failed attempt
    if answer is None:
        return None
    return replace(answer, attempts=attempts)


def _wait(policy: RetryPolicy, state: RetryCallState) -> float:
    longest = min(policy.last_wait, policy.first_wait * 2 ** (state.attempt_number - 1))
    return max(random.uniform(0, longest), state.outcome.result().retry_after)


class ChatClient:
    """A teacher for callers without an event loop: ``with ChatClient(chat) as client: answers = client(questions)``."""

    def __init__(
        self, chat: Chat, sampling: Sampling | None = None, max_concurrency: int = 16, policy: RetryPolicy | None = None
    ):
        """Opens the teacher. ``max_concurrency`` questions at most are asked at a time."""
        self.teacher = chat.open(sampling or Sampling())
        self.max_concurrency = max_concurrency
        self.policy = policy or RetryPolicy()
        self.loop = asyncio.new_event_loop()

    def __call__(self, questions: Sequence[Messages]) -> list[Answer]:
        """One answer a question, in order. Raises TeacherError."""
        return self.loop.run_until_complete(self._ask_all(questions))

    async def _ask_all(self, questions: Sequence[Messages]) -> list[Answer]:
        limit = asyncio.Semaphore(self.max_concurrency)

        async def one(messages: Messages) -> Answer:
            async with limit:
                return await ask(self.teacher, messages, self.policy)

        tasks = [asyncio.ensure_future(one(messages)) for messages in questions]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Releases connections and memory."""
        self.loop.run_until_complete(self.teacher.close())
        self.loop.close()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def question_digest(messages: Messages) -> str:
    """SHA-256 of what is asked, pictures by their files' bytes. Raises PictureError where one is missing."""
    by_content = map_images(messages, lambda path: {"type": "image", "sha256": picture_digest(path)})
    return hashlib.sha256(orjson.dumps(by_content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def answer_key(identity: dict, sampling: Sampling, question: str) -> str:
    """SHA-256 of who is asked, how the answer is drawn, and what is asked (``question``, from question_digest)."""
    parts = [identity, asdict(sampling), question]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def map_images(messages: Messages, convert: Callable[[str], dict]) -> Messages:
    """The messages with each picture, named by its file, as the part that ``convert`` makes of it."""
    return [
        turn
        if isinstance(turn["content"], str)
        else {
            **turn,
            "content": [convert(part["path"]) if part["type"] == "image" else part for part in turn["content"]],
        }
        for turn in messages
    ]


def picture_paths(messages: Messages) -> list[str]:
    """The files of the pictures in a question, in order."""
    parts = [part for turn in messages if not isinstance(turn["content"], str) for part in turn["content"]]
    return [part["path"] for part in parts if part["type"] == "image"]


def load_image(path: str, max_side: int) -> Image.Image:
    """The picture upright in RGB, its longer side ``max_side`` pixels at most. Raises PictureError."""
    return open_for_model(path, max_side)
