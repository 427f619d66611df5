"""Every command that writes, killed before a change of a file or at any moment: what lies under its final name is
complete, and the same command again ends as one that was never killed."""

from __future__ import annotations

import signal

import pytest

pytestmark = [pytest.mark.xdist_group("forks"), pytest.mark.timeout(1200)]

COUNTS = [1, pytest.param(12, marks=pytest.mark.faults)]
SLOW = ("train", "train a stage")


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
    "preview",
    "report",
    "evaluate",
    "export",
    "propose",
    "calibrate",
    "predict",
    "predict by a cascade",
    "compare",
    "distill-examples",
    "distill",
    "train",
    "train a stage",
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_killed_before_a_change_of_a_file(trials, writing, name, count):
    _, ended = writing.undisturbed(writing.commands[name])
    places = trials.rng.sample(range(ended.changes), min(count, ended.changes))
    try_kills(trials, writing, name, "killed before a change of a file", [{"kill_at": place} for place in places])


@pytest.mark.faults
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_moment(trials, writing, name):
    _, ended = writing.undisturbed(writing.commands[name])
    moments = [trials.rng.random() * ended.seconds for _ in range(10)]
    try_kills(trials, writing, name, "killed at any moment", [{"seconds": moment} for moment in moments])
