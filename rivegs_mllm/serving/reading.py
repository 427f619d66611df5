"""Posts as clients send them, checked before anything is queued or decoded."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rivegs_mllm.data.images import PictureError, picture_size
from rivegs_mllm.pipeline import Pipeline
from rivegs_mllm.pipeline.system import read_text
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.serving.batcher import AskedPost, Options
from rivegs_mllm.serving.limits import Limits, Refusal
from rivegs_mllm.serving.records import GroundRequest
from rivegs_mllm.types import UserError

Model = TypeVar("Model", bound=BaseModel)


async def read_ground(request: Request) -> tuple[GroundRequest, bytes | None]:
    """A request in JSON or as a form, and the bytes of the picture where the form has it as a file. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return read_json(GroundRequest, await request.body()), None
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise Refusal(415, "unreadable", f"send application/json or multipart/form-data, not {kind or 'nothing'!r:.80}")
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            words = {key: value for key, value in form.multi_items() if isinstance(value, str)}
            files = [(key, await value.read()) for key, value in form.multi_items() if isinstance(value, UploadFile)]
    except HTTPException as error:
        raise Refusal(400, "unreadable", f"the form cannot be read: {error.detail}") from None
    except Exception as error:  # parsers raise whatever a damaged form makes them raise
        raise Refusal(400, "unreadable", f"the form cannot be read: {one_line(error)}") from None
    if any(key != "image" for key, _ in files):
        raise Refusal(422, "unreadable", f"{files[0][0]:.80}: a file; the picture's field is image")
    return _checked(GroundRequest, _typed(words)), (files[0][1] or None) if files else None


def read_json(kind: type[Model], body: bytes) -> Model:
    """A request's body as a record of a kind. Raises Refusal."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(422, "unreadable", validation_message(error.errors())) from None


def _checked(kind: type[Model], values: dict[str, object]) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Refusal(422, "unreadable", validation_message(error.errors())) from None


def _typed(words: dict[str, str]) -> dict[str, object]:
    """The fields of a form as JSON would have them. Those that are empty are left out, but for the text."""
    values: dict[str, object] = {key: word for key, word in words.items() if word or key == "text"}
    if "segments" in values:
        values["segments"] = [name.strip() for name in words["segments"].split(",")]
    if "threshold" in values:
        try:
            values["threshold"] = float(words["threshold"])
        except ValueError:
            raise Refusal(422, "unreadable", f"threshold: {words['threshold']!r:.80} is not a number") from None
    if "masks" in values:
        known = {"true": True, "false": False}
        if words["masks"] not in known:
            raise Refusal(422, "unreadable", f"masks: {words['masks']!r:.80} is neither true nor false")
        values["masks"] = known[words["masks"]]
    return values


def validation_message(errors: Sequence[dict]) -> str:
    """The first of the errors that pydantic found, as one line."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "str", "list[str]"))
    return f"{place[:200] or 'the body'}: {first['msg']}"


def asked_post(text: str | list[str], picture: bytes | None, limits: Limits) -> AskedPost:
    """A post whose text can be read and whose picture is one by its header. Raises Refusal."""
    length = len(text) if isinstance(text, str) else sum(map(len, text)) + len(text)
    if length > limits.characters:
        raise Refusal(413, "text too long", f"text: {length:,} characters are more than {limits.characters:,}")
    try:
        read_text(text)
    except UserError as error:
        raise Refusal(422, "unreadable", f"text: {error}") from None
    text = text if isinstance(text, str) else tuple(text)
    if picture is None:
        return AskedPost(text)
    try:
        size = picture_size(io.BytesIO(picture))
    except PictureError as error:
        raise Refusal(422, "no picture", f"image: {error}") from None
    if size[0] * size[1] > limits.pixels:
        message = f"image: {size[0]} x {size[1]} is more than {limits.pixels:,} pixels; make it smaller"
        raise Refusal(413, "picture too large", message)
    return AskedPost(text, picture, size)


def decoded(image: str | None) -> bytes | None:
    """The bytes of a picture in base64. Raises Refusal for what is none, such as a path or a URL."""
    if image is None:
        return None
    head, comma, rest = image.partition(",")
    data = rest if comma and head.startswith("data:") and head.endswith(";base64") else image
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            422, "no picture", "image: not base64; a path or URL is not opened, send the picture itself"
        ) from None


def read_options(
    pipeline: Pipeline, segments: list[str] | None, threshold: float | None, masks: bool | None
) -> Options:
    """What is wanted, as the system has it. Raises Refusal for what it does not fill."""
    if masks and "masks" not in pipeline.fields:
        raise Refusal(422, "unreadable", "masks: the system has no segmenter; serve a cascade that has one")
    try:
        fields = pipeline.fields if masks else pipeline.wanted(segments)
    except UserError as error:
        raise Refusal(422, "unreadable", str(error)) from None
    if masks is False:
        fields = tuple(name for name in fields if name != "masks")
    return Options(fields, threshold)
