"""Asking an endpoint that speaks OpenAI's chat completions over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson

from rivegs_mllm.data.images import PictureError, file_stamp
from rivegs_mllm.llm.client import (
    Answer,
    Messages,
    OpenAIChat,
    Sampling,
    TeacherError,
    load_image,
    map_images,
    picture_paths,
)
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.store.fitted import replace_surrogates
from rivegs_mllm.types import UserError

MAX_BYTES = 4 * 2**20
"""The longest response that is read: far more than any answer asked for, and little enough for hundreds at a time."""

MAX_ERROR_BYTES = 2**16
"""The longest body of an error that is read."""

_JPEG_QUALITY = 92
_LONGEST_WAIT = 600.0  # seconds of a Retry-After, which a broken server may set to years
_SHOWN = 300
_RETRYABLE = (408, 409, 425, 429)  # time-out, conflict, too early, too many requests; and all from 500 on
_LONGEST_WORD = 200
"""Letters of a model's name or a reason to stop."""
_MOST_TOKENS = 2**53  # up to which JSON's numbers are exact; what is above counts no tokens
_SHORTEST_SECRET = 6
"""A shorter key is no secret, and would blot out words of answers that happen to be the same."""
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # 32 has zlib find out which of the two it is


class OpenAITeacher:
    """A client of ``chat.base_url``. It asks once; retrying is the caller's (``rivegs_mllm.llm.client.ask``).

    aiohttp and not the package openai: with that, a distilled request took 4.6 ms of processor time with 64 in flight,
    with this 0.7. Most went into walking over the messages' types and over the pool of connections.
    """

    def __init__(self, chat: OpenAIChat, sampling: Sampling):
        """Raises UserError where the key is not in the environment or stands in the address."""
        self.chat = chat
        self.key = _key(chat)
        self.url = f"{chat.base_url.rstrip('/')}/chat/completions"
        self.session: aiohttp.ClientSession | None = None  # made by the first question: it belongs to an event loop
        self.settings = {
            "model": chat.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            chat.max_tokens_field: sampling.max_tokens,
            "seed": sampling.seed,
            **({"stop": sampling.stop} if sampling.stop else {}),
            **chat.extra,
        }

    async def ask(self, messages: Messages) -> Answer:
        """One request. Raises TeacherError for a wrong key, an unknown model and an account without credit."""
        if picture_paths(messages):
            try:
                convert = partial(_image_part, max_side=self.chat.max_side)
                messages = await asyncio.to_thread(map_images, messages, convert)
            except PictureError as error:
                return Answer(error=str(error))
        start = time.perf_counter()
        try:
            response = await self._post(orjson.dumps({**self.settings, "messages": messages}))
        except asyncio.TimeoutError:
            return self._failed(start, f"no answer in {self.chat.timeout:g} seconds", retryable=True)
        except aiohttp.ClientResponseError:  # its message can hold a part of the key, should the endpoint repeat it
            return self._failed(start, "connection failed: the response is no HTTP", retryable=True)
        except aiohttp.ClientPayloadError:
            return self._failed(start, "connection failed: the response breaks off", retryable=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._failed(start, f"connection failed: {one_line(error)}", retryable=True)
        if response.status >= 300:
            return self._refused(start, response)
        if len(response.body) > MAX_BYTES:
            return self._failed(start, f"the response is longer than {MAX_BYTES:,} bytes, which no answer is")
        return self._read(start, response.body)

    async def close(self) -> None:
        """Closes the connections."""
        if self.session is not None:
            await self.session.close()

    async def _post(self, content: bytes) -> _Response:
        """The response to a request. No redirect is followed: a question holds a picture and goes nowhere but where the
        recipe says."""
        if self.session is None:
            self.session = _session(self.chat, self.key)
        async with self.session.post(self.url, data=content, allow_redirects=False) as response:
            most = MAX_BYTES if response.status < 300 else MAX_ERROR_BYTES
            parts, size = [], 0
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > most:
                    break
            body = _unzipped(b"".join(parts), response.headers.get("Content-Encoding", ""), most)
            return _Response(response.status, response.headers, body)

    def _read(self, start: float, body: bytes) -> Answer:
        """The answer in a body; whatever is not one becomes an error."""
        latency = time.perf_counter() - start
        try:
            value = _parse_json(body)
            choice = value["choices"][0]
            message = choice["message"]
            text = _text(message.get("content") or message.get("refusal") or "")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            # Cut short only after the key is hidden; the first cut bounds the work.
            shown = self._hidden(body[: 2 * MAX_ERROR_BYTES].decode("utf-8", "replace"))[:_SHOWN]
            return self._failed(start, f"the response is no chat completion: {shown!r}", retryable=True)
        usage = value.get("usage")
        usage = usage if type(usage) is dict else {}
        return Answer(
            text=self._hidden(text),
            finish_reason="refusal" if message.get("refusal") else self._word(choice.get("finish_reason")),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            latency=latency,
            model=self._word(value.get("model")),
        )

    def _refused(self, start: float, response: _Response) -> Answer:
        """The failed answer for a response of an error status. Raises TeacherError where no question can succeed."""
        status, headers = response.status, response.headers
        said, code = _said(response.body)
        message = " ".join(self._hidden(said).split())[:_SHOWN]
        where = f"{self.chat.base_url} ({self.chat.model}) answers {status}: {message}"
        if status < 400:
            target = self._hidden(headers.get("Location", "nowhere"))[:_SHOWN]
            raise TeacherError(
                f"{self.chat.base_url} ({self.chat.model}) redirects ({status}) to {target!r}; redirects are not "
                "followed: set teacher.base_url to where the endpoint is"
            )
        if status == 401:
            raise TeacherError(f"{where}; set {self.chat.api_key_env or 'teacher.api_key_env'} to a key that it knows")
        if status in (404, 405) or code == "model_not_found":
            raise TeacherError(f"{where}; check teacher.base_url (it mostly ends in /v1) and teacher.model")
        if status == 402 or code == "insufficient_quota":
            raise TeacherError(f"{where}; the account has no credit left; the same command resumes when it has")
        retryable = status in _RETRYABLE or status >= 500
        return self._failed(start, f"status {status}: {message}", retryable, _retry_after(headers))

    def _failed(self, start: float, error: str, retryable: bool = False, retry_after: float = 0.0) -> Answer:
        return Answer(
            error=self._hidden(error), latency=time.perf_counter() - start, retryable=retryable, retry_after=retry_after
        )

    def _hidden(self, text: str) -> str:
        """The text without the key, should an endpoint repeat it. To be called before anything is cut."""
        return text.replace(self.key, "***") if len(self.key) >= _SHORTEST_SECRET else text

    def _word(self, value: object) -> str:
        """A short text that an endpoint says beside its answer, "" where it is none."""
        return self._hidden(replace_surrogates(value))[:_LONGEST_WORD] if type(value) is str else ""


@dataclass(frozen=True, slots=True)
class _Response:
    """An HTTP response. ``body`` is uncompressed, and not whole where it is longer than what is read of one."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _session(chat: OpenAIChat, key: str) -> aiohttp.ClientSession:
    """Connections to the endpoint, through the proxy that the environment names; netrc files are not read."""
    address = urlsplit(chat.base_url)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # the caller says how many questions are open
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",  # an answer is short; what comes compressed all the same is read, too
            **({"Authorization": f"Bearer {key}"} if key else {}),
        },
        timeout=aiohttp.ClientTimeout(total=chat.timeout),
        proxy=None if proxy_bypass(address.hostname) else getproxies().get(address.scheme),
        auto_decompress=False,  # it unfolds without a bound
    )


def _key(chat: OpenAIChat) -> str:
    address = urlsplit(chat.base_url)
    if address.scheme not in ("http", "https") or not address.netloc:
        raise UserError(f"teacher.base_url: {chat.base_url!r} is no address such as http://localhost:8000/v1")
    if address.username or address.password or address.query:
        raise UserError(
            "teacher.base_url: holds a user, password or query; keys are read from teacher.api_key_env alone"
        )
    if chat.api_key_env is None:
        return ""
    key = os.environ.get(chat.api_key_env, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(f"teacher.api_key_env: {chat.api_key_env} holds characters that no key has; export it again")
    if not key:
        raise UserError(
            f"teacher.api_key_env: the environment has no {chat.api_key_env}; export it, or set api_key_env to null "
            "for an endpoint that wants no key"
        )
    return key


def _image_part(path: str, max_side: int) -> dict:
    """A picture as a data URL. Raises PictureError."""
    return {"type": "image_url", "image_url": {"url": _data_url(path, max_side, file_stamp(path))}}


@lru_cache(maxsize=128)
def _data_url(path: str, max_side: int, _stamp: tuple[int, int] | None) -> str:
    """Kept for the further names of a post and for second tries: a photo takes some 20 ms. ``_stamp`` is the file's,
    since another picture under the same name is another one."""
    data = io.BytesIO()
    load_image(path, max_side).save(data, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def _said(body: bytes) -> tuple[str, str]:
    """What the body of an error says, and its code, "" where it names none."""
    try:
        value = _parse_json(body)
        error = value.get("error", value) if type(value) is dict else value
        said = error.get("message", error) if type(error) is dict else error
        code = error.get("code") if type(error) is dict else ""
        return replace_surrogates(str(said)), code if type(code) is str else ""
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace"), ""


def _parse_json(body: bytes) -> dict:
    """A response's JSON. Half characters (lone surrogates) become U+FFFD: the answer is paid for and can be read."""
    try:
        return orjson.loads(body)
    except ValueError:
        return json.loads(body)


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return replace_surrogates(value)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST_TOKENS else None


def _unzipped(body: bytes, encoding: str, most: int) -> bytes:
    """A body as it was before it was compressed, ``most`` bytes and one more of it."""
    if encoding.lower() not in ("gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, most + 1)
    except zlib.error:
        return b"a compressed text that is damaged"


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for; 0 without one, and never more than _LONGEST_WAIT."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT) if seconds == seconds else 0.0  # not equal to itself: NaN
