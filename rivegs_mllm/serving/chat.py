"""The same for clients of OpenAI's chat completions: a post in a message, its entities as JSON in the answer."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rivegs_mllm.serving.limits import Refusal

_REST = ConfigDict(extra="ignore")  # clients send sampling settings, which do not concern a post's entities


class TextPart(BaseModel):
    """A part of a message that is text."""

    model_config = _REST
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    """A picture as a data: URL; others are not fetched."""

    model_config = _REST
    url: str


class ImagePart(BaseModel):
    """A part of a message that is a picture."""

    model_config = _REST
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """What one side says."""

    model_config = _REST
    role: str
    content: str | list[Part]


class ChatRequest(BaseModel):
    """The last message of the user is the post; those before it are not read."""

    model_config = _REST
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    n: int = 1


def post_of(chat: ChatRequest) -> tuple[str, str | None]:
    """The post's text, and its picture in base64. Raises Refusal for what cannot be done with posts."""
    if chat.stream or chat.n != 1:
        raise Refusal(422, "unreadable", "stream, n: a post has one answer, in one piece; leave them out")
    said = next((message.content for message in reversed(chat.messages) if message.role == "user"), None)
    if said is None:
        raise Refusal(422, "unreadable", "messages: none is the user's")
    parts = [TextPart(type="text", text=said)] if isinstance(said, str) else said
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(urls) > 1:
        raise Refusal(422, "unreadable", f"messages: {len(urls)} pictures; a post has one at most")
    if urls and not urls[0].startswith("data:"):
        raise Refusal(422, "no picture", "image_url: not a data: URL; others are not fetched")
    return " ".join(part.text for part in parts if isinstance(part, TextPart)), urls[0] if urls else None


def completion(model: str, content: str) -> dict[str, Any]:
    """An answer in the shape of a chat completion. No tokens are counted: the system need not be one model."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
    }
