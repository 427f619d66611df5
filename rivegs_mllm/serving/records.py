"""What clients send and are sent, as JSON has it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rivegs_mllm.types import Box, Mask

_STRICT = ConfigDict(extra="forbid", strict=True)
_AS_SENT = ConfigDict(extra="forbid")

Text = Annotated[str | list[str], Field(description="The post's text, or its tokens.")]
Image = Annotated[
    str | None,
    Field(description="The picture's file in base64, as a data: URL if you like. Paths and URLs are not opened."),
]
Segments = Annotated[
    list[str] | None,
    Field(description="The fields to fill, such as entities and visible; fewer are quicker. All where left out."),
]
Threshold = Annotated[
    float | None, Field(ge=0, le=1, description="The visible_score from which on an entity counts as visible.")
]
Masks = Annotated[
    bool | None, Field(description="Whether to segment what is boxed, where the system has a segmenter (it does then).")
]


class PostRequest(BaseModel):
    """A post: a text and a picture."""

    model_config = _STRICT
    text: Text
    image: Image = None


class GroundRequest(BaseModel):
    """A post, and what is wanted of it."""

    model_config = _STRICT
    text: Text
    image: Image = None
    segments: Segments = None
    threshold: Threshold = None
    masks: Masks = None


class BatchRequest(BaseModel):
    """Several posts, and what is wanted of each."""

    model_config = _STRICT
    posts: list[PostRequest] = Field(min_length=1)
    segments: Segments = None
    threshold: Threshold = None
    masks: Masks = None


class EntityRecord(BaseModel):
    """An entity. ``span`` is in tokens and ``characters`` in those of the text, both end-exclusive; boxes and masks are
    in pixels of the upright picture."""

    model_config = _AS_SENT
    text: str
    type: str
    span: tuple[int, int] | None
    characters: tuple[int, int] | None
    expression: str
    visible: bool | None
    visible_score: float | None
    boxes: list[Box]
    masks: list[Mask]


class Times(BaseModel):
    """Seconds that a post waited and that the system took; ``together`` is how many posts were answered at once."""

    model_config = _AS_SENT
    waited: float
    took: float
    together: int


class GroundAnswer(BaseModel):
    """A post with its entities. ``size`` is (width, height) of the upright picture; ``raw`` the model's answer as it
    came; ``errors`` what of it, or of the post, could not be read."""

    model_config = _AS_SENT
    text: str
    tokens: list[str]
    entities: list[EntityRecord]
    knowledge: str
    raw: str
    errors: list[str]
    size: tuple[int, int] | None
    times: Times


class BatchAnswer(BaseModel):
    """The posts in their order."""

    model_config = _AS_SENT
    posts: list[GroundAnswer]


class ErrorBody(BaseModel):
    """``message`` is one line that says what to do."""

    model_config = _AS_SENT
    message: str
    code: int


class ErrorAnswer(BaseModel):
    """Of every answer that is not 200."""

    model_config = _AS_SENT
    error: ErrorBody
