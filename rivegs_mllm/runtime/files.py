"""Files that are written completely or not at all, and what to say where a disk is full."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rivegs_mllm.types import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_IN_WORDS = ("no space left", "disk quota exceeded", "file too large", "pytorchstreamwriter", "unexpected pos")
"""The words of safetensors, tokenizers and torch.save, which raise no OSError."""


class WriteError(UserError):
    """A file that cannot be written. The message names it and says why; what was there before is unchanged."""


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder: of names that none can have, such as too long ones, too."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


@contextmanager
def complete_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which is at ``path`` when the block ends, and not at all when it raises.

    It is written beside ``path`` as ``<name>.partial`` and renamed; parents are made. What is no regular file, such as
    /dev/stdout, is written directly. Raises WriteError.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:
                yield file
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link that stands there would be followed
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file under the final name
            partial.replace(path)
        except BaseException:  # Ctrl-C, too
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.filename not in (None, str(path), str(partial)):  # of what the block reads
            raise
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which is at ``path`` when the block ends, and not at all when it raises.

    It is made beside ``path`` as ``<name>.partial``, in the place of what an interrupted run left there, and renamed;
    parents are made. Raises WriteError, and UserError where ``path`` is there already.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        check_absent(path)
        if is_there(partial):
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            for file in filter(Path.is_file, partial.rglob("*")):
                file.chmod(partial.stat().st_mode & 0o666)  # safetensors leaves its files to their owner alone
                _to_disk(file)  # as in complete_file
            check_absent(path)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except UserError:
        raise
    except Exception as error:  # safetensors and tokenizers have types of their own for a full disk
        if not is_disk_full(error) and not (isinstance(error, OSError) and _is_within(error.filename, partial)):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no space left on device"
        raise WriteError(f"{path}: cannot be written: {reason}") from error


def check_absent(path: Path) -> None:
    """Raises UserError where something is at ``path``."""
    if is_there(path):
        raise UserError(f"{path}: exists and is not overwritten; name another, or delete it")


def _to_disk(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _is_within(name: object, folder: Path) -> bool:
    """Whether an error's file is the folder, what lies in it, or where it is to lie."""
    return name is None or str(name).startswith(str(folder)) or Path(str(name)) in folder.parents


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a complete file. Raises WriteError."""
    with complete_file(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Writes a complete file in UTF-8. Raises WriteError."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Writes a complete file of indented JSON. Raises WriteError."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def append_to(path: Path) -> BinaryIO:
    """Opens a file to append to, made where there is none. Raises UserError where it is a link."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"{path}: is a symbolic link, and what it points to is not overwritten; remove it"
            ) from None
        raise


def drop_incomplete_line(path: Path) -> None:
    """Cuts off a last line without its line feed, which was being written when a run was killed."""
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def check_output(out: Path, inputs: Iterable[Path]) -> None:
    """Raises UserError where ``out`` is one of the files or folders that are read, under whatever name."""
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"{out}: is read too ({path}) and would be overwritten; choose another output")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk is full or a quota used up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # causes can form a ring
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error).lower() for words in _FULL_IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
