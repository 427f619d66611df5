"""Adapters merged into their bases: what the folder holds, that transformers alone answers from it, and refusals."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_base import make_recipe, texts
from tiny_families import save_family
from transformers import set_seed

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.jsonl import read_predictions, read_split
from rivegs_mllm.models.adapter import answering_of, load_adapter_alone
from rivegs_mllm.prediction.run import predict
from rivegs_mllm.release import alone
from rivegs_mllm.release import merge as merging
from rivegs_mllm.train import make_trainer

SHORT = ("--train.max_steps=3", "--data.train=dev", "--train.per_device_train_batch_size=3")
FAMILIES = [("qwen2_vl", True), ("qwen2_5_vl", True), ("qwen2_5_vl", False), ("qwen3_vl", True), ("qwen3_vl", False)]


def save_run(folder: Path, base: Path, data: Path, *overrides: str) -> Path:
    """A trained folder: a few steps at a high rate, so that the adapter and the rows of added tokens matter."""
    recipe = make_recipe(folder, base, data, *SHORT, "--train.learning_rate=0.05", *overrides)
    set_seed(0)
    trainer = make_trainer(recipe)
    trainer.train()
    trainer.save_model(recipe.train.output_dir)
    return Path(recipe.train.output_dir)


@pytest.fixture(scope="module")
def run(tmp_path_factory, base, emblems) -> Path:
    """An adapter with rows of 36 tokens that its base has not."""
    return save_run(tmp_path_factory.mktemp("run"), base, emblems, "--answer.bins=100")


@pytest.fixture(scope="module")
def merged(run) -> Path:
    out = run.parent / "merged"
    assert main(["merge", str(run), "--out", str(out), "--posts", "3"]) == 0
    return out


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_every_family_with_added_tokens_is_merged(family, tied, emblems, tmp_path, capsys):
    base = save_family(tmp_path / "base", family, texts(emblems), tied)
    own = save_run(tmp_path / "run", base, emblems, "--answer.bins=100")
    assert main(["merge", str(own), "--out", str(tmp_path / "merged"), "--posts", "2"]) == 0
    said = capsys.readouterr().out
    assert "transformers alone and the adapter on its base: 2 of 2 answers are the same word for word" in said
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["model_type"] == family
    embedding = next(value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    assert len(embedding) == config["text_config"]["vocab_size"] == 36 + len(_rows(base))
    assert any(name.endswith("lm_head.weight") for name in weights) == (not tied)


def _rows(base: Path) -> torch.Tensor:
    return next(
        value for name, value in load_file(base / "model.safetensors").items() if name.endswith("embed_tokens.weight")
    )


def test_the_folder_is_one_of_transformers_with_what_the_project_needs(run, merged):
    assert {path.name for path in merged.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "instruction.txt",
        "model.safetensors",
        "processor_config.json",
        "recipe.yaml",
        "rivegs_contract.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert AnswerFormat.load(merged) == AnswerFormat.load(run)
    settings = json.loads((merged / "generation_config.json").read_text())
    assert (settings["do_sample"], settings["max_new_tokens"]) == (False, 8)
    size = json.loads((merged / "processor_config.json").read_text())["image_processor"]["size"]
    assert size["longest_edge"] == AnswerFormat.load(run).max_pixels
    assert "lora" not in (merged / "recipe.yaml").read_text()
    assert sorted(path.name for path in merged.parent.glob("merged*")) in (["merged"], ["merged", "merged.log"])


def test_predict_says_the_same_with_the_merged_folder(run, merged, emblems, tmp_path):
    samples = read_split(emblems, "test")
    for name in (run, merged):
        predict(answering_of(name), samples, emblems, tmp_path / f"{name.name}.jsonl", name)
    mine, theirs = (read_predictions(tmp_path / f"{name}.jsonl") for name in ("run", "merged"))
    assert [one.raw for one in mine] == [one.raw for one in theirs]


def test_the_adapter_matters(run, emblems):
    """Else a merge that lost it would be taken for a good one."""
    recipe = answering_of(run)
    system = load_adapter_alone(run, recipe)
    posts = merging.Posts(read_split(emblems, "test")[:2], emblems, "")
    with_adapter = merging._answers(system, posts, recipe, "")
    with system.model.disable_adapter():
        for _, prompt, answer in with_adapter:
            without = alone.rate(system.model, prompt, answer.tokens)
            assert (without - answer.log_probabilities).abs().max() > 10 * merging.ALLOWED["float32"]


def test_the_card_can_be_followed_where_the_project_is_not_installed(merged, emblems, tmp_path):
    text = (merged / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "PER, LOC, ORG, OTHER" in text
    assert "emblems" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    folder = shutil.copytree(merged, tmp_path / "elsewhere")
    sample = next(one for one in read_split(emblems, "test") if one.image)
    shutil.copyfile(emblems / sample.image, folder / "post.jpg")
    blocked = "import sys; sys.modules['rivegs_mllm.models'] = sys.modules['rivegs_mllm.answer'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 1


def test_what_loads_the_folder_imports_nothing_of_the_project():
    tree = ast.parse(Path(alone.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name.split(".")[0] for name in names} == {
        "__future__",
        "collections",
        "dataclasses",
        "pathlib",
        "torch",
        "PIL",
        "transformers",
    }


def test_a_folder_that_answers_otherwise_is_not_left(run, tmp_path, monkeypatch, capsys):
    """As if a layer's adapter had been lost on the way."""
    write = merging._write

    def write_badly(system, recipe, folder, partial):
        write(system, recipe, folder, partial)
        weights = load_file(partial / "model.safetensors")
        name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
        save_file({**weights, name: weights[name] * 0.5}, partial / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merging, "_write", write_badly)
    out = tmp_path / "merged"
    assert main(["merge", str(run), "--out", str(out), "--posts", "2"]) == 1
    assert "answers otherwise than the adapter" in capsys.readouterr().err
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".log")] == []


def test_an_adapter_of_a_4_bit_base_is_merged_into_the_whole_one(base, emblems, tmp_path, capsys):
    own = save_run(tmp_path / "run", base, emblems, "--model.quantization=nf4")
    assert main(["merge", str(own), "--out", str(tmp_path / "merged"), "--posts", "2"]) == 0
    said = capsys.readouterr().out
    assert f"trained on {base} in nf4, merged into it in float32" in said
    assert re.search(r"adapter on its 4-bit base: \d of 2 answers", said)
    assert answering_of(tmp_path / "merged").model.quantization is None
    assert all(value.dtype == torch.float32 for value in load_file(tmp_path / "merged" / "model.safetensors").values())


def test_posts_are_drawn_where_the_data_is_gone_and_another_precision_is_taken(run, tmp_path, capsys):
    own = shutil.copytree(run, tmp_path / "run")
    recipe = own / "recipe.yaml"
    recipe.write_text(re.sub(r"folder: .*", "folder: gone", recipe.read_text(), count=1))
    (own / "calibration.json").write_text('{"version": 1, "temperature": 1.5, "threshold": 0.4}')
    out = tmp_path / "merged"
    assert main(["merge", str(own), "--out", str(out), "--posts", "2", "--dtype", "bfloat16"]) == 0
    assert "comparing on 2 posts of Emblems, drawn for it" in capsys.readouterr().out
    assert {value.dtype for value in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert (out / "calibration.json").read_bytes() == (own / "calibration.json").read_bytes()


def test_a_chat_template_that_opens_thoughts_closes_them_in_the_folder(run, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    template = own / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n{%", "assistant\n<think>\n{%"))
    assert "<think>" in template.read_text()
    assert main(["merge", str(own), "--out", str(tmp_path / "merged"), "--posts", "1"]) == 0
    assert "</think>" in (tmp_path / "merged" / "chat_template.jinja").read_text()


def test_wrong_runs_and_outputs_are_told(run, merged, tmp_path, monkeypatch, capsys):
    cascade = tmp_path / "cascade.yaml"
    cascade.write_text("tagger: {type: gold}\n")
    out = tmp_path / "out"
    for words, says in (
        ((merged, "--out", out), "holds no adapter"),
        ((run, "--out", merged), "exists and is not overwritten"),
        ((tmp_path, "--out", out), "rivegs_contract.json: no such file"),
        ((cascade, "--out", out), "a recipe of a cascade"),
        ((run, "--out", out, "--posts", "0"), "--posts: 0"),
        ((run, "--out", out, "--data", tmp_path), "no split 'dev'"),
    ):
        assert main(["merge", *map(str, words)]) == 2
        assert says in capsys.readouterr().err
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert main(["merge", str(run), "--out", str(out)]) == 2
    assert re.search(r"out: needs \d+\.\d GB, and .* has 0\.0 GB free", capsys.readouterr().err)
    assert not out.exists()
