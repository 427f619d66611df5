"""What is told of a run while it runs."""

import io

from rich.console import Console

from rivegs_mllm.runtime import progress as live


def told(terminal: bool, seconds: float, monkeypatch) -> str:
    monkeypatch.setattr(live, "SECONDS", seconds)
    said = io.StringIO()
    with live.ProgressReporter(1000, Console(file=said, force_terminal=terminal, width=200)) as running:
        for number in range(250):
            running.advance(cost=number / 100, failed=number // 100)
    return said.getvalue()


def test_lines_where_there_is_no_terminal(monkeypatch):
    lines = told(False, 0.0, monkeypatch).splitlines()
    assert len(lines) == 250
    assert lines[0].startswith("1 of 1,000 answers, ")
    assert lines[-1].startswith("250 of 1,000 answers, ")
    assert lines[-1].endswith(" left, cost 2.49, 2 failed")
    rate, left = lines[-1].split(", ")[1:3]
    assert float(rate.removesuffix("/s").replace(",", "")) > 0
    assert left.removesuffix(" left").count(":") == 2


def test_not_more_than_one_line_in_a_while(monkeypatch):
    assert told(False, 60.0, monkeypatch) == ""


def test_bar_on_a_terminal(monkeypatch):
    said = told(True, 0.0, monkeypatch)
    assert "250/1000" in said
    assert "cost 2.49, 2 failed" in said
    assert " of 1,000 answers" not in said
