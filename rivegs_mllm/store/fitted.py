"""A row's values made to fit the columns of a store, so that none can ever keep the others from being stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime

KEY_COLUMNS = ("sample", "kind", "key", "question", "teacher")
"""The columns that say which question a row answers: without these texts it is no row."""
TEXTS = ("mention", "revision", "text", "fields", "error", "finish_reason")
COUNTS = ("prompt_tokens", "completion_tokens")
NUMBERS = ("cost", "latency")
STATES = ("answered", "failed")

_MOST_COUNT = 2**63 - 1  # of an int64 column
_MOST_TRIES = 2**31 - 1  # of an int32 column


def coerce_row(values: Mapping[str, object]) -> dict[str, object]:
    """The values of a row by column: what is of another type becomes a text, or is left out where it was to be a
    number. Raises ValueError where it cannot be known which question the row answers, or how that went."""
    for name in KEY_COLUMNS:
        if type(values[name]) is not str:
            raise ValueError(f"{name} is no text")
    if values["status"] not in STATES:
        raise ValueError(f"status is none of {', '.join(STATES)}")
    datetime.fromisoformat(str(values["time"]))
    faults = values["faults"] if isinstance(values["faults"], (list, tuple)) else ()
    return {
        **values,
        **{name: _text(values[name]) for name in (*KEY_COLUMNS, *TEXTS)},
        **{name: _count(values[name], _MOST_COUNT) for name in COUNTS},
        **{name: _number(values[name]) for name in NUMBERS},
        "tries": _count(values["tries"], _MOST_TRIES) or 0,
        "faults": tuple(map(_text, faults)),
    }


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD in place of half characters (lone surrogates), which no file holds."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: object) -> str:
    if value is None:
        return ""
    return replace_surrogates(value if isinstance(value, str) else json.dumps(value, default=str))


def _count(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _number(value: object) -> float:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else 0.0
