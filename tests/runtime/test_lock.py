"""One process at a time: who is refused and told what, and what is taken over."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from rivegs_mllm.runtime.lock import LockedError, lock_file, lock_folder
from rivegs_mllm.types import UserError

HOLD = "import sys; from rivegs_mllm.runtime.lock import *; from pathlib import Path\nwith {}(Path(sys.argv[1])):\n"
WAIT = "    print('held', flush=True); sys.stdin.readline()"


@pytest.fixture(params=[lock_file, lock_folder])
def lock(request):
    return request.param


def holder(lock, path, then=WAIT) -> subprocess.Popen:
    """A process that holds the lock until its standard input ends."""
    command = [sys.executable, "-c", HOLD.format(lock.__name__) + then, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_second_process_is_refused_and_told_which_is_the_first(tmp_path, lock):
    with holder(lock, tmp_path / "out") as first:
        with (
            pytest.raises(
                LockedError, match=rf"out: is being written by process {first.pid} on {socket.gethostname()}"
            ),
            lock(tmp_path / "out"),
        ):
            pass
        first.communicate("\n")
    assert files(tmp_path) == []
    with lock(tmp_path / "out"):
        pass


def test_another_name_of_the_same_output_is_the_same_lock(tmp_path, lock):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").symlink_to("here")
    with lock(tmp_path / "here" / "out"), pytest.raises(LockedError), lock(tmp_path / "there" / ".." / "here" / "out"):
        pass
    with lock(tmp_path / "here" / "out"), pytest.raises(LockedError), lock(tmp_path / "there" / "out"):
        pass


def test_one_process_does_not_lose_its_lock_by_asking_again(tmp_path, lock):
    with lock(tmp_path / "out"):
        with pytest.raises(LockedError), lock(tmp_path / "out"):
            pass
        ask = HOLD.format(lock.__name__) + "    pass"
        done = subprocess.run([sys.executable, "-c", ask, str(tmp_path / "out")], capture_output=True, text=True)
        assert f"process {os.getpid()} on" in done.stderr


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, lock):
    with holder(lock, tmp_path / "out") as first:
        first.kill()
    assert len(files(tmp_path)) == 1
    with lock(tmp_path / "out"):
        pass
    assert files(tmp_path) == []


def test_a_child_that_outlives_a_killed_owner_does_not_keep_the_lock(tmp_path, lock):
    forks = "    import os, time\n    child = os.fork()\n    if not child: time.sleep(60); os._exit(0)\n"
    with holder(
        lock, tmp_path / "out", f"{forks}    print('held', flush=True); print(child, flush=True)\n{WAIT}"
    ) as first:
        child = int(first.stdout.readline())
        first.kill()
        first.wait()
        try:
            os.kill(child, 0)
            with lock(tmp_path / "out"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def foreign(path, **fields):
    owner = {"pid": 1, "host": "elsewhere", "boot": "other", "ticks": "5", "since": "2026-01-01", "command": "rivegs"}
    path.write_text(json.dumps({**owner, **fields}))


def test_the_owner_on_another_host_is_for_the_user_to_judge(tmp_path):
    left = tmp_path / "out.lock"
    foreign(left)
    with (
        pytest.raises(LockedError, match=f"process 1 on elsewhere.*no longer runs there delete {left}"),
        lock_file(tmp_path / "out"),
    ):
        pass
    left.unlink()
    with lock_file(tmp_path / "out"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_file_that_says_nothing_is_taken_over(tmp_path, content):
    (tmp_path / "out.lock").write_text(content)
    with lock_file(tmp_path / "out"):
        assert json.loads((tmp_path / "out.lock").read_text())["pid"] == os.getpid()


def test_a_lock_from_before_a_reboot_is_taken_over(tmp_path):
    foreign(tmp_path / "out.lock", host=socket.gethostname(), pid=os.getpid())
    with lock_file(tmp_path / "out"):
        pass


class NoLocks:
    """A file system without locks, as some network file systems are."""

    def __init__(self, *_):
        raise OSError(38, "Function not implemented")


def test_without_locks_of_the_kernel_the_owner_that_is_written_counts(tmp_path, monkeypatch):
    with holder(lock_file, tmp_path / "out") as first:
        monkeypatch.setattr(fcntl, "lockf", NoLocks)
        with pytest.raises(LockedError, match=f"process {first.pid} on"), lock_file(tmp_path / "out"):
            pass
        first.kill()
        first.wait()
        with lock_file(tmp_path / "out"):
            pass
    assert files(tmp_path) == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "out.lock").symlink_to("target")
    with pytest.raises(UserError, match="cannot be written"), lock_file(tmp_path / "out"):
        pass
    assert (tmp_path / "target").read_text() == "kept"
