"""The beginning of an answer that is given to the model: what other stages have predicted, in the answer's lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rivegs_mllm.answer.format import SEGMENTS, AnswerFormat
from rivegs_mllm.answer.serialization import AnswerLine, line_start, parse, render
from rivegs_mllm.types import Prediction, Sample, UserError


def answer_prefix(sample: Sample, prediction: Prediction, answer_format: AnswerFormat) -> Sequence[AnswerLine]:
    """The lines of ``prediction`` for the segments of ``answer_format``.

    Where ``raw`` holds the same up to there, its lines are taken as they stand, so that a model continues its own
    words. Raises UserError for what an answer cannot express.
    """
    if _is_in_raw(sample, prediction, answer_format):
        return [AnswerLine(answer_format.segments[-1], f"{line}\n") for line in prediction.raw[:-1].split("\n")]
    size = sample.size if sample.image else None
    try:
        return render(sample.tokens, prediction.knowledge, prediction.entities, answer_format, size)
    except UserError as error:
        raise UserError(f"post {sample.id!r}: {error}") from None


def _is_in_raw(sample: Sample, prediction: Prediction, answer_format: AnswerFormat) -> bool:
    """Whether ``raw`` is complete lines up to the answer format's last segment that say what the fields say."""
    last = answer_format.segments[-1]
    numbers = range(1, len(prediction.entities) + 1) if last in ("expressions", "visible") else ()
    starts = [line_start(last, number) for number in numbers] or [line_start(last).rstrip(":")]
    lines = prediction.raw.split("\n")
    if lines.pop() or not all(any(line.startswith(start) for line in lines) for start in starts):
        return False
    for segment in SEGMENTS[SEGMENTS.index(last) + 1 :]:
        if any(line.startswith(line_start(segment).rstrip(":")) for line in lines):
            return False
    read = parse(sample.id, prediction.raw, sample.tokens, answer_format, sample.size if sample.image else None)
    entities = tuple(dataclasses.replace(entity, visible_score=None) for entity in prediction.entities)
    return (read.knowledge, read.entities) == (prediction.knowledge, entities)
