"""A stopped or finished run that is started again with something else says so; with nothing else it is the same run."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from stage_training import make_recipe as make_stage
from tiny_base import make_recipe, write_recipe

from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.cascade.training import train_stage
from rivegs_mllm.cli.runs_table import find_runs
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.train import main, train
from rivegs_mllm.training.loss import answer_loss, check_finite
from rivegs_mllm.types import UserError

STEPS = ("--train.save_strategy=steps", "--train.save_steps=3", "--train.per_device_train_batch_size=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory, emblems) -> Path:
    """A dataset of twelve posts: three steps an epoch, six in all."""
    folder = tmp_path_factory.mktemp("short")
    write_records(folder / "train.jsonl", read_split(emblems, "train")[:12])
    write_records(folder / "dev.jsonl", read_split(emblems, "dev")[:2])
    (folder / "images").symlink_to(emblems / "images")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base, data) -> Path:
    """The run's folder."""
    return train(make_recipe(tmp_path_factory.mktemp("finished"), base, data, *STEPS))


@pytest.fixture(scope="module")
def finished_stage(tmp_path_factory, data) -> Path:
    return train_stage(make_stage(tmp_path_factory.mktemp("stage"), data, *STEPS))


def copied(run: Path, folder: Path, stopped: bool) -> None:
    """The run as it was when it was stopped behind step 3 of 6, or as it ended."""
    names = ("checkpoint-3", "run.json") if stopped else [path.name for path in run.iterdir()]
    (folder / "run").mkdir(parents=True)
    for name in names:
        (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, folder / "run" / name)


def trained_files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


CHANGES = [
    (
        "--train.per_device_train_batch_size=2",
        "samples_per_step was '4' and is '2'.*accumulation_steps=2 makes 4",
    ),
    ("--train.per_device_train_batch_size=8", "train.samples_per_step was '4' and is '8'"),
    ("--train.gradient_accumulation_steps=2", "train.samples_per_step was '4' and is '8'"),
    ("--train.weight_decay=0.1", "train.weight_decay was '0.0' and is '0.1'"),
    ("--train.lr_scheduler_type=cosine", "train.lr_scheduler_type was 'linear' and is 'cosine'"),
    ("--train.optim=adafactor", "train.optim was"),
    ("--train.num_train_epochs=3", r"train.num_train_epochs was '2(\.0)?' and is '3"),
    ("--train.data_seed=5", "train.data_seed was 'None' and is '5'"),
]


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(("override", "said"), CHANGES)
def test_other_settings_are_refused_with_both_values(tmp_path, base, data, finished, override, said, stopped, capsys):
    copied(finished, tmp_path, stopped)
    before = trained_files(tmp_path)
    recipe = write_recipe(tmp_path, base, data)
    assert main([str(recipe), *STEPS, override]) == 2
    printed = capsys.readouterr()
    assert "trained" not in printed.out
    with pytest.raises(UserError, match=f"run holds a run that was started with other settings: .*{said}"):
        train(make_recipe(tmp_path, base, data, *STEPS, override))
    assert before.items() <= trained_files(tmp_path).items()


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("override", ["--train.gradient_accumulation_steps=2", "--train.weight_decay=0.1"])
def test_other_settings_of_a_stage_are_refused(tmp_path, data, finished_stage, override, stopped):
    copied(finished_stage, tmp_path, stopped)
    with pytest.raises(UserError, match="run holds a run that was started with other settings: train"):
        train_stage(make_stage(tmp_path, data, *STEPS, override))


def changed(data: Path, folder: Path, kind: str) -> Path:
    """The dataset with other posts, or with another picture of the same name."""
    shutil.copytree(data, folder)
    posts = read_split(data, "train")
    if kind == "picture":
        with Image.open(data / posts[0].image) as image:
            ImageOps.invert(image.convert("RGB")).save(folder / posts[0].image, quality=40)
        assert (data / posts[0].image).stat().st_size != (folder / posts[0].image).stat().st_size
        return folder
    again = [type(post)(**{**fields(post), "id": f"{post.id}-again"}) for post in posts]
    write_records(folder / "train.jsonl", {"doubled": posts + again, "halved": posts[:6]}[kind])
    return folder


def fields(post) -> dict:
    return {name: getattr(post, name) for name in post.__dataclass_fields__}


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("kind", ["doubled", "halved", "picture"])
def test_other_data_is_refused(tmp_path, base, data, finished, finished_stage, kind, stopped):
    other = changed(data, tmp_path / "other", kind)
    said = r"started with other settings: data.train was '12 samples, digest \w+' and is '\d+ samples"
    copied(finished, tmp_path, stopped)
    with pytest.raises(UserError, match=said):
        train(make_recipe(tmp_path, base, other, *STEPS))
    copied(finished_stage, tmp_path / "stage", stopped)
    with pytest.raises(UserError, match=said):
        train_stage(make_stage(tmp_path / "stage", other, *STEPS))


def test_another_base_of_the_same_name_is_refused(tmp_path, base, data, finished):
    own = shutil.copytree(base, tmp_path / "base")
    run = train(make_recipe(tmp_path, own, data, "--train.max_steps=1"))
    with (own / "model.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\1" * 8)
    (run / FILE_NAME).touch()
    with pytest.raises(UserError, match=r"started with other settings: model\.content was"):
        train(make_recipe(tmp_path, own, data, "--train.max_steps=1"))


def test_what_changes_nothing_may_change(tmp_path, base, data, finished, capsys):
    """The same data in another folder, what is logged and saved when: the run ends with the same weights."""
    shutil.copytree(data, tmp_path / "moved", symlinks=False)
    copied(finished, tmp_path, True)
    free = ("--train.logging_steps=2", "--train.save_steps=2", "--train.dataloader_num_workers=1")
    train(make_recipe(tmp_path, base, tmp_path / "moved", *STEPS, *free))
    assert "run, 3 steps after the 3 of before" in capsys.readouterr().out
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (tmp_path / "run", finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_same_batches_from_other_parts_go_on_where_they_were(tmp_path, base, data, finished):
    """As on half as many processes: the batch of four is twice two."""
    copied(finished, tmp_path, True)
    parts = ("--train.per_device_train_batch_size=2", "--train.gradient_accumulation_steps=2")
    train(make_recipe(tmp_path, base, data, *STEPS, *parts))
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (tmp_path / "run", finished))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-6)


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path, base, data, finished):
    copied(finished, tmp_path, True)
    (tmp_path / "run" / "run.json").write_text('{"data": {}}')
    with pytest.raises(UserError, match="does not say what it was started with"):
        train(make_recipe(tmp_path, base, data, *STEPS))


@pytest.mark.parametrize("wrong", ["--data.folder={}/nowhere", "--answer.types=[FOOD]", "--max_length=20"])
def test_a_start_that_failed_does_not_block_the_corrected_one(tmp_path, base, data, wrong, capsys):
    recipe = write_recipe(tmp_path, base, data)
    assert main([str(recipe), wrong.format(tmp_path), "--train.max_steps=1"]) == 2
    assert main([str(recipe), "--train.max_steps=1"]) == 0
    assert "run, 1 steps" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["--data.folder={}/nowhere", "--types=[FOOD]", "--stage.encoder=nowhere"])
def test_a_failed_start_of_a_stage_does_not_block_the_corrected_one(tmp_path, data, wrong):
    with pytest.raises((UserError, OSError)):
        train_stage(make_stage(tmp_path, data, wrong.format(tmp_path)))
    train_stage(make_stage(tmp_path, data, "--train.max_steps=1"))


def test_a_run_that_was_killed_before_its_first_checkpoint_binds_nobody(tmp_path, base, data, finished):
    copied(finished, tmp_path, True)
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    train(make_recipe(tmp_path, base, data, "--train.max_steps=1"))


def test_finished_runs_are_not_said_to_be_trained(tmp_path, base, data, finished, capsys):
    copied(finished, tmp_path, False)
    assert main([str(write_recipe(tmp_path, base, data)), *STEPS]) == 0
    printed = capsys.readouterr().out
    assert "holds this run already" in printed
    assert "trained" not in printed


def test_a_split_without_a_post_is_not_trained_on(tmp_path, base, data):
    empty = shutil.copytree(data, tmp_path / "empty")
    (empty / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="the split 'train' holds no sample"):
        train(make_recipe(tmp_path, base, empty))
    with pytest.raises(UserError, match="the split 'train' holds no sample"):
        train_stage(make_stage(tmp_path, empty))


@pytest.fixture
def sent(monkeypatch):
    """Sends this process a signal while it computes the loss of a step."""

    def at(step: int, number: int) -> None:
        def send(loss, now, posts):
            check_finite(loss, now, posts)
            if now == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr("rivegs_mllm.train.check_finite", send)

    return at


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_told_to_stop_saves_and_resumes(tmp_path, base, data, finished, sent, number, capsys):
    recipe = write_recipe(tmp_path, base, data)
    handler = signal.getsignal(number)
    sent(2, number)
    with pytest.raises(SystemExit) as stopped:
        main([str(recipe), *STEPS])
    assert stopped.value.code == 128 + number
    assert f"{number.name}: stopped at step 2 of 6; the same command resumes" in capsys.readouterr().out
    assert signal.getsignal(number) == handler
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    assert not (tmp_path / "run" / FILE_NAME).exists()
    sent(0, number)
    assert main([str(recipe), *STEPS]) == 0
    assert "4 steps after the 2 of before" in capsys.readouterr().out
    left, expected = (load_file(run / "adapter_model.safetensors") for run in (tmp_path / "run", finished))
    for name, value in expected.items():
        torch.testing.assert_close(left[name], value)


def test_a_signal_in_the_last_step_changes_nothing(tmp_path, base, data, sent, capsys):
    sent(6, signal.SIGTERM)
    assert main([str(write_recipe(tmp_path, base, data)), *STEPS]) == 0
    assert "trained" in capsys.readouterr().out


def test_a_loss_that_is_no_number_ends_the_run_and_names_its_posts(tmp_path, base, data, monkeypatch, capsys):
    def broken(logits, *arguments):
        return answer_loss(logits, *arguments) * float("nan")

    monkeypatch.setattr("rivegs_mllm.train.answer_loss", broken)
    assert main([str(write_recipe(tmp_path, base, data)), *STEPS]) == 2
    said = capsys.readouterr().err
    assert "step 1: the loss is nan" in said
    assert sum(sample.id in said for sample in read_split(data, "train")) == 4
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_a_run_says_what_it_was_made_by(finished):
    """Its last start: versions, machine and, in a checkout, the commit."""
    (run,) = find_runs([finished])
    (start,) = run.starts
    assert start["packages"]["torch"]
    assert start["machine"]
    assert start["processes"] == 1
    assert start["at"] <= start["ended"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    assert not head or start["commit"].startswith(head)
