"""``rivegs try``: one post on the console."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from rivegs_mllm.cli.main import main


@pytest.fixture
def post(trained, tmp_path, monkeypatch):
    """The words and the picture of a post, and the model's folder; the working folder is an empty one."""
    sample = trained.samples[0]
    shutil.copy(trained.data / sample.image, tmp_path / "match.jpg")
    monkeypatch.chdir(tmp_path)
    return sample.text, str(trained.recipe.parent / "run")


def test_entities_are_a_table_and_the_picture_a_file(post, capsys, tmp_path):
    text, model = post
    assert main(["try", text, "--image", "match.jpg", "--model", model]) == 0
    printed = capsys.readouterr().out
    assert "entity" in printed
    assert "PER" in printed or "ORG" in printed
    assert printed.rstrip().endswith("wrote match.entities.png")
    assert Image.open(tmp_path / "match.entities.png").size == Image.open(tmp_path / "match.jpg").size


def test_json_and_no_picture(post, capsys, tmp_path):
    text, model = post
    assert main(["try", text, "--model", model, "--json", "--threshold", "0.2"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["match.jpg"]


def test_no_entities_is_said(post, capsys):
    assert main(["try", "", "--model", post[1]]) == 0
    assert "no named entities" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hello"], "`make demo` trains it"),
        (["hello", "--model", "nothing"], "no such folder or recipe"),
        (["hello", "--image", "none.jpg", "--model", "{model}"], "none.jpg: no such picture"),
        (["hello", "--out", "x.png"], "no --image"),
        (["hello", "--image", "match.jpg", "--out", "match.jpg", "--model", "{model}"], "own picture"),
        (["hello", "--threshold", "7", "--model", "{model}"], "not a probability"),
    ],
)
def test_mistakes_are_one_line(post, capsys, arguments, words):
    arguments = [argument.format(model=post[1]) for argument in arguments]
    if "--out" in arguments and "--model" not in arguments:
        arguments += ["--model", post[1]]
    assert main(["try", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
