"""Training that starts from a trained adapter: with other types and data, and what has to be the same."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_base import write_recipe

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cli.main import main
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.train import make_trainer, start
from rivegs_mllm.types import UserError

STEPS = ("--train.max_steps=2", "--train.learning_rate=1e-6")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, emblems) -> Path:
    """A few of the posts, with types of their own."""
    folder = tmp_path_factory.mktemp("own") / "posts"
    folder.mkdir()
    (folder / "images").symlink_to(emblems / "images")
    names = {"PER": "athlete", "LOC": "venue", "ORG": "club", "OTHER": "brand"}
    posts = [
        dataclasses.replace(
            post, entities=tuple(dataclasses.replace(own, type=names[own.type]) for own in post.entities)
        )
        for post in read_split(emblems, "train")[:8]
    ]
    write_records(folder / "train.jsonl", posts)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, base, emblems) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), base, emblems)


@pytest.fixture(scope="module")
def first(recipe) -> Path:
    """An adapter after a few real steps on the four types of the benchmark."""
    return start(recipe, ["--train.max_steps=3", f"--train.output_dir={recipe.parent / 'first'}"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_training_goes_on_from_the_adapter_with_the_types_of_other_data(recipe, first, own_data, tmp_path):
    out = tmp_path / "second"
    assert main(["train", str(recipe), "--init", str(first), "--data", str(own_data), "--out", str(out), *STEPS]) == 0
    assert AnswerFormat.load(first).types == ("PER", "LOC", "ORG", "OTHER")
    assert set(AnswerFormat.load(out).types) == {"athlete", "venue", "club", "brand"}
    before, after = weights(first), weights(out)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.allclose(value, after[key], atol=1e-4), f"{key} is far from where it started"
    assert any(not torch.equal(value, after[key]) for key, value in before.items()), "nothing was trained"
    assert "init" in json.loads((out / "run.json").read_text())["settings"]


def test_the_first_step_sees_the_weights_of_the_adapter(recipe, first):
    trainer = make_trainer(read_recipe(recipe, [f"--init={first}"]))
    own = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    for key, value in weights(first).items():
        stem = key.removesuffix(".weight")
        assert any(stem in name and torch.equal(value, there) for name, there in own.items()), key


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["--answer.bins=32"], r"{recipe}: answer.bins: 32, but {first}/rivegs_contract.json says 64"),
        (["--answer.encoding=native"], r"{recipe}: answer.encoding: native, but {first}/rivegs_contract.json says loc"),
        (["--model.base=tiny"], r"{recipe}: model.base: tiny, but {first}/adapter_config.json was trained on"),
        (["--lora.r=4"], r"{recipe}: lora.r: 4, but {first}/adapter_config.json says 8; --lora.r=8"),
        (["--lora.target_modules=q_proj,v_proj"], r"{first}/adapter_model.safetensors: .* of other modules or shapes"),
    ],
)
def test_what_has_to_be_the_same_is_told_with_both_files(recipe, first, tmp_path, overrides, says):
    with pytest.raises(UserError) as error:
        start(recipe, [f"--init={first}", f"--train.output_dir={tmp_path / 'out'}", *overrides])
    message = str(error.value)
    assert "\n" not in message
    pattern = ".*".join(map(re.escape, says.format(recipe=recipe, first=first).split(".*")))
    assert re.search(pattern, message), message


def test_an_adapter_that_is_not_there_is_told(recipe, capsys, tmp_path):
    assert main(["train", str(recipe), "--init", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none/rivegs_contract.json: no such file" in capsys.readouterr().err
