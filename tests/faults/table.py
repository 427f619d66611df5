"""Counts what was tried and what failed, by kind of fault, and prints the table: ``make faults``.

A test takes the fixture ``trials`` and names a kind; the counts travel with the test's report, so that they also reach
the table from the processes of pytest-xdist. With FAULTS_TABLE=FILE the table is also written between the markers of
that file; FAULTS_SEED (default 0) seeds ``trials.rng``.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

Case = TypeVar("Case")

PROPERTY = "faults"
BEGIN, END = "<!-- table of make faults -->", "<!-- end of table -->"
MOST_SHRINKS = 200


class Trials:
    """The trials of one test. ``rng`` is seeded by FAULTS_SEED and the test's name."""

    def __init__(self, node: pytest.Item):
        self.node = node
        self.rng = random.Random(f"{os.environ.get('FAULTS_SEED', '0')}/{node.name}")

    def count(self, kind: str, tried: int = 1, failed: int = 0) -> None:
        """Adds to the table, for tests that try and judge themselves, such as those of Hypothesis."""
        self.node.user_properties.append((PROPERTY, [kind, tried, failed]))

    def each(
        self,
        kind: str,
        cases: Iterable[Case],
        attempt: Callable[[Case], object],
        smaller: Callable[[Case], Iterable[Case]] | None = None,
    ) -> None:
        """Calls ``attempt`` with every case, all of them even where some fail; a case fails when it raises.

        ``kind`` is the table's row, such as "predict: killed at a random moment". ``smaller`` gives smaller cases than
        the one it is given, from which the smallest that fails is looked for. At the end the test fails, with the
        smallest failing case and its error, if any case failed.
        """
        tried, failures = 0, []
        for case in cases:
            tried += 1
            if (error := _error(attempt, case)) is not None:
                failures.append((case, error))
        assert tried, f"{kind}: nothing was tried"
        self.count(kind, tried, len(failures))
        if failures:
            case, error = min(failures, key=lambda failure: len(repr(failure[0])))
            if smaller is not None:
                case, error = _smallest(case, error, attempt, smaller)
            raise AssertionError(
                f"{kind}: {len(failures)} of {tried} failed; the smallest:\n{case!r}\n{type(error).__name__}: {error}"
            ) from error


def _error(attempt: Callable[[Case], object], case: Case) -> BaseException | None:
    try:
        attempt(case)
    except (Exception, pytest.fail.Exception, SystemExit) as error:
        return error
    return None


def _smallest(case: Case, error: BaseException, attempt: Callable, smaller: Callable) -> tuple[Case, BaseException]:
    """Goes from a failing case to a smaller one that fails too, as long as there is one."""
    left = MOST_SHRINKS
    found = True
    while found and left:
        found = False
        for candidate in smaller(case):
            left -= 1
            if (own := _error(attempt, candidate)) is not None:
                case, error, found = candidate, own, True
                break
            if not left:
                break
    return case, error


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """Tries cases and counts them into the table by kind."""
    return Trials(request.node)


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints the table of all tests that counted; writes it to FAULTS_TABLE."""
    tried, failed = Counter(), Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    if name == PROPERTY:
                        tried[value[0]] += value[1]
                        failed[value[0]] += value[2]
    if not tried:
        return
    rows = [(kind, tried[kind], failed[kind]) for kind in sorted(tried)]
    rows.append(("all", sum(tried.values()), sum(failed.values())))
    terminalreporter.section("faults")
    width = max(len(kind) for kind, _, _ in rows)
    terminalreporter.write_line(f"{'kind':{width}}  {'tried':>7}  {'failed':>6}")
    for kind, count, bad in rows:
        terminalreporter.write_line(f"{kind:{width}}  {count:>7,}  {bad:>6,}")
    if path := os.environ.get("FAULTS_TABLE"):
        _write(Path(path), rows)


def _write(path: Path, rows: Iterable[tuple[str, int, int]]) -> None:
    lines = ["| fault | tried | failed |", "|---|---:|---:|"]
    lines += [f"| {kind} | {count:,} | {bad:,} |" for kind, count, bad in rows]
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{path}: has no lines {BEGIN} and {END} to write the table between")
    path.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"]), encoding="utf-8")
