"""One run at a time writes to a file or folder; a second is refused, with the first one's process id.

The lock is a file, ``<name>.lock`` beside a file and ``.lock`` in a folder, locked by the kernel and holding the
owner's process id, host and start time. The kernel releases it when the owner dies, so that what a dead process
left is taken over. Some network file systems do not pass such locks between hosts: there the owner that is written in
the file counts, and that of another host, which cannot be asked, is for the user to judge.

POSIX record locks are used, not flock: they reach other hosts over NFS, and processes that the owner forked, such as
data loader workers, do not inherit them and keep them when it is killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from rivegs_mllm.types import UserError

LOCK_NAME = ".lock"
"""The name of a folder's lock in it."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SETTLE_SECONDS = 0.2  # in which two that start at once where there are no locks see each other
_COMMAND_LENGTH = 200

_held: set[str] = set()
_guard = threading.Lock()


class LockedError(UserError):
    """Another run writes there. The message names its process, host and start time."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that writes. ``boot`` tells machines apart that have the same name, and is the same for the containers
    of one machine; ``ticks`` is the kernel's start time of the process, which tells it from a later one of its number.
    """

    pid: int
    host: str
    boot: str
    ticks: str
    since: str
    command: str


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Holds the lock of an output file. Raises LockedError, UserError where the folder cannot be written to.

    What is no file, such as /dev/stdout, has no lock.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield
        return
    with _locked(path.with_name(f"{path.name}.lock"), path):
        yield


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds the lock of an output folder, which is made, and goes again where nothing is written into it.

    Raises LockedError, UserError.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        with _locked(folder / LOCK_NAME, folder):
            yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _locked(lock: Path, target: Path) -> Iterator[None]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        name = os.path.realpath(lock)
        with _guard:
            if name in _held:  # to open and close it once more would release it
                raise LockedError(f"{target}: this process writes to it already")
            _held.add(name)
        try:
            descriptor = _acquire(lock, target)
        except BaseException:  # Ctrl-C too: this process could otherwise never lock the file again
            _held.discard(name)
            raise
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        _release(descriptor, lock)
        _held.discard(name)  # after the release, or a thread could open the file while this one closes it


def _acquire(lock: Path, target: Path) -> int:
    """The descriptor of the lock file, locked and with this process in it."""
    while True:
        # Through no link, as the file is emptied before it is written.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            kernel = _ask_kernel(descriptor)
            owner = _read(descriptor)
            if kernel is False:
                raise LockedError(_refusal(target, owner))
            if not _is_at(descriptor, lock):  # its owner ended and removed it just now
                os.close(descriptor)
                continue
            if owner is not None and not _is_dead(owner, kernel is True):
                raise LockedError(_refusal(target, owner, lock))
        except BaseException:
            os.close(descriptor)
            raise
        _sign(descriptor, lock, target, kernel is True)
        return descriptor


def _sign(descriptor: int, lock: Path, target: Path, locked: bool) -> None:
    """Writes this process into the lock file, and makes sure, where nothing else does, that no other wrote after it."""
    ours = _this_process()
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(ours)).encode(), 0)
        os.fsync(descriptor)
    except BaseException:
        _release(descriptor, lock)
        raise
    if not locked:
        time.sleep(_SETTLE_SECONDS)
        if (other := _read(descriptor)) != ours:
            os.close(descriptor)
            raise LockedError(_refusal(target, other))


def _release(descriptor: int, lock: Path) -> None:
    """Releases the lock and removes its file, unless another has taken its place."""
    if _is_at(descriptor, lock):
        lock.unlink(missing_ok=True)
    os.close(descriptor)


def _ask_kernel(descriptor: int) -> bool | None:
    """True where the file is locked now, False where another has it, None where the file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return True


def _is_at(descriptor: int, lock: Path) -> bool:
    try:
        there = lock.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _is_dead(owner: Owner, kernel_says_free: bool) -> bool:
    """Whether an owner that the lock file names is certainly gone. One on another machine cannot be asked."""
    here = _this_process()
    if kernel_says_free:  # certain of processes of this machine; some file systems do not ask the others
        return owner.host == here.host or owner.boot == here.boot
    if owner.host != here.host:
        return False
    return owner.boot != here.boot or _ticks(owner.pid) != owner.ticks


def _refusal(target: Path, owner: Owner | None, lock: Path | None = None) -> str:
    if owner is None:
        return f"{target}: another process is writing to it; wait for it, or choose another output"
    who = f"process {owner.pid} on {owner.host}, started {owner.since} (`{owner.command}`)"
    if lock is None or owner.host == socket.gethostname():
        return f"{target}: is being written by {who}; wait for it, or choose another output"
    return (
        f"{target}: was started by {who}, which cannot be checked from here; "
        f"if it no longer runs there delete {lock}, else wait for it or choose another output"
    )


def _this_process() -> Owner:
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""
    pid = os.getpid()
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Owner(pid, socket.gethostname(), boot, _ticks(pid), since, shlex.join(sys.argv)[:_COMMAND_LENGTH])


def _ticks(pid: int) -> str:
    """When the kernel started a process, in clock ticks since the boot; "" where there is none of this number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _read(descriptor: int) -> Owner | None:
    """The owner in the lock file, None where it is empty or incomplete."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 1 << 16, 0)))
    except (ValueError, TypeError):
        return None
