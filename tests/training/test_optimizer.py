"""Muon for adapters: what a step does, a run resumed, and what is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_base import make_recipe, save_base, texts

from rivegs_mllm.models.adapter import add_adapter
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.train import train
from rivegs_mllm.training.optimizer import muon
from rivegs_mllm.types import UserError

MUON = ("--muon=true", "--train.max_steps=4", "--train.save_strategy=steps", "--train.save_steps=2")


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_a_step_moves_a_matrix_equally_in_all_its_directions(tmp_path, base, emblems):
    spreads = {}
    for optimizer in ("true", "false"):
        folder = tmp_path / optimizer
        train(make_recipe(folder, base, emblems, f"--muon={optimizer}", "--train.max_steps=1"))
        moved = [value for name, value in weights(folder / "run").items() if ".lora_B." in name]  # zero before
        values = [torch.linalg.svdvals(value.float()) for value in moved]
        spreads[optimizer] = max((own.max() / own.min()).item() for own in values)
    assert spreads["true"] < 3 < spreads["false"]


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path, base, emblems):
    recipe = make_recipe(tmp_path, base, emblems, *MUON)
    run = train(recipe)
    whole = weights(run)
    shutil.copytree(run / "checkpoint-2", tmp_path / "again" / "run" / "checkpoint-2")
    shutil.copy(run / "run.json", tmp_path / "again" / "run")
    resumed = weights(train(make_recipe(tmp_path / "again", base, emblems, *MUON)))
    assert all(torch.allclose(resumed[name], whole[name], rtol=1e-3, atol=1e-6) for name in whole)


def test_a_run_is_not_resumed_with_another_optimizer(tmp_path, base, emblems):
    train(make_recipe(tmp_path, base, emblems, *MUON))
    with pytest.raises(UserError, match="muon was 'True' and is 'None'"):
        train(make_recipe(tmp_path, base, emblems, *MUON[1:]))


def test_rows_of_new_tokens_are_refused(tmp_path, emblems):
    save_base(tmp_path / "base", texts(emblems))
    recipe = make_recipe(tmp_path, tmp_path / "base", emblems, "--muon=true", "--answer.bins=100")
    system = add_adapter(load_base(recipe), recipe)
    with pytest.raises(UserError, match=r"muon: .*trainable_tokens.* is trained too; set it to false"):
        muon(system.model, recipe.train)


def test_deepspeed_is_refused(tmp_path, base, emblems):
    recipe = make_recipe(tmp_path, base, emblems)
    recipe.train.deepspeed = "accelerate_configs/zero2.json"
    with pytest.raises(UserError, match="muon: DeepSpeed"):
        muon(torch.nn.Linear(2, 2), recipe.train)
