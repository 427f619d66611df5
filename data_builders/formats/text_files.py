"""Text files as people publish them: UTF-8, with a byte-order mark or not, lines ended by Unix, Windows or old Macs."""

from __future__ import annotations

from pathlib import Path

from rivegs_mllm.types import UserError


def read_text(path: Path | str) -> str:
    """The text, ``\\r\\n``, and ``\\r`` where nothing else ends a line, turned into ``\\n``.

    Raises UserError naming the file where it cannot be read or decoded.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
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
