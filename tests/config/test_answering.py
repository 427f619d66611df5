"""A recipe without its training; and the copy of it that lies beside the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_base import make_recipe, write_recipe

from rivegs_mllm.config.answering import read_answering, save_recipe
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.config.trained import FILE_NAME, trained_folder
from rivegs_mllm.types import UserError

OVERRIDES = ("--lora.r=4", "--train.learning_rate=3e-4", "--augment.name_augmentation=0.5", "--predict.batch_size=3")


def test_what_is_saved_is_what_was_trained_by(tmp_path, base, emblems):
    recipe = make_recipe(tmp_path, base, emblems, *OVERRIDES)
    save_recipe(recipe, tmp_path)
    again = read_recipe(tmp_path / FILE_NAME)
    assert again.lora.to_dict() == recipe.lora.to_dict()
    assert again.train.to_dict() == recipe.train.to_dict()
    for name in ("data", "model", "answer", "augment", "predict", "max_length", "muon", "distilled"):
        assert getattr(again, name) == getattr(recipe, name), name


def test_prediction_s_part_is_that_of_the_whole(tmp_path, base, emblems):
    path = write_recipe(tmp_path, base, emblems)
    whole, part = read_recipe(path, OVERRIDES), read_answering(path, OVERRIDES)
    parts = (part.model, part.answer, part.predict, part.max_length)
    assert parts == (whole.model, whole.answer, whole.predict, whole.max_length)
    assert trained_folder(path) == Path(whole.train.output_dir)
    assert trained_folder(path, ["--train.output_dir=else where"]) == Path("else where")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--modle.base=x", "modle: no such key"),
        ("--model.bas=x", "bas: no such key"),
        ("--model.quantization=int3", "quantization"),
        ("--predict.batch_size=0", "batch_size"),
        ("--answer.weights={visibel: 1}", "visibel"),
        ("--max_length=-1", "max_length"),
    ],
)
def test_wrong_keys_and_values_are_told(tmp_path, base, emblems, override, words):
    path = write_recipe(tmp_path, base, emblems)
    with pytest.raises(UserError, match=words) as caught:
        read_answering(path, [override])
    assert str(path) in str(caught.value)


def test_recipes_of_other_kinds_say_what_they_are_for(tmp_path):
    for content, words in (
        ("tagger: {type: gold}\n", "a cascade"),
        ("stage: {type: crf, encoder: tiny}\n", "a stage of the cascade"),
        ("lora: {r: 4}\n", "model"),
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            read_answering(path)
