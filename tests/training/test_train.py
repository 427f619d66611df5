"""Training in one process: what is logged, kept, refused, and taken up again after a kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_base import LEARNED, make_recipe, write_recipe
from transformers import set_seed

from eval.scores import evaluate
from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.models.adapter import load_adapter
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.train import make_trainer, read_data, train
from rivegs_mllm.training.dataset.sampling import LengthGroupedSampler
from rivegs_mllm.types import UserError

ROOT = Path(__file__).parents[2]


def history(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def losses(folder: Path) -> list[float]:
    """The loss of every step, in order."""
    logged = [entry for entry in history(folder) if "loss" in entry]
    assert [entry["step"] for entry in logged] == list(range(1, len(logged) + 1))
    return [entry["loss"] for entry in logged]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# One run, and what it leaves

BEST = (
    LEARNED,
    "--predict.max_new_tokens=100",
    "--train.num_train_epochs=4",
    "--train.per_device_train_batch_size=4",
    "--train.learning_rate=1e-2",
    "--train.eval_strategy=steps",
    "--train.eval_steps=4",
    "--train.save_strategy=steps",
    "--train.save_steps=4",
    "--train.save_total_limit=2",
    "--train.load_best_model_at_end=true",
    "--train.metric_for_best_model=eval_gmner_f1",
    "--train.greater_is_better=true",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, learned) -> Path:
    """The recipe's folder after a run of twelve steps that makes the base forget the dev posts it knew."""
    folder = tmp_path_factory.mktemp("finished")
    train(make_recipe(folder, learned / "base", learned / "data", *BEST))
    return folder


def best_checkpoint(run: Path) -> Path:
    """The checkpoint that the last state names as the best."""
    state = json.loads((last_checkpoint(run) / "trainer_state.json").read_text())
    return Path(state["best_model_checkpoint"])


def last_checkpoint(run: Path) -> Path:
    return max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))


def test_the_loss_falls_and_padding_is_logged(finished):
    last = last_checkpoint(finished / "run")
    assert last.name == "checkpoint-12"
    found = losses(last)
    assert len(found) == 12
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    assert all(0 <= entry["padding"] < 1 for entry in history(last) if "loss" in entry)
    assert any(entry["padding"] > 0 for entry in history(last) if "loss" in entry)


def test_the_best_checkpoint_by_dev_score_is_kept_and_saved(finished):
    run = finished / "run"
    logged = [entry for entry in history(last_checkpoint(run)) if "eval_gmner_f1" in entry]
    scores = {entry["step"]: entry["eval_gmner_f1"] for entry in logged}
    assert list(scores) == [4, 8, 12]
    assert max(scores.values()) > min(scores.values())
    best = best_checkpoint(run)
    assert best.name == f"checkpoint-{max(scores, key=scores.get)}"
    kept = {path.name for path in run.glob("checkpoint-*")}
    assert kept >= {best.name, "checkpoint-12"}
    assert len(kept) == 2  # where the last is the best, the one before it is kept too
    kept, saved = weights(best), weights(run)
    assert kept.keys() == saved.keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_the_dev_score_is_that_of_the_saved_adapter(finished, learned):
    recipe = make_recipe(finished, learned / "base", learned / "data", *BEST)
    system = load_adapter(finished / "run", recipe)
    system.model.eval()
    dev = read_split(learned / "data", "dev")
    figures = evaluate(dev, Generator(system, learned / "data", 100).answer(dev))["strict"]["all"]
    step = int(best_checkpoint(finished / "run").name.split("-")[1])
    entries = history(last_checkpoint(finished / "run"))
    [logged] = [entry for entry in entries if "eval_mner_f1" in entry and entry["step"] == step]
    for task in ("MNER", "GMNER", "EEG"):
        assert logged[f"eval_{task.lower()}_f1"] == pytest.approx(figures[task]["f1"])
    assert logged["eval_gmner_f1"] > 0


def test_a_finished_run_is_not_run_again(finished, learned, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*") if path.is_file()}
    assert train(make_recipe(finished, learned / "base", learned / "data", *BEST)) == finished / "run"
    assert "holds this run already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--train.learning_rate=1e-3", "train"),
        ("--lora.r=4", "lora"),
        ("--augment.box_jitter=0.1", "augment"),
        ("--answer.weights={boxes: 2.0}", "answer"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused(finished, learned, override, named):
    with pytest.raises(UserError, match=rf"holds a run that was started with other settings: {named}"):
        train(make_recipe(finished, learned / "base", learned / "data", *BEST, override))


def test_no_pickle_lies_in_the_adapter_folder(finished):
    assert not [path for path in (finished / "run").iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_a_checkpoint_can_be_predicted_with(finished, learned):
    recipe = make_recipe(finished, learned / "base", learned / "data", *BEST)
    system = load_adapter(last_checkpoint(finished / "run"), recipe)
    assert system.answer_format.segments == ("entities", "visible", "boxes")


def test_every_trained_parameter_moves_and_no_frozen_one(tmp_path, learned):
    set_seed(0)
    trainer = make_trainer(make_recipe(tmp_path, learned / "base", learned / "data", LEARNED, "--train.max_steps=3"))
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    trainer.train()
    assert len(trained) == 2 * 7 * 2
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name]) != (name in trained), name


# Batches of like length


def padding(lengths: list[int], order: list[int], size: int) -> float:
    batches = [[lengths[index] for index in order[start : start + size]] for start in range(0, len(order), size)]
    held = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(lengths) / held


def test_batches_are_of_like_length_in_an_order_of_their_epoch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 500, (400,), generator=generator).tolist()
    sampler = LengthGroupedSampler(lengths, 8, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(400))
        assert orders[-1] == list(sampler)
    assert len({tuple(order) for order in orders}) == 3
    shuffled = torch.randperm(400, generator=generator).tolist()
    assert padding(lengths, orders[0], 8) < 0.25 * padding(lengths, shuffled, 8)
    assert list(LengthGroupedSampler(lengths, 8, seed=2)) != list(LengthGroupedSampler(lengths, 8, seed=1))


def test_long_and_short_batches_come_mixed():
    lengths = [number % 97 for number in range(1604)]
    order = [lengths[index] for index in LengthGroupedSampler(lengths, 8, seed=1)]
    batches = torch.tensor([sum(order[start : start + 8]) / 8 for start in range(0, 1600, 8)])
    assert order[0] == max(lengths)
    neighbours = torch.corrcoef(torch.stack([batches[:-1], batches[1:]]))[0, 1]
    assert neighbours.abs() < 0.25, "sorted batches would have 1"
    assert batches[-20:].mean() > 30


# What is refused before the first step


@pytest.fixture
def broken(tmp_path, emblems) -> Path:
    """A copy of the dataset, to be broken."""
    return shutil.copytree(emblems, tmp_path / "broken")


def test_an_unknown_split_is_refused(tmp_path, base, emblems):
    with pytest.raises(UserError, match=r"no split 'training' .* it has dev, encyclopedia, test, train"):
        train(make_recipe(tmp_path, base, emblems, "--data.train=training"))
    with pytest.raises(UserError, match="no split 'validation'"):
        train(make_recipe(tmp_path / "dev", base, emblems, "--data.dev=validation", "--train.eval_strategy=epoch"))


def break_pictures(folder) -> None:
    """Five posts of 24 get a picture that cannot be used, and one a line that cannot be read."""
    samples = read_split(folder, "train")
    (folder / samples[2].image).unlink()
    (folder / samples[4].image).write_bytes(b"no picture")
    samples[6] = dataclasses.replace(samples[6], size=(33, 44), entities=())
    whole = (folder / samples[8].image).read_bytes()
    (folder / samples[8].image).write_bytes(whole[: 2 * len(whole) // 3])
    Image.new("RGB", (4000, 3)).save(folder / "thin.png")
    samples[10] = dataclasses.replace(samples[10], image="thin.png", size=(4000, 3), entities=())
    samples[12] = dataclasses.replace(samples[12], size=None)  # is no fault
    write_records(folder / "train.jsonl", samples)
    lines = (folder / "train.jsonl").read_bytes().splitlines(keepends=True)
    lines[14] = b'{"id": 7}\n'
    (folder / "train.jsonl").write_bytes(b"".join(lines))


def test_posts_that_audit_calls_an_error_are_refused_with_file_and_line(tmp_path, base, broken):
    break_pictures(broken)
    with pytest.raises(UserError) as error:
        train(make_recipe(tmp_path, base, broken))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{broken}/train.jsonl:15: bad line: ")
    assert message.endswith(
        f"one of 5 posts with errors, see `rivegs audit {broken}`; --skip-bad leaves such posts out"
    )


def test_posts_with_errors_are_left_out_where_it_is_said_counted_and_listed(tmp_path, base, broken, capsys):
    whole = read_split(broken, "train")
    break_pictures(broken)
    recipe = make_recipe(tmp_path, base, broken, "--data.skip_bad=true")
    kept = [sample.id for index, sample in enumerate(whole) if index not in (2, 4, 6, 8, 10, 14)]
    assert [sample.id for sample in read_data(recipe).train] == kept
    assert "posts left out: 6 of train\n" in capsys.readouterr().out
    listed = (Path(recipe.train.output_dir) / "left_out.txt").read_text()
    assert [f"train.jsonl:{line}: " in listed for line in (3, 5, 7, 9, 11, 13, 15)] == [True] * 5 + [False, True]


def test_an_error_of_the_whole_set_is_no_post_s_and_is_not_skipped(tmp_path, base, broken):
    samples = read_split(broken, "train")
    picture = (broken / samples[0].image).read_bytes()
    for sample in samples[:20]:
        (broken / sample.image).write_bytes(picture)
    write_records(broken / "train.jsonl", [dataclasses.replace(own, size=None, entities=()) for own in samples])
    with pytest.raises(UserError, match="one picture in most posts") as error:
        train(make_recipe(tmp_path, base, broken, "--data.skip_bad=true"))
    assert "--skip-bad" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_vanishes_while_training_is_named_in_one_line(tmp_path, base, broken, monkeypatch, workers):
    gone = read_split(broken, "train")[0].image

    def check(samples, folder):
        (folder / gone).unlink()
        return list(samples)

    monkeypatch.setattr("rivegs_mllm.train.check_pictures", check)
    with pytest.raises(UserError, match=rf"{gone}: no such picture; correct it and start") as caught:
        train(make_recipe(tmp_path, base, broken, f"--train.dataloader_num_workers={workers}"))
    assert "\n" not in str(caught.value)


def test_a_sample_that_would_be_cut_off_is_refused(tmp_path, base, emblems):
    with pytest.raises(UserError, match=r"24 of 24 samples are longer than max_length = 60(?s:.*)train-00000: "):
        train(make_recipe(tmp_path, base, emblems, "--max_length=60"))


# Killed and started again

LONG = (
    "--train.num_train_epochs=3",
    "--train.per_device_train_batch_size=4",
    "--train.save_strategy=steps",
    "--train.save_steps=4",
    "--train.save_total_limit=2",
    "--augment.box_jitter=0.05",
    "--lora.lora_dropout=0.1",
)


def start(recipe: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "rivegs_mllm.train", str(recipe), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_ends_as_one_that_never_was(tmp_path, base, emblems):
    """Eighteen steps, six an epoch; killed behind step 8, in the middle of the second epoch."""
    recipe = write_recipe(tmp_path / "killed", base, emblems)
    run = tmp_path / "killed" / "run"
    process = start(recipe, *LONG)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint-8" / "trainer_state.json").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / FILE_NAME).exists()
    assert not (run / "checkpoint-16").exists()
    cut = shutil.copytree(last_checkpoint(run), run / "checkpoint-17")
    (cut / "trainer_state.json").write_text('{"log_history": [')

    process = start(recipe, *LONG)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    assert "checkpoint-17 is incomplete" in printed
    assert not cut.exists()

    train(make_recipe(tmp_path / "whole", base, emblems, *LONG, "--train.save_steps=18"))
    found, expected = losses(last_checkpoint(run)), losses(tmp_path / "whole" / "run" / "checkpoint-18")
    resumed, whole = weights(run), weights(tmp_path / "whole" / "run")
    assert len(expected) == 18
    assert found == pytest.approx(expected, rel=1e-4)
    for name in whole:
        assert torch.allclose(resumed[name], whole[name], rtol=1e-3, atol=1e-6), name


def test_the_command_line_says_what_is_wrong(tmp_path, base, emblems):
    process = start(write_recipe(tmp_path, base, emblems), "--data.train=nothing")
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "error: " in printed
    assert "no split 'nothing'" in printed
    assert "Traceback" not in printed


def test_a_full_disk_while_saving_leaves_nothing_that_is_taken_for_whole(tmp_path, base, emblems):
    """Files may not grow beyond 100 kB: the adapter's weights cannot be written. With room, the same command ends."""
    recipe, run = write_recipe(tmp_path, base, emblems), tmp_path / "run"
    command = [sys.executable, "-m", "rivegs_mllm.train", str(recipe), "--train.max_steps=2"]
    limited = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "sys.dont_write_bytecode = True;"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.argv = sys.argv[1:];"
    limited += "runpy.run_module('rivegs_mllm.train', run_name='__main__', alter_sys=True)"
    full = subprocess.run([sys.executable, "-c", limited, *command[2:]], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2, full.stderr[-2000:]
    assert full.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in full.stderr
    assert not (run / FILE_NAME).exists()
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert (run / FILE_NAME).exists()
