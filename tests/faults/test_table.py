"""The table itself: a failure is found, made as small as it can be, and does not end the trials of the others."""

import pytest
from faults.table import BEGIN, END, Trials, _write


class Node:
    name = "a test"

    def __init__(self):
        self.user_properties = []


def no_seven(case: list[int]) -> None:
    assert 7 not in case


def test_the_smallest_failing_case_is_shown_and_all_are_tried():
    node = Node()
    with pytest.raises(AssertionError, match=r"with: 2 of 3 failed; the smallest:\n\[7\]"):
        Trials(node).each(
            "with",
            [[1, 7, 2], [1], [7, 7, 7, 7]],
            no_seven,
            lambda case: (case[:place] + case[place + 1 :] for place in range(len(case))),
        )
    assert node.user_properties == [("faults", ["with", 3, 2])]


def test_trials_that_try_nothing_fail():
    with pytest.raises(AssertionError, match="nothing was tried"):
        Trials(Node()).each("with", [], no_seven)


def test_the_table_is_written_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for _ in range(2):
        _write(page, [("kill", 1200, 0)])
    rows = "| fault | tried | failed |\n|---|---:|---:|\n| kill | 1,200 | 0 |"
    assert page.read_text() == f"above\n{BEGIN}\n\n{rows}\n\n{END}\nbelow\n"
