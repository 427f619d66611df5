"""Every command that writes, killed before a change of a file or at any moment: what lies under its final name is
complete, and the same command again ends as one that was never killed."""

from __future__ import annotations

import dataclasses
import signal
import socket

import pytest

pytestmark = [pytest.mark.xdist_group("forks"), pytest.mark.timeout(1200)]


def try_kills(trials, writing, name: str, kind: str, faults: list[dict]) -> None:
    command = writing.commands[name]
    expected, _ = writing.undisturbed(command)

    def attempt(fault):
        folder = writing.work_folder()
        ended = writing.run(command, folder, **fault)
        assert ended.code in (-signal.SIGKILL, -signal.SIGALRM, 0), ended
        if not command.whole or (folder / command.whole).exists():
            left = command.left(folder)
            assert [one for one in left if left[one] != expected[one]] == []
        writing.ends_well(command, folder)

    trials.each(f"{kind}: {name}", faults, attempt)


NAMES = [
    "build",
    "build a published dataset",
    "data",
    "preview",
    "report",
    "evaluate",
    "export",
    "import",
    "propose",
    "calibrate",
    "merge",
    "predict",
    "predict by a cascade",
    "compare",
    "distill-examples",
    "distill",
    "train",
    "train a stage",
]
QUICK = ("evaluate", "predict by a cascade", "distill", "train a stage")


def each_command(count: int) -> list:
    """A few commands to be tried once, and in `make faults` all, ``count`` times."""
    few = [pytest.param(name, 1, id=f"{name}-once") for name in QUICK]
    return few + [pytest.param(name, times(name, count), id=name, marks=pytest.mark.faults) for name in NAMES]


def times(name: str, count: int) -> int:
    """``count``, and less of what takes ten times as long."""
    return max(2, count // 4) if name.startswith("train") else count


@pytest.mark.parametrize(("name", "count"), each_command(12))
def test_killed_before_a_change_of_a_file(trials, writing, name, count):
    _, ended = writing.undisturbed(writing.commands[name])
    places = trials.rng.sample(range(ended.changes), min(count, ended.changes))
    try_kills(trials, writing, name, "killed before a change of a file", [{"kill_at": place} for place in places])


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_moment(trials, writing, name):
    _, ended = writing.undisturbed(writing.commands[name])
    moments = [trials.rng.random() * ended.seconds for _ in range(times(name, 10))]
    try_kills(trials, writing, name, "killed at any moment", [{"seconds": moment} for moment in moments])


def two(run) -> list:
    """A run as two processes, as `accelerate launch` starts them on CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
    return [dataclasses.replace(run, environment={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]


COUNTS_OF_TWO = [1, pytest.param(8, marks=pytest.mark.faults)]


@pytest.mark.parametrize("count", COUNTS_OF_TWO)
def test_one_of_two_processes_is_killed(trials, writing, count):
    command = writing.commands["train"]
    whole = writing.work_folder()
    ends = writing.nursery.run(*two(command.run(whole)), together=True)
    assert [end.code for end in ends] == [0, 0], ends
    expected, changes = command.left(whole), ends[0].changes

    def attempt(case):
        rank, fault = case
        folder = writing.work_folder()
        runs = two(command.run(folder))
        runs[rank] = dataclasses.replace(runs[rank], **fault)
        ends = writing.nursery.run(*runs, together=True)
        left = command.left(folder)
        if (folder / command.whole).exists():
            assert [one for one in left if left[one] != expected[one]] == []
        else:
            assert ends[0].code
        again = writing.nursery.run(*two(command.run(folder)), together=True)
        assert [end.code for end in again] == [0, 0], again
        assert command.left(folder) == expected

    cases = [(0, {"kill_at": trials.rng.randrange(changes)}) for _ in range(-(-count // 2))]
    cases += [(1, {"seconds": trials.rng.random() * ends[1].seconds}) for _ in range(count // 2)]
    trials.each("one of two processes killed: train", cases, attempt)
