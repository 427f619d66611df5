"""The command line as a user meets it: help, whole runs, and mistakes without a stack trace."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from rivegs_mllm.cli.main import main
from rivegs_mllm.data.jsonl import read_predictions, read_split, write_records
from rivegs_mllm.types import Prediction

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes" / "tiny" / "e2e.yaml")


@pytest.fixture(scope="module")
def emblems(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "emblems"
    command = ["build", "emblems", "--out", str(folder), "--seed", "3", "--train", "8", "--dev", "4", "--test", "7"]
    assert main(command) == 0
    return folder


def gold_as_predictions(folder: Path, out: Path) -> list[Prediction]:
    gold = read_split(folder, "test")
    predictions = [Prediction(sample.id, entities=sample.entities) for sample in gold]
    write_records(out, predictions)
    return predictions


@pytest.mark.parametrize(
    "command", [[], ["build"], ["build", "emblems"], ["build", "twitter-gmner"], ["audit"], ["preview"], ["train"],
             ["recipe"], ["predict"], ["evaluate"], ["calibrate"], ["report"], ["export"], ["compare"],
             ["distill"], ["distill-examples"]]
)  # fmt: skip
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: rivegs" in capsys.readouterr().out


def test_a_made_dataset_passes_its_audit(emblems, capsys):
    assert main(["audit", str(emblems)]) == 0
    assert "test" in capsys.readouterr().out


def test_gold_as_prediction_is_100_in_every_task(emblems, tmp_path, capsys):
    gold_as_predictions(emblems, tmp_path / "gold.jsonl")
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(emblems), str(tmp_path / "gold.jsonl"), "--json", str(scores)]) == 0
    strict = json.loads(scores.read_text())["strict"]
    assert set(strict["all"]) == {"MNER", "GMNER", "EEG", "SMNER", "EES"}
    assert {figures["f1"] for tasks in strict.values() for figures in tasks.values() if figures["gold"]} == {1.0}
    assert "100.00" in capsys.readouterr().out


def test_a_report_of_two_systems(emblems, tmp_path):
    predictions = gold_as_predictions(emblems, tmp_path / "a.jsonl")
    write_records(tmp_path / "b.jsonl", predictions[:3])
    page = tmp_path / "page.html"
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert main(["report", str(emblems), *files, "--out", str(page)]) == 0
    assert page.read_text().count("<svg") > 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["evaluate", "nowhere.jsonl", "x.jsonl"], "nowhere.jsonl"),
        (["evaluate", "{emblems}", "{tmp}/none.jsonl"], "none.jsonl"),
        (["evaluate", "{emblems}", "{tmp}/bad.jsonl"], "bad.jsonl:1"),
        (["evaluate", "{emblems}", "{tmp}/bad.jsonl", "--split", "validation"], "validation"),
        (["audit", "{tmp}/empty"], "empty"),
        (["train", "{tmp}/none.yaml"], "none.yaml"),
        (["predict", RECIPE, "--data", "{emblems}", "--out", "{tmp}/p.jsonl", "--adapter", "{tmp}/none"], "contract"),
        (
            ["predict", RECIPE, "--data", "{emblems}", "--split", "nope", "--out", "{tmp}/p.jsonl", "--untuned"],
            "nope",
        ),
        (["build", "twitter-gmner", "--raw", "{tmp}/none", "--out", "{tmp}/o", "--without-images"], "none"),
        (["build", "twitter-gmner", "--raw", "{tmp}/none", "--out", "{tmp}/o"], "--images"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(command, says, emblems, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"id": 7}\n')
    (tmp_path / "empty").mkdir()
    assert main([part.format(emblems=emblems, tmp=tmp_path) for part in command]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert says in message
    assert "Traceback" not in message


def test_an_unknown_key_of_a_recipe_is_named(emblems, tmp_path, capsys):
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(Path(RECIPE).read_text() + "  learning_rat: 1\n")
    assert main(["train", str(recipe)]) == 2
    assert "learning_rat" in capsys.readouterr().err


def test_unknown_arguments_are_refused_where_nothing_can_be_overridden(emblems):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(emblems), "own.jsonl", "--train.learning_rate=1"])
    assert stop.value.code == 2


def predict_command(emblems: Path, out: Path, *more: str) -> list[str]:
    small = ["--predict.max_new_tokens=48", "--predict.batch_size=1"]
    return ["predict", RECIPE, "--base-model", "--data", str(emblems), "--out", str(out), *small, *more]


def test_prediction_goes_on_where_it_was_killed(emblems, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert main(predict_command(emblems, whole)) == 0
    expected = read_predictions(whole)
    assert [answer.id for answer in expected] == [sample.id for sample in read_split(emblems, "test")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.jsonl", "whole.recipe.yaml"]

    partial = tmp_path / "killed.jsonl.parts" / "0.jsonl"
    running = subprocess.Popen([sys.executable, "-m", "rivegs_mllm.cli.main", *predict_command(emblems, out)], cwd=ROOT)
    while running.poll() is None and not (partial.exists() and partial.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not out.exists()
    # The first answer is marked, to see that it is not given again; the last line is cut in the middle.
    first, *lines = partial.read_bytes().splitlines(keepends=True)
    marked = orjson.dumps({**orjson.loads(first), "knowledge": "kept"}) + b"\n"
    partial.write_bytes(marked + b"".join(lines)[:-20])
    assert main(predict_command(emblems, out)) == 0
    kept = orjson.loads(first)["id"]
    expected = [dataclasses.replace(own, knowledge="kept") if own.id == kept else own for own in expected]
    assert read_predictions(out) == expected


def test_a_part_of_another_run_is_refused(emblems, tmp_path, capsys):
    (tmp_path / "p.jsonl.parts").mkdir()
    (tmp_path / "p.jsonl.parts" / "run").write_text("another run")
    assert main(predict_command(emblems, tmp_path / "p.jsonl")) == 2
    assert "another run" in capsys.readouterr().err


def test_posts_that_are_not_answered_as_they_are_end_no_run(emblems, tmp_path, capsys):
    """A long one and one whose picture is gone: said, listed, and with --strict told by the exit code."""
    data = tmp_path / "data"
    shutil.copytree(emblems, data)
    posts = [orjson.loads(line) for line in (data / "test.jsonl").read_bytes().splitlines()]
    long = {**posts[0], "id": "long", "tokens": posts[0]["tokens"] * 500, "entities": []}
    lost = {**posts[1], "id": "lost", "image": "images/lost.jpg", "entities": []}
    write = (data / "test.jsonl").write_bytes
    write(b"".join(orjson.dumps(post) + b"\n" for post in [*posts[:2], long, lost]))
    out = tmp_path / "answers.jsonl"
    assert main(predict_command(data, out, "--strict")) == 1
    said = capsys.readouterr().out
    assert f"wrote {out}: 4 posts, " in said
    assert "1 truncated, 1 no picture" in said
    assert re.search(r"^  long: truncated: read [0-9]+ of", said, re.MULTILINE)
    assert "  lost: no picture: " in said
    answers = read_predictions(out)
    assert [answer.id for answer in answers] == [posts[0]["id"], posts[1]["id"], "long", "lost"]
    out.unlink()
    write(b"".join(orjson.dumps(post) + b"\n" for post in [*posts[:2], long, lost]))
    assert main(predict_command(data, out)) == 0
    out.unlink()
    write(b"".join(orjson.dumps(post) + b"\n" for post in posts[:2]))
    assert main(predict_command(data, out, "--strict")) == 0
    assert [answer.raw for answer in answers[:2]] == [answer.raw for answer in read_predictions(out)]
