"""Every command that writes, on a full disk and in folders that are read-only: a line that names the file, nothing that
looks complete and is not, nothing lost that was there; with room, the same command ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.conftest import told_in_a_line
from faults.test_kills import NAMES, each_command, times

pytestmark = [pytest.mark.xdist_group("forks, too"), pytest.mark.timeout(1200)]

OVER = ("preview", "report", "evaluate")
"""What these write takes the place of what is there."""
DISK = 64 * 2**20


def try_full(trials, writing, name: str, kind: str, faults: list[dict]) -> None:
    command = writing.commands[name]
    expected, _ = writing.undisturbed(command)

    def attempt(fault):
        folder = writing.work_folder()
        before = {command.output: b"old"} if name in OVER else {}
        for own, content in before.items():
            (folder / own).write_bytes(content)
        check_full(command, folder, writing.run(command, folder, **fault), expected, before)
        writing.ends_well(command, folder)

    trials.each(f"{kind}: {name}", faults, attempt)


def check_full(command, folder: Path, ended, expected: dict, before: dict) -> None:
    """What must hold after a run that found no room, or just enough."""
    if ended.code:
        told_in_a_line(ended)
    elif "its rows stay in the journal" not in ended.stdout + ended.stderr:
        assert command.left(folder) == expected
    if not command.whole or (folder / command.whole).exists():
        left = command.left(folder)
        assert [one for one in left if left[one] not in (expected.get(one), before.get(one))] == []
    assert before.keys() <= command.left(folder).keys()


@pytest.mark.parametrize(("name", "count"), each_command(10))
def test_a_disk_that_is_full_from_some_change_on(trials, writing, name, count):
    _, ended = writing.undisturbed(writing.commands[name])
    places = trials.rng.sample(range(ended.changes), min(count, ended.changes))
    try_full(trials, writing, name, "disk full from a change on", [{"fail_at": place} for place in places])


def largest(expected: dict[str, object]) -> int:
    return max(len(content) for content in expected.values() if isinstance(content, bytes))


@pytest.mark.faults
@pytest.mark.parametrize("name", [name for name in NAMES if name != "distill"])
def test_files_that_cannot_grow(trials, writing, name):
    expected, _ = writing.undisturbed(writing.commands[name])
    sizes = [0, *(trials.rng.randrange(largest(expected)) for _ in range(times(name, 6)))]
    try_full(trials, writing, name, "files of limited size", [{"largest": size} for size in sizes])


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A disk of its own, in memory. Skips the test where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, free: int) -> Path:
    """A file that leaves ``free`` bytes."""
    path = disk / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, DISK - free - 16 * 4096)
    return path


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full(trials, writing, name, tmp_path):
    command = writing.commands[name]
    with mounted(tmp_path / "roomy") as disk:  # not `undisturbed`, since relative paths are others from here
        (disk / "work").mkdir()
        assert writing.run(command, disk / "work").code == 0
        expected = command.left(disk / "work")
    needed = sum(len(content) for content in expected.values() if isinstance(content, bytes)) + 2**16

    def attempt(case):
        number, free = case
        with mounted(tmp_path / f"disk-{number}") as disk:
            filler = fill(disk, free)
            folder = disk / "work"
            folder.mkdir()
            check_full(command, folder, writing.run(command, folder), expected, {})
            filler.unlink()
            writing.ends_well(command, folder, expected)

    sizes = [0, 4096, *(trials.rng.randrange(needed) for _ in range(times(name, 4)))]
    trials.each(f"a full disk: {name}", list(enumerate(sizes)), attempt)


@pytest.mark.parametrize(("name", "count"), each_command(2))
def test_folders_that_are_read_only(trials, writing, name, count):
    command = writing.commands[name]

    def attempt(finished):
        folder = writing.work_folder()
        if finished:
            writing.run(command, folder)
        paths = [*folder.rglob("*"), folder]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = command.left(folder)
        ended = writing.run(command, folder, unprivileged=True)
        if ended.code:
            told_in_a_line(ended)
            assert str(folder) in ended.stderr
        else:
            assert finished
        assert command.left(folder) == before
        for path in paths:
            path.chmod(0o755)
        writing.ends_well(command, folder)

    trials.each(f"a read-only folder: {name}", [False, True][-count:], attempt)
