"""Two processes under DeepSpeed on the CPU train as one process does, posts with and without picture mixed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train import ROOT, history, last_checkpoint, losses, weights
from tiny_base import LEARNED, make_recipe, write_recipe

from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.adapter import load_adapter
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.train import train
from rivegs_mllm.training.run.folder import resume_point

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed builds an operator with g++"),
    pytest.mark.xdist_group("two processes"),  # else each worker makes the runs that all tests look at
]

SETTINGS = (
    LEARNED,
    "--predict.max_new_tokens=60",
    "--data.max_eval_samples=3",  # of which one process has two and the other the one without picture
    "--predict.batch_size=1",
    "--train.num_train_epochs=2",
    "--train.eval_strategy=steps",
    "--train.eval_steps=3",
    "--train.save_strategy=steps",
    "--train.save_steps=2",
    "--train.learning_rate=5e-4",
    "--augment.box_jitter=0.05",
)


def batch_of(posts: int) -> str:
    return f"--train.per_device_train_batch_size={posts}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, learned) -> Path:
    """The run of one process: six steps of four posts, two evaluations."""
    folder = tmp_path_factory.mktemp("alone")
    return train(make_recipe(folder, learned / "base", learned / "data", *SETTINGS, batch_of(4)))


def launch(config: str, recipe: Path, *overrides: str) -> str:
    """What two processes print. One that hangs is stopped, and is a failure."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml"]
    command += ["--main_process_port", "0", "-m", "rivegs_mllm.train", str(recipe), *overrides]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="module", params=["cpu_zero2", "cpu_zero3"])
def together(request, tmp_path_factory, learned) -> tuple[str, Path]:
    """A launch configuration, and the folder of the run of two processes by it."""
    folder = tmp_path_factory.mktemp(request.param)
    launch(request.param, write_recipe(folder, learned / "base", learned / "data"), *SETTINGS, batch_of(2))
    return request.param, folder / "run"


def check_alike(run: Path, alone: Path) -> None:
    """Raises unless the runs have the same losses and weights."""
    ours, theirs = last_checkpoint(alone), last_checkpoint(run)
    assert len(losses(ours)) == 6
    assert losses(theirs) == pytest.approx(losses(ours), rel=1e-3)
    expected, found = weights(alone), weights(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.shape == found[name].shape, name
        assert (value - found[name]).norm() <= 0.02 * value.norm(), name


def test_two_processes_train_as_one(together, alone):
    config, run = together
    check_alike(run, alone)
    states = {path.name for path in (last_checkpoint(run) / "global_step6").iterdir()}
    stage = "zero_pp_rank_1_mp_rank_00_model_states.pt"  # only ZeRO-3 divides the model
    assert {name for name in states if "rank_1_" in name and "optim" in name}
    assert (stage in states) == (config == "cpu_zero3")


def test_a_checkpoint_without_the_shard_of_a_process_is_incomplete(together, tmp_path, capsys):
    """As a kill leaves it where the first process had written its own and the trainer's state before the second."""
    run = tmp_path / "run"
    shutil.copytree(together[1], run, ignore=shutil.ignore_patterns("checkpoint-6"))
    whole = shutil.copytree(together[1] / "checkpoint-6", run / "checkpoint-6")
    settings = json.loads((run / "run.json").read_text())["settings"]
    arguments = make_recipe(tmp_path, tmp_path, tmp_path).train
    assert resume_point(run, settings, run / "none", arguments) == str(whole)
    [shard] = whole.glob("global_step6/*rank_1_*optim_states.pt")
    shard.unlink()
    before = resume_point(run, settings, run / "none", arguments)
    assert before is not None
    assert before.endswith("checkpoint-4")
    assert "checkpoint-6 is incomplete" in capsys.readouterr().out


def test_two_processes_score_dev_as_one(together, alone):
    names = ("eval_mner_f1", "eval_gmner_f1", "eval_eeg_f1")
    ours, theirs = (
        [[entry[name] for name in names] for entry in history(last_checkpoint(run)) if names[0] in entry]
        for run in (alone, together[1])
    )
    assert len(ours) == 2
    assert ours[0][0] > 0
    assert ours == theirs


def test_the_adapter_of_two_processes_is_whole(together, learned, tmp_path):
    recipe = make_recipe(tmp_path, learned / "base", learned / "data", *SETTINGS)
    system = load_adapter(together[1], recipe)
    system.model.eval()
    dev = read_split(learned / "data", "dev")
    assert all(answer.entities for answer in Generator(system, learned / "data", 60).answer(dev))


def test_two_processes_go_on_in_the_middle_of_an_epoch(together, learned, alone, tmp_path):
    config, run = together
    ours = tmp_path / "run"
    ours.mkdir()
    recipe = write_recipe(tmp_path, learned / "base", learned / "data")
    shutil.copytree(run / "checkpoint-4", ours / "checkpoint-4")
    shutil.copy(run / "run.json", ours)
    launch(config, recipe, *SETTINGS, batch_of(2))
    check_alike(ours, alone)


def test_the_batches_of_this_data_mix_as_they_should(learned):
    """Some batch of two has no picture while its neighbour has, or the tests above would show nothing."""
    from rivegs_mllm.train import make_trainer

    trainer = make_trainer(make_recipe(learned / "mix", learned / "base", learned / "data", *SETTINGS, batch_of(4)))
    mixed = False
    for epoch in range(2):
        trainer.sampler.set_epoch(epoch)
        order = [bool(trainer.train_dataset.samples[index].image) for index in trainer.sampler]
        pairs = [any(order[start : start + 2]) for start in range(0, len(order), 2)]
        mixed |= any(one != other for one, other in zip(pairs[::2], pairs[1::2], strict=True))
    assert mixed
    assert torch.tensor(trainer.sampler.lengths).max() > 0
