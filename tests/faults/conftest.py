"""Processes to be harmed, for all tests that start commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer
from faults.forks import Ended, Nursery
from faults.writing import DONE, Command, answered, commands

LONGEST = 1000
"""Characters that a message may have."""


class Writing:
    """Every command that writes, the process that forks them, and what each leaves where nothing goes wrong."""

    def __init__(self, nursery: Nursery, made: dict[str, Command], folder: Path):
        self.nursery = nursery
        self.commands = made
        self.folder = folder
        self.number = 0
        self.results: dict[str, tuple[dict[str, object], Ended]] = {}

    def work_folder(self) -> Path:
        """A new one."""
        self.number += 1
        folder = self.folder / f"work-{self.number}"
        folder.mkdir()
        return folder

    def run(self, command: Command, folder: Path, **faults) -> Ended:
        """Starts a command in a work folder and waits for it."""
        return self.nursery.run(command.run(folder, **faults))[0]

    def undisturbed(self, command: Command) -> tuple[dict[str, object], Ended]:
        """What a command leaves, and how it ends."""
        if command.name not in self.results:
            folder = self.work_folder()
            ended = self.run(command, folder)
            assert ended.code == 0, ended.stderr
            self.results[command.name] = (command.left(folder), ended)
        return self.results[command.name]

    def ends_well(self, command: Command, folder: Path, expected: dict[str, object] | None = None) -> None:
        """The same command once more does all that is left to do, and leaves what an undisturbed one leaves.

        Where it finds its result it refuses to start, and does not touch the lock of a process that is dead.
        """
        expected = expected or self.undisturbed(command)[0]
        ended = self.run(command, folder)
        done = command.once and any(words in ended.stderr for words in DONE)
        assert ended.code == 0 or done, ended.stderr
        left = command.left(folder)
        assert left.keys() == expected.keys()
        assert [name for name in left if left[name] != expected[name]] == []
        rest = (".partial",) if done else (".partial", ".lock")
        assert [path.name for path in folder.rglob("*") if path.suffix in rest] == []


@pytest.fixture(scope="session")
def writing(tmp_path_factory, emblems, learned, base) -> Iterator[Writing]:
    """To be used by tests of the groups "forks" and "forks, too": each process of pytest-xdist starts its own."""
    folder = tmp_path_factory.mktemp("writing")
    with ChatServer(answered) as server, Nursery(folder / "nursery") as nursery:
        yield Writing(nursery, commands(folder / "inputs", emblems, learned, base, server.url), folder)


def told_in_a_line(ended: Ended) -> None:
    """A command ended with a line that says what went wrong, and no trace."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.stderr.rstrip().splitlines()[-1].startswith("error: "), ended.stderr
