"""The store: every answer that a teacher gave, in a folder of Parquet shards that only grow.

    manifest.json              which shards there are, and how large
    shard-000000.parquet ...   rows, never changed once they have this name
    journal-000003.jsonl       the rows since the last shard, one a line, written as they come
    damaged.jsonl              lines of journals that were no rows, set aside
    .lock                      there while a run writes (lock.py)

A row is in the journal before anything else happens to it, so a process that is killed loses none. When the journal is
long enough, and when a run ends, it becomes the shard of its number: written under another name, renamed, listed, and
only then is the journal removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import orjson

from rivegs_mllm.runtime.files import WriteError, write_bytes
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.store.fitted import coerce_row
from rivegs_mllm.types import UserError

STORE_VERSION = 1
MANIFEST = "manifest.json"
DAMAGED = "damaged.jsonl"
ROWS_A_SHARD = 20_000
"""Rows that a run holds in memory, and that a start reads from the journal, at most."""
ANSWERED, FAILED = "answered", "failed"

_SYNC_SECONDS = 1.0  # between two fsyncs: a row costs 0.07 ms without one, and only a loss of power needs it
_SHOWN = 200


class StoreError(UserError):
    """A store that cannot be read or written. The message names the file and what to do."""


def not_written(folder: Path, error: Exception) -> StoreError:
    """The error for a store that cannot be written, as on a full disk."""
    return StoreError(f"{folder}: cannot be written: {error}; the same command resumes when it can")


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer to the question about ``mention`` ("" where the question is about the whole post) of post ``sample``.

    ``key`` is the SHA-256 of teacher, sampling and question, ``question`` that of the question alone. ``fields`` is
    what was read from the text, as JSON; ``faults`` what the checks found wrong with it. ``status`` is "answered" or
    "failed", then ``error`` says why. ``cost`` is in the currency of the recipe's prices. ``tries`` is how many
    requests it took, 0 where the answer was taken over from another post with the same question: such a row has no
    tokens and no cost, so that sums are what was paid.
    """

    sample: str
    kind: str
    key: str
    question: str
    teacher: str
    mention: str = ""
    revision: str = ""
    text: str = ""
    fields: str = "{}"
    faults: tuple[str, ...] = ()
    status: str = ANSWERED
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float = 0.0
    latency: float = 0.0
    tries: int = 1
    time: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="milliseconds"))

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What it is the answer for; a later row of the same place replaces it."""
        return self.kind, self.sample, self.mention, self.teacher


_NAMES = tuple(item.name for item in fields(StoredAnswer))
_VALUES = attrgetter(*_NAMES)


class Store:
    """A store that is written to, by one process at a time. ``with Store(folder) as store: store.append(row)``.

    ``notes`` says in lines what was found damaged, and what became of it.
    """

    def __init__(self, folder: Path, rows_a_shard: int = ROWS_A_SHARD):
        """Opens or makes it, and repairs what a killed process left. Raises StoreError where it cannot, LockedError
        where another run writes to it."""
        self.folder = folder
        self.rows_a_shard = self._seal_at = rows_a_shard
        _parquet()  # before any answer is paid for that could not be stored
        self._lock = ExitStack()
        self._lock.enter_context(lock_folder(folder))
        self.notes: list[str] = []
        self._journal: int | None = None
        self._synced = 0.0
        try:
            _check_manifest(folder)
            for partial in folder.glob("*.partial"):
                partial.unlink()
            self._recover()
        except (OSError, WriteError) as error:
            self._lock.close()
            raise not_written(folder, error) from None
        except BaseException:  # Ctrl-C too: there is no store yet whose close would release the lock
            self._lock.close()
            raise

    def append(self, row: StoredAnswer) -> None:
        """Keeps a row, its values made to fit (``coerce_row``). When this returns, no kill of the process can lose it.

        Raises OSError, the store still whole.
        """
        row = StoredAnswer(**coerce_row(_columns(row)))
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._journal, line[written:])
        except OSError:
            os.ftruncate(self._journal, self._size)  # what of the line was written would spoil the next one
            raise
        self._size += len(line)
        self._rows.append(row)
        if time.monotonic() - self._synced > _SYNC_SECONDS:  # against a loss of power
            os.fsync(self._journal)
            self._synced = time.monotonic()
        if len(self._rows) >= self._seal_at:
            self._seal()

    def close(self) -> None:
        """Turns the journal into a shard and releases the lock."""
        try:
            if self._rows:
                self._seal()
        finally:
            self._close_journal()
            self._lock.close()
        if self._size == 0:
            self._journal_path.unlink(missing_ok=True)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def _journal_path(self) -> Path:
        return self.folder / f"journal-{self._number:06}.jsonl"

    def _recover(self) -> None:
        """Lists shards that were renamed and not listed yet, and continues the journal of the next number."""
        shards = _shards(self.folder)
        _write_manifest(self.folder)
        self._number = 1 + max((_number(path) for path in shards), default=-1)
        for path in self.folder.glob("journal-*.jsonl"):
            if _number(path) < self._number:  # its shard is there
                path.unlink()
        self._set_aside()
        self._rows = _read_journal(self._journal_path)
        self._open_journal()

    def _set_aside(self) -> None:
        """Moves invalid lines of the journal to a file of their own, and reports an incomplete last one."""
        path = self._journal_path
        if not path.is_file():
            return
        *lines, rest = path.read_bytes().split(b"\n")
        faults = {number: fault for number, line in enumerate(lines) if (fault := _fault(line))}
        if rest:
            self.notes.append(f"{path}: its last line was incomplete and is dropped; its question is asked again")
        if faults:
            with (self.folder / DAMAGED).open("ab") as file:
                file.writelines(lines[number] + b"\n" for number in faults)
            kept = [line + b"\n" for number, line in enumerate(lines) if number not in faults]
            write_bytes(path, b"".join([*kept, rest]))
            first = min(faults)
            self.notes.append(
                f"{path}: {len(kept):,} rows kept, {len(faults):,} damaged lines moved to {DAMAGED} (the first was "
                f"line {first + 1}: {faults[first]}); their questions are asked again"
            )

    def _open_journal(self) -> None:
        self._journal = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        data = self._journal_path.read_bytes()
        self._size = data.rfind(b"\n") + 1
        if self._size < len(data):
            os.ftruncate(self._journal, self._size)  # an incomplete line

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def _seal(self) -> None:
        """The journal as a shard. Where one cannot be written, the rows stay in the journal, just as safe."""
        shard = self.folder / f"shard-{self._number:06}.parquet"
        partial = shard.with_name(f"{shard.name}.partial")
        try:
            _parquet().write_shard(partial, map(_columns, self._rows))
            partial.replace(shard)
            _write_manifest(self.folder)
        except (OSError, WriteError, ValueError, TypeError, ArithmeticError) as error:  # a full disk, or pyarrow's
            partial.unlink(missing_ok=True)
            self._seal_at += self.rows_a_shard  # tried again later, not with every row
            self.notes.append(f"{shard.name} could not be written ({_line(error)}); its rows stay in the journal")
            return
        self._close_journal()
        self._journal_path.unlink()
        self._number += 1
        self._rows = []
        self._seal_at = self.rows_a_shard
        self._open_journal()


def read_rows(folder: Path) -> Iterator[StoredAnswer]:
    """Every row in the order in which it was written, also of a store that a run is writing to. Raises StoreError."""
    _check_manifest(folder)
    journals = {_number(path): _read_journal(path) for path in folder.glob("journal-*.jsonl")}
    shards = _shards(folder)  # after the journals: one may become a shard meanwhile
    if not (journals or shards or (folder / MANIFEST).is_file()):
        raise StoreError(f"{folder}: holds no store (no {MANIFEST}); make one with `rivegs distill`")
    for path in shards:
        rows = _parquet().read_shard(path)
        try:
            yield from (StoredAnswer(**{**row, "faults": tuple(row["faults"])}) for row in rows)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError) as error:
            raise _unreadable(path, error) from None
    sealed = {_number(path) for path in shards}
    for number in sorted(journals.keys() - sealed):
        yield from journals[number]


def read_store(folder: Path, kind: str, clean: bool = False) -> dict[tuple[str, str], list[StoredAnswer]]:
    """The answers of a kind by (sample id, mention), one a teacher in the order of their names.

    Of a teacher that was asked several times about the same, the last answer counts; failed questions are left out,
    and with ``clean`` the answers in which the checks found faults. Raises StoreError.
    """
    latest = {row.place: row for row in read_rows(folder) if row.kind == kind}
    found: dict[tuple[str, str], list[StoredAnswer]] = {}
    for place in sorted(latest):
        row = latest[place]
        if row.status == ANSWERED and not (clean and row.faults):
            found.setdefault((row.sample, row.mention), []).append(row)
    return found


def answers_by_question(folder: Path, teacher: str | None = None) -> dict[str, str]:
    """Question digest to the first answer, of ``teacher`` or, where None, of anybody. Raises StoreError."""
    answers: dict[str, str] = {}
    for row in read_rows(folder):
        if row.status == ANSWERED and teacher in (None, row.teacher):
            answers.setdefault(row.question, row.text)
    return answers


def _columns(row: StoredAnswer) -> dict[str, object]:
    """The row by column, without the deep copies of `asdict`, which takes ten times as long."""
    return dict(zip(_NAMES, _VALUES(row), strict=True))


def _parquet() -> ModuleType:
    """The module that reads and writes shards, imported only here: without a store no pyarrow is needed."""
    from rivegs_mllm.store import parquet as shards

    return shards


def _read_journal(journal: Path) -> list[StoredAnswer]:
    """A journal's rows, none where it is gone. A last line without its line feed is incomplete or being written."""
    try:
        lines = journal.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(_journal_row(line))
        except (ValueError, AttributeError, TypeError) as error:
            raise StoreError(
                f"{journal}:{number}: not a row of a store ({_line(error)}); `rivegs distill` moves it aside"
            ) from None
    return rows


def _journal_row(line: bytes) -> StoredAnswer:
    values = orjson.loads(line)
    if values.keys() != set(_NAMES):
        raise ValueError("other fields than a row has")
    return StoredAnswer(**coerce_row(values))


def _fault(line: bytes) -> str:
    """Why a line of a journal is no row, "" where it is one."""
    try:
        _journal_row(line)
    except (ValueError, AttributeError, TypeError) as error:
        return _line(error)
    return ""


def _line(error: Exception) -> str:
    """An error's message on one line, cut short."""
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path}: cannot be read as a shard of a store ({_line(error)}); restore it from a copy, or move it and "
        f"{MANIFEST} away to go on without its answers and ask for them again"
    )


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.parquet"))


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _check_manifest(folder: Path) -> None:
    """Raises StoreError where a listed shard is missing or of another size, or the store is of another version."""
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        manifest = orjson.loads(path.read_bytes())
        version, shards = manifest["version"], {str(shard["file"]): shard["bytes"] for shard in manifest["shards"]}
        if not all(type(size) is int for size in shards.values()):
            raise ValueError("shards: bytes is no whole number")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({_line(error)}); delete it, and it is rebuilt from the shards") from None
    if version != STORE_VERSION:
        raise StoreError(f"{path}: version {version!r}; this release reads version {STORE_VERSION}")
    for name, size in shards.items():
        shard = folder / name
        found = shard.stat().st_size if shard.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise StoreError(
                f"{shard} {state}; restore it, or delete {MANIFEST} to go on without it and ask its questions again"
            )


def _write_manifest(folder: Path) -> None:
    parquet = _parquet()
    listed = []
    for path in _shards(folder):
        try:
            rows = parquet.count_rows(path)
        except (ValueError, OSError) as error:
            raise _unreadable(path, error) from None
        listed.append({"file": path.name, "rows": rows, "bytes": path.stat().st_size})
    write_bytes(
        folder / MANIFEST, orjson.dumps({"version": STORE_VERSION, "shards": listed}, option=orjson.OPT_INDENT_2)
    )
