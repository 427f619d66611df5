"""The table of all keys is that of the dataclasses, and reads every recipe as they do."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
from recipe_files import named, recipes
from recipe_kinds import OTHERS, kind

from rivegs_mllm.cli import early
from rivegs_mllm.cli.early import check_keys
from rivegs_mllm.cli.write_key_table import RECIPES
from rivegs_mllm.config.check import UnknownKeyError
from rivegs_mllm.config.key_table import PATH, as_table, key_table
from rivegs_mllm.config.nearest import nearest_keys
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.types import UserError

KNOWN = ["data.folder", "train.num_train_epochs", "train.learning_rate", "lora.r", "predict.batch_size", "max_length"]


def test_the_table_is_written_again_where_a_dataclass_has_changed():
    """If this fails: python -m rivegs_mllm.cli.write_key_table."""
    written, now = json.loads(PATH.read_text(encoding="utf-8")), json.loads(json.dumps(as_table(RECIPES)))
    if written["versions"] != now["versions"]:  # the lock has an older transformers for Python 3.10
        pytest.skip(f"the table was made with {written['versions']}")
    assert now == written


@pytest.mark.parametrize("path", [path for path in recipes() if path.name != "base.yaml"], ids=named)
def test_every_recipe_is_right_by_the_table(path):
    own, _ = OTHERS.get(path.name) or kind(path)
    layered = read_layers(path)
    for one in layered.variants().values() or [layered]:
        assert check_keys(one, own.__name__ if own else "CascadeRecipe")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--train.eval_strategy=sometimes", "none of no, steps, epoch"),
        ("--lora.bias=some", "none of none, all, lora_only"),
        ("--answer.weights.visible=-1", "answer.weights.visible: -1.* is not a number of at least 0"),
        ("--train.warmup_steps=-1", "train.warmup_steps: -1.* is not a number of at least 0"),
        ("--max_length=0", "max_length: 0 is not a number of at least 1"),
        ("--answer.types=3", "answer.types"),
    ],
)
def test_a_wrong_value_is_told_as_the_dataclasses_tell_it(override, says):
    with pytest.raises(UserError, match=says):
        check_keys(read_layers("recipes/tiny/e2e.yaml", [override]), "Recipe")


def test_a_setting_that_another_version_of_a_library_may_have_is_left_to_it(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    monkeypatch.setattr(early, "key_table", key_table.__wrapped__)
    for override in ("--train.new_setting=1", "--lora.new_setting=1"):
        check_keys(read_layers("recipes/tiny/e2e.yaml", [override]), "Recipe")
    with pytest.raises(UnknownKeyError, match=r"did you mean train\.num_train_epochs"):
        check_keys(read_layers("recipes/tiny/e2e.yaml", ["--epochs=1"]), "Recipe")
    with pytest.raises(UserError, match=r"lora\.r: 0"):
        check_keys(read_layers("recipes/tiny/e2e.yaml", ["--lora.r=0"]), "Recipe")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epochs", ["train.num_train_epochs"]),
        ("train.epochs", ["train.num_train_epochs"]),
        ("LR", ["train.learning_rate"]),
        ("learning-rate", ["train.learning_rate"]),
        ("rank", ["lora.r"]),
        ("batch_size", ["predict.batch_size"]),
        ("max_lenght", ["max_length"]),
        ("data.foldr", ["data.folder"]),
        ("surprise", []),
    ],
)
def test_nearest_keys(key, meant):
    assert nearest_keys(key, KNOWN) == meant
