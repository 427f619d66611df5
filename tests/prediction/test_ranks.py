"""Predictions by several processes: the same file as by one, whoever of them is killed and whoever resumes."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rivegs_mllm.cli.main import main
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.data.jsonl import read_predictions, read_split

ROOT = Path(__file__).parents[2]


def command(trained, out: Path, *more: str) -> list[str]:
    adapter = read_recipe(trained.recipe).train.output_dir
    small = ["--predict.batch_size=1", "--adapter", adapter]
    return [str(trained.recipe), "--data", str(trained.data), "--split", "dev", "--out", str(out), *small, *more]


def launch(count: int, arguments: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "rivegs_mllm.predict", *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    said = [own.communicate(timeout=300) for own in processes]
    return [(own.returncode, *text) for own, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("alone") / "p.jsonl"
    assert main(["predict", *command(trained, out)]) == 0
    answers = read_predictions(out)
    assert [answer.id for answer in answers] == [sample.id for sample in read_split(trained.data, "dev")]
    assert any(answer.entities for answer in answers)
    return out.read_bytes()


def test_two_processes_write_what_one_writes(trained, tmp_path, alone):
    out = tmp_path / "p.jsonl"
    (first, second) = ended(launch(2, command(trained, out)))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert out.read_bytes() == alone
    assert f"wrote {out}" in first[1]
    assert second[1:] == ("", "")
    assert {own.name for own in tmp_path.iterdir()} <= {"p.jsonl", "p.recipe.yaml", "p.jsonl.log"}


def test_what_two_began_one_finishes(trained, tmp_path, alone):
    out, parts = tmp_path / "p.jsonl", tmp_path / "p.jsonl.parts"
    running = launch(2, command(trained, out))
    begun = [parts / "0.jsonl", parts / "1.jsonl"]
    while all(own.poll() is None for own in running) and not all(own.exists() and own.stat().st_size for own in begun):
        time.sleep(0.01)
    for own in running:
        own.kill()
    ended(running)
    if out.exists():
        pytest.skip("they were quicker")
    kept = begun[1].read_bytes()
    begun[0].write_bytes(begun[0].read_bytes()[:-20])  # the last line is cut in the middle
    assert main(["predict", *command(trained, out)]) == 0
    assert out.read_bytes() == alone
    assert kept.splitlines()[0] in alone.splitlines()
    assert not parts.exists()


def test_one_that_fails_ends_the_others_with_a_line(trained, tmp_path):
    running = launch(2, command(trained, tmp_path / "p.jsonl"))
    while running[1].poll() is None and not (tmp_path / "p.jsonl.parts" / "1.jsonl").exists():
        time.sleep(0.01)
    running[1].kill()
    first, _ = ended(running)
    assert first[0] == 2
    assert first[2].splitlines()[-1] == "error: process 0: another process of this run has ended, and said why"
    assert "Traceback" not in first[2]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_all_find_wrong_is_told_once(trained, tmp_path, capsys, monkeypatch, rank):
    arguments = command(trained, tmp_path / "p.jsonl", "--split", "nothing")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    assert main(["predict", *arguments]) == 2
    assert ("no split 'nothing'" in capsys.readouterr().err) == (rank == 0)


def test_a_cascade_is_refused(tmp_path, emblems, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = tmp_path / "cascade.yaml"
    recipe.write_text("tagger: {type: gold}\n")
    assert main(["predict", str(recipe), "--data", str(emblems), "--out", str(tmp_path / "p.jsonl")]) == 2
    assert "start it with `rivegs predict`" in capsys.readouterr().err


def test_answers_without_their_run_are_not_taken(trained, tmp_path, alone):
    parts = tmp_path / "p.jsonl.parts"
    parts.mkdir()
    (parts / "0.jsonl").write_text(json.dumps({"id": trained.samples[0].id, "entities": []}) + "\n")
    assert main(["predict", *command(trained, tmp_path / "p.jsonl")]) == 0
    assert (tmp_path / "p.jsonl").read_bytes() == alone


def test_other_settings_are_refused_and_another_batch_is_not(trained, tmp_path, capsys):
    out, parts = tmp_path / "p.jsonl", tmp_path / "p.jsonl.parts"
    (run,) = launch(1, command(trained, out))
    while run.poll() is None and not ((parts / "0.jsonl").exists() and (parts / "0.jsonl").stat().st_size):
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert parts.exists()
    assert main(["predict", *command(trained, out, "--predict.max_new_tokens=9")]) == 2
    assert "is of another run" in capsys.readouterr().err
    assert main(["predict", *command(trained, out, "--predict.batch_size=2")]) == 0
    assert len(read_predictions(out)) == len(trained.samples)
