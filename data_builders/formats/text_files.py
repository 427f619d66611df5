"""Text files as people publish them: UTF-8, or UTF-16 with its mark, lines ended by Unix, Windows or old Macs."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from rivegs_mllm.types import UserError

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def decoded(content: bytes, path: Path | str) -> str:
    """The text of a file. Raises UserError, which says how to convert it, for one of another encoding."""
    mark = next((own for own in _MARKS if content.startswith(own)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    if not mark and content[:200].count(0) > len(content[:200]) // 4:
        raise UserError(f"{path}: UTF-16 without its mark; save it as UTF-8{_conversion(path, 'UTF-16LE')}")
    try:
        return content.removeprefix(mark).decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if encoding.startswith("utf-16") else "UTF-8"
        start = error.start + len(mark)
        raise UserError(f"{path}: not {name} at byte {start}; save it as UTF-8{_conversion(path, 'CP1252')}") from None


def _conversion(path: Path | str, encoding: str) -> str:
    return f" (if it is {encoding}: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))})"


def read_text(path: Path | str) -> str:
    """The text, ``\\r\\n``, and ``\\r`` where nothing else ends a line, turned into ``\\n``.

    Raises UserError naming the file where it cannot be read or decoded.
    """
    try:
        text = decoded(Path(path).read_bytes(), path).replace("\r\n", "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if "\n" not in text:
        return text.replace("\r", "\n")
    if "\r" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise UserError(f"{path}:{line}: a line end of old Macs among others; save the file with one kind of line ends")
    return text


def read_lines(path: Path | str) -> list[str]:
    """The lines, without their ends; "" after a last line feed. Raises UserError as ``read_text`` does."""
    # Not splitlines: it would also split at separators that tokens may hold.
    return read_text(path).split("\n")
