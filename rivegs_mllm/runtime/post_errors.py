"""Errors of single posts: kept in the post's ``errors``, while the run continues with the others."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from rivegs_mllm.runtime.foreign import one_line, shown
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import Prediction, UserError

Item = TypeVar("Item")

NO_PICTURE = "no picture"
TRUNCATED = "truncated"
NOT_ANSWERED = "not answered"
_KINDS = (NOT_ANSWERED, TRUNCATED, NO_PICTURE)
_FORMER = {"cut": TRUNCATED}
"""Former names of kinds, in predictions of earlier releases."""

_KIND = re.compile(rf"(?:^|: )({'|'.join((*_KINDS, *_FORMER))}): ")
OTHER = "other"
"""Such as an answer of which not all could be parsed."""

MIN_FAILED_POSTS = 20
"""If the first so many posts all fail, the fault is taken to be the run's, not the posts'."""

_MAX_LISTED = 5


def each_by_itself(
    work: Callable[[Sequence[Item]], list[Prediction]],
    items: Sequence[Item],
    failed: Callable[[Item, str], Prediction],
) -> list[Prediction]:
    """``work(items)``; where that fails, item by item, and ``failed(item, note)`` for those that fail alone as well.

    A UserError is about the run, and raised.
    """
    try:
        return work(items)
    except UserError:
        raise
    except Exception as error:
        logging.getLogger(__name__).warning("posts failed", exc_info=True)
        if len(items) == 1:
            return [failed(items[0], f"{NOT_ANSWERED}: {one_line(error)}")]
    return [prediction for item in items for prediction in each_by_itself(work, [item], failed)]


def check_some_answered(predictions: Sequence[Prediction], posts: int) -> None:
    """Raises UserError where not one of ``posts``, or of the first that are done, was answered.

    ``predictions`` are those so far, from the first post on.
    """
    if len(predictions) < min(posts, MIN_FAILED_POSTS) or not predictions:
        return
    if all(NOT_ANSWERED in kinds_of(prediction) for prediction in predictions):
        last = predictions[-1].errors[-1]
        raise UserError(f"none of the first {len(predictions)} posts could be answered; the last one: {last}")


def kinds_of(prediction: Prediction) -> set[str]:
    """The kinds of a post's errors: NOT_ANSWERED, TRUNCATED, NO_PICTURE, OTHER."""
    found = [_KIND.search(error) for error in prediction.errors]
    return {_FORMER.get(match[1], match[1]) if match else OTHER for match in found}


def is_incomplete(prediction: Prediction) -> bool:
    """Whether a post was not processed in full: not answered, truncated, or without its picture."""
    return bool(kinds_of(prediction) - {OTHER})


def summary(predictions: Sequence[Prediction]) -> list[str]:
    """Lines that say how many posts have errors of which kind, and that list the first few that are incomplete."""
    counts = Counter(kind for prediction in predictions for kind in kinds_of(prediction))
    if not counts:
        return [f"{plural(len(predictions), 'post')}, none with errors"]
    noted = sum(bool(prediction.errors) for prediction in predictions)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in (*_KINDS, OTHER) if counts[kind])
    lines = [f"{plural(len(predictions), 'post')}, {noted} with errors: {kinds}"]
    hindered = [prediction for prediction in predictions if is_incomplete(prediction)]
    for prediction in hindered[:_MAX_LISTED]:
        why = next(error for error in prediction.errors if _KIND.search(error))
        lines.append(f"  {prediction.id}: {why}")
    if len(hindered) > _MAX_LISTED:
        lines.append(f"  and {len(hindered) - _MAX_LISTED} more, in their `errors`")
    return [*lines, *filter(None, [nothing_read(predictions)])]


def nothing_read(predictions: Sequence[Prediction]) -> str:
    """What to look at where not one answer of a model could be read, "" where one could."""
    written = [prediction for prediction in predictions if prediction.raw]
    if not written or any(own.entities or OTHER not in kinds_of(own) for own in written):
        return ""
    return (
        f"not one of {len(written)} answers could be read; the first is {shown(written[0].raw)} "
        f"({written[0].errors[0]}). Look at `raw` in the predictions: a base model that was not tuned answers in its "
        "own words, and so does one tuned for too few steps; `rivegs preview RECIPE` shows what it should write"
    )


def with_error(prediction: Prediction, error: str) -> Prediction:
    """The prediction with one more error."""
    return dataclasses.replace(prediction, errors=(*prediction.errors, error))
