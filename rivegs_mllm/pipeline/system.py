"""A loaded system that is called on posts: the end-to-end model, or a cascade with all its stages in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from rivegs_mllm.data.images import PictureError, picture_size
from rivegs_mllm.data.tokens import tokens_of
from rivegs_mllm.pipeline.pictures import Picture, as_file
from rivegs_mllm.pipeline.post import Post
from rivegs_mllm.runtime.post_errors import each_by_itself
from rivegs_mllm.types import Prediction, Sample, UserError

Text: TypeAlias = "str | Sequence[str]"
"""A text, in which tokens are found, or its tokens."""

Answer = Callable[[Sequence[Sample], "tuple[str, ...]", "float | None"], list[Prediction]]
"""Predictions of samples, in order, given the fields to be filled, and the threshold where another than the system's is
to decide. The samples' pictures are absolute paths."""

ROOT = Path("/")
"""The folder that those paths are relative to."""


class Pipeline:
    """A system that is loaded. Called on a post it gives a `Post`.

    ``types`` are the entity types it knows, ``fields`` what it fills, of "knowledge", "entities", "expressions",
    "visible", "boxes" and "masks"; ``device`` is where its model is.
    """

    def __init__(self, answer: Answer, types: Sequence[str], fields: Sequence[str], device: str, batch_size: int):
        self._answer = answer
        self.types = tuple(types)
        self.fields = tuple(fields)
        self.device = device
        self.batch_size = batch_size

    def __call__(
        self,
        text: Text,
        image: Picture = None,
        *,
        segments: Sequence[str] | None = None,
        threshold: float | None = None,
    ) -> Post:
        """The entities of one post. ``text`` is a string or its tokens, ``image`` a `Picture`: a path, bytes,
        a picture of Pillow, an array, or None. ``segments`` and ``threshold`` are as those of `load`, for this post.

        A text without tokens has no entities. Raises PictureError for a picture that cannot be opened or has more
        pixels than MAX_PIXELS, UserError for a text or picture of another kind, or for what the system does not fill.
        """
        (post,) = self._answered([(text, image)], self.wanted(segments), checked_threshold(threshold), strict=True)
        return post

    def batch(
        self,
        posts: Iterable[Text | tuple[Text, Picture]],
        batch_size: int | None = None,
        *,
        segments: Sequence[str] | None = None,
        threshold: float | None = None,
    ) -> Iterator[Post]:
        """The posts in their order, ``batch_size`` at a time. Each is a text, or a text and an image.

        What is wrong with a post is its own: one whose picture cannot be opened is answered from its text, and its
        ``errors`` say so. Raises UserError for a text or picture of another kind, or for what the system does not fill.
        """
        wanted, threshold = self.wanted(segments), checked_threshold(threshold)
        size = self.batch_size if batch_size is None else batch_size
        if type(size) is not int or size < 1:
            raise UserError(f"batch_size: {size!r} is not a whole number of at least 1")
        rest = iter(posts)
        while batch := list(islice(rest, size)):
            pairs = [own if isinstance(own, tuple) else (own, None) for own in batch]
            yield from self._answered(pairs, wanted, threshold)

    def wanted(self, segments: Sequence[str] | None) -> tuple[str, ...]:
        """The fields to be filled where ``segments`` are asked for: all up to the last of them, since each builds on
        those before it. Raises UserError for what the system does not fill."""
        return wanted_fields(self.fields, segments)

    def _answered(
        self,
        posts: Sequence[tuple[Text, Picture]],
        wanted: tuple[str, ...],
        threshold: float | None,
        strict: bool = False,
    ) -> list[Post]:
        """``strict``: a picture that cannot be opened raises PictureError."""
        texts = [read_text(text) for text, _ in posts]
        with ExitStack() as files:
            paths = [files.enter_context(as_file(image)) for _, image in posts]
            samples = [
                _sample(number, tokens, path, strict)
                for number, ((_, tokens, _), path) in enumerate(zip(texts, paths, strict=True))
            ]
            asked = [sample for sample in samples if sample.tokens]
            answers = (
                each_by_itself(lambda some: self._answer(some, wanted, threshold), asked, _failed) if asked else []
            )
        found = {answer.id: answer for answer in answers}
        return [
            Post(text, tokens, starts, image, _without_path(found.get(sample.id, Prediction(sample.id)), sample, image))
            for (text, tokens, starts), (_, image), sample in zip(texts, posts, samples, strict=True)
        ]


def wanted_fields(there: tuple[str, ...], segments: Sequence[str] | None) -> tuple[str, ...]:
    """Those of the fields ``there`` that are to be filled, as `Pipeline.wanted` has it."""
    if segments is None:
        return there
    if isinstance(segments, str) or not segments or not set(segments) <= set(there):
        raise UserError(f"segments: {segments!r} are not some of {', '.join(there)}, which the system fills")
    return there[: max(map(there.index, segments)) + 1]


def checked_threshold(threshold: float | None) -> float | None:
    """The same. Raises UserError for what is no probability."""
    if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
        raise UserError(f"threshold: {threshold!r} is not a probability")
    return threshold


def _without_path(prediction: Prediction, sample: Sample, image: Picture) -> Prediction:
    """The prediction; of a picture that came as no file, errors do not name the one that it was in meanwhile."""
    if not prediction.errors or not sample.image or isinstance(image, (str, Path)):
        return prediction
    errors = tuple(error.replace(sample.image, "the picture") for error in prediction.errors)
    return dataclasses.replace(prediction, errors=errors)


def _failed(sample: Sample, note: str) -> Prediction:
    return Prediction(sample.id, errors=(note,))


def _sample(number: int, tokens: tuple[str, ...], path: str, strict: bool) -> Sample:
    """``size`` is that of the picture. Where it cannot be opened that is raised if ``strict``; if not, whoever opens
    it finds that, too."""
    try:
        size = picture_size(path) if path else None
    except PictureError:
        if strict:
            raise
        size = None
    return Sample(str(number), tokens, path, size)


def read_text(text: Text) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """The text, its tokens, and where each begins. Raises UserError for what is no text."""
    if isinstance(text, str):
        found = tokens_of(text)
        return text, tuple(token for token, _ in found), tuple(start for _, start in found)
    if not isinstance(text, Sequence) or isinstance(text, bytes):
        raise UserError(f"a post's text is a string or a list of tokens, not {type(text).__name__}")
    for token in text:
        if not isinstance(token, str) or not token or token != "".join(token.split()):
            raise UserError(f"{token!r:.80} is no token: a string without white space, of at least one character")
    starts, offset = [], 0
    for token in text:
        starts.append(offset)
        offset += len(token) + 1
    return " ".join(text), tuple(text), tuple(starts)
