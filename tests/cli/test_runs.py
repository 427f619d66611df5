"""Which runs there are, how far they came, and in what they differ."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.cli.main import main


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write("runs/a", {"lora.r": 8, "data.train": "12 samples"}, {"test": {"mner_f1": 0.5, "gmner_f1": 0.25}})
    (tmp_path / "runs/a/rivegs_contract.json").touch()
    write("runs/group/b", {"lora.r": 16, "data.train": "12 samples"}, {})
    (tmp_path / "runs/group/b/checkpoint-20").mkdir()
    (tmp_path / "runs/group/b/checkpoint-3").mkdir()
    write("runs/c", {"lora.r": 8}, {})
    (tmp_path / "runs/c/run.json").write_text("{")
    (tmp_path / "runs/slot").mkdir()
    (tmp_path / "runs/slot/run.json").write_text('{"settings": "a digest"}')
    return tmp_path / "runs"


def write(folder: str, settings: dict, metrics: dict) -> None:
    start = {"at": "2026-12-01 10:00:00", "machine": "8 x H100", "packages": {"torch": "2.13.0"}, "processes": 8}
    Path(folder).mkdir(parents=True)
    Path(folder, "run.json").write_text(json.dumps({"version": 2, "settings": settings, "starts": [start]}))
    Path(folder, "metrics.json").write_text(json.dumps(metrics))


def test_runs_are_found_with_their_state_and_scores(runs, capsys):
    assert main(["runs"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "trained" in lines["runs/a"]
    assert "test: mner_f1 0.500, gmner_f1 0.250" in lines["runs/a"]
    assert "2026-12-01 10:00:00" in lines["runs/a"]
    assert "8 x H100" in lines["runs/a"]
    assert "stopped, checkpoint of step 20" in lines["runs/group/b"]
    assert "run.json is damaged" in lines["runs/c"]
    assert "runs/slot" not in lines


def test_two_runs_are_compared(runs, capsys):
    assert main(["runs", "runs/a", "runs/group/b"]) == 0
    said = capsys.readouterr().out.split("setting")[1]
    assert [line.split() for line in said.splitlines()[2:] if line.strip()] == [["lora.r", "8", "16"]]
    assert main(["runs", "runs/a", "runs"]) == 0
    assert "setting" not in capsys.readouterr().out


def test_no_run_is_a_line(runs, capsys):
    (runs / "none").mkdir()
    assert main(["runs", "runs/none"]) == 2
    assert "runs/none: no run" in capsys.readouterr().err
    assert main(["runs", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "null", '{"settings": {}, "starts": 3}', '{"settings": {}, "starts": [1]}'])
def test_whatever_a_file_holds_is_read(runs, content, capsys):
    (runs / "c" / "run.json").write_text(content)
    (runs / "c" / "metrics.json").write_text('{"dev": {"f1": "x"}, "test": []}')
    assert main(["runs"]) == 0
