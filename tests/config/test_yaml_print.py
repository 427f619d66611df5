"""`rivegs recipe`: what is printed reads as the recipe that it was made of, and says where each value is written."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_files import ROOT, named, recipes

from rivegs_mllm.cli.main import main
from rivegs_mllm.config.reading import former_names
from rivegs_mllm.config.reading.layers import DEFAULT_FOLDER, Layered, Sourced, read_layers
from rivegs_mllm.config.reading.yaml_loader import read_yaml
from rivegs_mllm.config.reading.yaml_print import as_yaml
from rivegs_mllm.config.reading.yaml_text import plain


@pytest.mark.parametrize("path", recipes(), ids=named)
def test_every_recipe_is_printed_as_one_that_says_the_same(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = Path(named(path))
    assert main(["recipe", str(path)]) == 0
    printed = capsys.readouterr().out
    again = tmp_path / "printed.yaml"
    again.write_text(printed, encoding="utf-8")
    assert read_yaml(again) == read_yaml(path)
    written = {Path(name) for name in re.findall(r"  # from (.+)$", printed, re.MULTILINE)}
    assert written <= set(read_layers(path).files)
    assert written


def test_each_value_says_where_it_is_written(tmp_path, capsys):
    below, child = tmp_path / "_below.yaml", tmp_path / "child.yaml"
    below.write_text("lora: {r: 8, lora_alpha: 16}\ntrain: {seed: 1, output_dir: x}\n", encoding="utf-8")
    child.write_text("base: _below.yaml\nlora: {r: 4}\nnote: |-\n  one\n  two\n", encoding="utf-8")
    assert main(["recipe", str(child), "--train.seed=7"]) == 0
    assert capsys.readouterr().out == (
        f"lora:\n  r: 4  # from {child}\n  lora_alpha: 16  # from {below}\n"
        f"train:\n  seed: 7  # override\n  output_dir: runs/child  # {DEFAULT_FOLDER}\n"
        f"note: |-  # from {child}\n  one\n  two\n"
    )


def test_a_recipe_that_is_wrong_is_told_in_one_line(tmp_path, capsys):
    assert main(["recipe", str(tmp_path / "gone.yaml")]) == 2
    assert "no such recipe" in capsys.readouterr().err
    below = tmp_path / "_below.yaml"
    below.write_text("seed: 1\n", encoding="utf-8")
    assert main(["recipe", str(below)]) == 2
    assert "a base of other recipes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override",
    [
        "--answer.instruction={text}",
        "--lora.target_modules=[q_proj, 'v, x']",
        "--answer.weights={visible: 2.0, boxes: 1}",
        "--answer.instruction=no",
        "--train.output_dir=it's",
        "--answer.instruction=[{text}]",
        "--answer.instruction=[a, {text}, {types}]",
        "--train.output_dir=a: b",
        "--train.output_dir=a #b",
        "--data.max_eval_samples=null",
        "--data.max_eval_samples=",
        "--augment.knowledge=true",
        "--model.revision=007",
        "--model.revision=1e5",
    ],
)
def test_overrides_are_printed_as_what_they_are_for(tmp_path, override):
    from rivegs_mllm.config.schema import read_recipe

    path, again = ROOT / "recipes" / "tiny" / "e2e.yaml", tmp_path / "again.yaml"
    again.write_text(as_yaml(read_layers(path, [override])), encoding="utf-8")

    def attempt(path, *overrides):
        try:
            recipe = read_recipe(path, overrides)
            return recipe.data, recipe.model, recipe.answer, recipe.lora, recipe.train.output_dir
        except Exception as error:
            return str(error).replace(str(path), "")

    assert attempt(again) == attempt(path, override)


TEXTS = st.text(max_size=30) | st.text(alphabet="ab \n\t:#'\"{}[]-?&*!|>%@,~\\\u00e9\U0001f600\x7f\x85", max_size=12)
KEYS = TEXTS.filter(lambda text: text not in (*former_names.KEYS, "type", "kind"))  # those are read by their new name
VALUES = st.recursive(
    TEXTS, lambda own: st.lists(own, max_size=3) | st.dictionaries(KEYS, own, max_size=3), max_leaves=8
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_any_text_is_read_back_as_it_was(tmp_path_factory, content):
    def said(value):
        return {key: said(own) for key, own in value.items()} if isinstance(value, dict) else Sourced(value, "a\nb")

    content = {f"x{key}": value for key, value in content.items()}  # `base`, `variants` and `train` have a meaning
    path = tmp_path_factory.mktemp("texts") / "x.yaml"
    path.write_text(as_yaml(Layered(path, str(path), said(content), ())), encoding="utf-8", newline="")
    assert (plain(read_yaml(path)) if content else {}) == content
