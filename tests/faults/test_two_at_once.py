"""Every command that writes, started twice at once into one output: one does the work, the other is refused or finds it
done, and what is left is what one alone leaves."""

from __future__ import annotations

import dataclasses

import pytest
from faults.test_kills import each_command
from faults.writing import DONE

pytestmark = [pytest.mark.xdist_group("forks"), pytest.mark.timeout(1200)]

REFUSED = ("is being written by process", "another process is writing to it", *DONE)


@pytest.mark.parametrize(("name", "count"), each_command(8))
def test_two_at_once(trials, writing, name, count):
    command = writing.commands[name]
    expected, alone = writing.undisturbed(command)

    def attempt(delay):
        folder = writing.work_folder()
        one = command.run(folder)
        ends = writing.nursery.run(one, dataclasses.replace(one, delay=delay))
        assert 0 in [end.code for end in ends], ends
        for end in ends:
            assert end.code == 0 or (end.code == 2 and any(words in end.stderr for words in REFUSED)), end
        assert command.left(folder) == expected
        assert [path.name for path in folder.rglob("*") if path.suffix in (".partial", ".lock")] == []

    delays = [0.0, *(trials.rng.random() * alone.seconds for _ in range(count - 1))]
    trials.each(f"two at once: {name}", delays, attempt)
