"""Commands run in processes that are forked off one that has imported everything, so that a run starts in milliseconds.

A process can be killed before its n-th change of a file or after some seconds, can find the disk full, and obeys the
permissions of files even where its user is root. Only what is changed below ``root`` counts. What compiled libraries
write, such as safetensors, changes files unseen: kills after some seconds and limits of size reach that, too.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import importlib
import io
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 120
COPYING: list[subprocess.Popen] = []
"""What carries the output of the runs under way to their files."""
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Run:
    """One process to be started. ``module`` is that of the ``main`` which gets ``argv``.

    ``kill_at`` and ``fail_at`` are numbers of changes below ``root``, from 0; at the latter, and from there on, nothing
    can be written as on a full disk. ``seconds`` is when it is killed, ``largest`` how many bytes a file may have,
    ``encoding`` that of the console.
    """

    argv: Sequence[str]
    root: str = "/nowhere"
    module: str = "rivegs_mllm.cli.main"
    kill_at: int | None = None
    fail_at: int | None = None
    seconds: float | None = None
    largest: int | None = None
    delay: float = 0.0
    unprivileged: bool = False
    encoding: str = "utf-8"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, minus the signal where it was killed; what it printed; its changes;
    after how long."""

    code: int
    stdout: str
    stderr: str
    changes: int
    seconds: float


class Nursery:
    """The process that forks. To be used in a ``with`` block."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Nursery:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.forks", str(self.folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()  # it would not see its input end where a loader's worker holds it, too
        self.process.communicate()

    def run(self, *runs: Run, together: bool = False) -> list[Ended]:
        """Starts processes at once and waits for all. ``together``: where one fails, the others are killed, as
        launchers do."""
        request = {"runs": [dataclasses.asdict(run) for run in runs], "together": together}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        ends = json.loads(self.process.stdout.readline())
        return [self._ended(number, runs[number].encoding, *end) for number, end in enumerate(ends)]

    def _ended(self, number: int, encoding: str, code: int, seconds: float) -> Ended:
        printed, told, changes = (self.folder / f"{number}.{name}" for name in ("stdout", "stderr", "changes"))
        if encoding == "utf-16":  # Python writes no byte order mark into a pipe
            encoding = f"utf-16-{sys.byteorder[0]}e"
        return Ended(
            code,
            printed.read_text(encoding=encoding, errors="replace"),
            told.read_text(encoding=encoding, errors="replace"),
            changes.stat().st_size,
            seconds,
        )


def serve(folder: Path) -> None:
    """Imports the project, then forks what each line of standard input asks for."""
    for name in ("rivegs_mllm", "eval", "data_builders"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    for line in sys.stdin:
        request = json.loads(line)
        children = [_forked(folder, number, Run(**run)) for number, run in enumerate(request["runs"])]
        ends = _wait(children, request["together"])
        _finish_copying()
        print(json.dumps(ends), flush=True)


def _forked(folder: Path, number: int, run: Run) -> int:
    changes = os.open(folder / f"{number}.changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    outputs = [_pipe_to(folder / f"{number}.{name}") for name in ("stdout", "stderr")]
    child = os.fork()
    if child:
        for descriptor in (changes, *outputs):
            os.close(descriptor)
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, own in zip((1, 2), outputs, strict=True):
            os.dup2(own, descriptor)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), run.encoding, "strict", write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), run.encoding, "backslashreplace", write_through=True)
        code = _child(run, changes)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pipe_to(path: Path) -> int:
    """A pipe's end to write to; what arrives is written to ``path``. A limit on the size of files is none on pipes."""
    reading, writing = os.pipe()
    copying = subprocess.Popen(["cat"], stdin=reading, stdout=path.open("wb"))
    COPYING.append(copying)
    os.close(reading)
    return writing


def _finish_copying() -> None:
    for copying in COPYING:
        try:
            copying.wait(10)
        except subprocess.TimeoutExpired:  # a process that outlived its run holds the other end
            copying.kill()
            copying.wait()
    COPYING.clear()


def _child(run: Run, changes: int) -> int:
    os.environ.update(run.environment)
    sys.argv = ["rivegs", *run.argv]
    time.sleep(run.delay)
    main = importlib.import_module(run.module).main
    if run.unprivileged:
        _obey_permissions()
    if run.largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.largest, run.largest))
    sys.addaudithook(_watch(run, changes))
    if run.seconds is not None:
        signal.setitimer(signal.ITIMER_REAL, run.seconds)  # SIGALRM, which nobody handles, ends the process at once
    return main(list(run.argv))


def _watch(run: Run, counted: int) -> Callable[[str, tuple], None]:
    """An audit hook that counts changes of files and does harm at one of them."""
    done = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal done
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITING):
                return
            paths = [path]
        elif event in CHANGES:
            paths = list(arguments[:2])
        else:
            return
        if not any(
            isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(run.root) for path in paths
        ):
            return
        if run.kill_at == done:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.fail_at is not None and done >= run.fail_at and event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[0]))
        done += 1
        os.write(counted, b".")

    return hook


def _obey_permissions() -> None:
    """Lets go of root's privilege to write where permissions forbid it."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    class Data(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(Header(0x20080522, 0)), ctypes.byref((Data * 2)())):
        raise OSError(ctypes.get_errno(), "capset")


def _wait(children: Sequence[int], together: bool) -> list[tuple[int, float]]:
    """Exit codes and seconds; processes that take too long are killed."""
    ends: dict[int, tuple[int, float]] = {}
    start = time.monotonic()
    while len(ends) < len(children):
        left = [child for child in children if child not in ends]
        for child in left:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                ends[child] = (os.waitstatus_to_exitcode(status), time.monotonic() - start)
        if time.monotonic() > start + LONGEST_SECONDS or (together and any(code for code, _ in ends.values())):
            for child in left:
                if child not in ends:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return [ends[child] for child in children]


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
