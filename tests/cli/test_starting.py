"""The commands that begin with a dataset: its figures, a recipe for it, and the command that comes next."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from rivegs_mllm.cli.main import main
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.config.starting import bases
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.train import read_data
from rivegs_mllm.types import Prediction, UserError


@pytest.fixture
def own(tmp_path, emblems, monkeypatch) -> Path:
    """A folder of one's own, without a checkout's recipes, where posts of each kind are in data."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "text", "undecided"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(emblems / "images")
    posts = read_split(emblems, "train")
    for split in ("train", "dev", "test"):
        write_records(tmp_path / "data" / f"{split}.jsonl", read_split(emblems, split))
    plain = [dataclasses.replace(own, expression="", visible=None, boxes=(), masks=()) for own in posts[0].entities]
    bare = dataclasses.replace(posts[0], entities=tuple(plain), knowledge=())
    write_records(tmp_path / "text" / "train.jsonl", [dataclasses.replace(bare, image="", size=None)])
    write_records(tmp_path / "undecided" / "train.jsonl", [bare])
    return tmp_path


def written(folder: Path, *options: str) -> object:
    """The recipe that ``init`` writes, as it is read."""
    out = folder / "mine.yaml"
    assert main(["init", *options, "--out", str(out)]) == 0
    return read_recipe(out, ["--train.use_cpu=true", "--train.bf16=false"])


@pytest.mark.parametrize("base", [base.name for base in bases()])
def test_a_recipe_for_every_base_is_read_where_there_is_no_checkout(own, base):
    recipe = written(own, "--data", "data", "--base", base, "--gpus", "2")
    assert recipe.data.folder == Path("data")
    assert recipe.answer.segments == ["knowledge", "entities", "expressions", "visible", "boxes"]
    assert (recipe.model.quantization == "nf4") == base.endswith("-nf4")
    steps = recipe.train.max_steps
    posts = len(read_split(own / "data", "train"))
    a_step = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps * 2
    assert (
        steps >= 300
        or recipe.train.num_train_epochs * -(-posts // a_step) >= 300
        or recipe.train.num_train_epochs == 30
    )


def test_only_what_the_data_has_is_to_be_written(own, capsys):
    recipe = written(own, "--data", "text", "--base", "qwen2_5_vl_3b", "--gpus", "1")
    assert recipe.answer.segments == ["entities"]
    assert "box" not in recipe.answer.instruction
    assert recipe.train.eval_strategy == "no", "there is no dev split"
    (own / "mine.yaml").unlink()
    assert written(own, "--data", "undecided").answer.segments == ["entities"]
    said = capsys.readouterr().out
    assert (
        "1 post of 1 to train on without a word on whether the picture shows an entity: visible and boxes are" in said
    )
    assert "instruction" not in (own / "mine.yaml").read_text(), "the tiny base has none to follow"


def test_one_undecided_entity_costs_its_post_and_nothing_else(own, capsys):
    posts = read_split(own / "data", "train")
    place = next(place for place, post in enumerate(posts) if post.entities)
    first, *others = posts[place].entities
    posts[place] = dataclasses.replace(posts[place], entities=(undecided(first), *others))
    write_records(own / "data" / "train.jsonl", posts)
    recipe = written(own, "--data", "data")
    assert "boxes" in recipe.answer.segments
    assert "1 post of 24 to train on without a word on whether" in capsys.readouterr().out
    assert len(read_data(recipe).train) == len(posts) - 1
    assert f"train: 1 post of 24 left out: it is not known whether the picture shows, such as {first.text!r}" in (
        capsys.readouterr().out
    )
    bare = [dataclasses.replace(own, entities=tuple(map(undecided, own.entities))) for own in posts]
    write_records(own / "data" / "train.jsonl", bare)
    with pytest.raises(UserError, match="train: no post says of each of its entities"):
        read_data(recipe)


def undecided(entity):
    return dataclasses.replace(entity, visible=None, boxes=(), masks=())


def test_it_says_what_to_do_next_and_overwrites_nothing(own, capsys):
    written(own, "--data", "data")
    said = capsys.readouterr().out
    assert f"  rivegs preview {own}/mine.yaml\n  rivegs train {own}/mine.yaml\n  rivegs predict" in said
    assert main(["init", "--data", "data", "--out", "mine.yaml"]) == 2
    assert main(["init"]) == 2
    assert "--data: missing" in capsys.readouterr().err


def test_questions_are_asked_on_a_terminal_until_an_answer_fits(own, monkeypatch, capsys):
    answers = iter(["data", "two", "1", "qwen", "qwen3_vl_8b"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert main(["init", "--out", "mine.yaml"]) == 0
    assert "qwen3_vl_8b" in (own / "mine.yaml").read_text()
    assert re.search(r"qwen3_vl_8b-nf4 +Qwen3-VL-8B, NF4, LoRA, [\d.]+ GB on one GPU", capsys.readouterr().out)


def test_the_figures_of_a_dataset(own, capsys):
    assert main(["data", "data"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^posts +24 +\d+ +\d+$", said, re.MULTILINE)
    assert "findings" not in said
    assert said.endswith("next: rivegs audit data\n")


def test_a_page_of_its_posts(own, capsys):
    assert main(["data", "data", "--out", "data.html", "--count", "5"]) == 0
    assert "wrote data.html\n" in capsys.readouterr().out
    assert (own / "data.html").read_text().count("<article") == 5
    assert main(["data", "data", "--out", "data/train.jsonl"]) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_one_file_of_a_dataset(own, capsys):
    assert main(["data", "data/test.jsonl", "--out", "data.html", "--count", "5"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^ +test\nposts +\d+$", said, re.MULTILINE)
    assert said.endswith("wrote data.html\nnext: rivegs audit data/test.jsonl\n")
    assert (own / "data.html").read_text().count("<article") == 5


def test_gold_and_predictions_the_wrong_way_round(own, capsys):
    write_records(own / "answers.jsonl", [Prediction(own.id, raw="x") for own in read_split(own / "data", "test")])
    for command in ("evaluate", "report"):
        assert main([command, "answers.jsonl", "data/test.jsonl"]) == 2
        assert capsys.readouterr().err == (
            "error: answers.jsonl:1: line: a prediction, which has no tokens, in the place of a sample: the gold is "
            "named first\n"
        )


def test_what_comes_next_is_a_command_that_can_be_taken_as_it_is_printed(own, capsys):
    assert main(["audit", "data"]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    assert command == "rivegs init --data data"
    assert main(shlex.split(command)[1:]) == 0
    write_records(own / "answers.jsonl", [Prediction(own.id) for own in read_split(own / "data", "test")])
    capsys.readouterr()
    assert main(["evaluate", "data", "answers.jsonl"]) == 0
    assert capsys.readouterr().out.endswith("next: rivegs report data answers.jsonl --split test\n")
