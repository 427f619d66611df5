"""Reading files that others may have changed: JSON by its keys, and whatever a library loads."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rivegs_mllm.types import UserError

MAX_JSON_BYTES = 2**26
"""Far more than settings, manifests and trainer states take; JSON of empty lists takes twenty times as much memory."""

_LONGEST_MESSAGE = 600
_LONGEST_VALUE = 80


def read_object(path: Path, hint: str, error: type[UserError] = UserError) -> dict[str, object]:
    """The JSON object in a file. Raises ``error``, which names the file and says ``hint``, where there is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"{path}: longer than {MAX_JSON_BYTES:,} bytes, which no such file is; {hint}")
        content = json.loads(path.read_bytes())
    except OSError as fault:
        raise error(f"{path}: cannot be read: {fault.strerror or fault}; {hint}") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as fault:  # no JSON, no UTF-8, a number of thousands of digits; too deep
        raise error(f"{path}: not JSON: {one_line(fault)}; {hint}") from None
    if type(content) is not dict:
        raise error(f"{path}: not a JSON object; {hint}")
    return content


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSONL file that are not blank, with their numbers from 1, without a byte-order mark."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            own = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if own.strip():
                yield number, own


@contextmanager
def loading(what: str, error: type[UserError] = UserError) -> Iterator[None]:
    """Within it, whatever a library raises becomes an ``error`` on one line: ``what`` says which files are read."""
    try:
        yield
    except UserError:
        raise
    except Exception as fault:  # transformers, PEFT and safetensors raise whatever a damaged file makes them stumble on
        raise error(f"{what}: cannot be loaded: {one_line(fault)}") from fault


def one_line(error: BaseException) -> str:
    """An error's message on one line, printable, cut short."""
    text = printable(str(error))
    name = type(error).__name__
    # These explain themselves; a KeyError, for one, is only a key.
    explains_itself = isinstance(error, (OSError, ValueError, RuntimeError)) and text
    return cut(text if explains_itself else f"{name} {text}".strip())


def cut(text: str) -> str:
    """A text of at most the length of a message."""
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."


def printable(text: str) -> str:
    """A text on one line; what would move a console's cursor or turn its writing is shown as a replacement sign."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))


def shown(value: object) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
