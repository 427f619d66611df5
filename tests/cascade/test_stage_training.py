"""Training a stage: what is kept and refused, killed and started again, and several seeds."""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from recipe_files import ROOT, recipes
from safetensors.torch import load_file
from stage_training import make_recipe, write_recipe

pytest.importorskip("torchcrf")

from rivegs_mllm.cascade.tagging.crf import load_predictor
from rivegs_mllm.cascade.training import StageData, StageTrainer, StageTraining, train_stage
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.train import main
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import TYPES, UserError

STAGES = recipes("stages")
BEST = (
    "--data.test=test",
    "--train.num_train_epochs=8",
    "--train.eval_strategy=epoch",
    "--train.save_strategy=epoch",
    "--train.save_total_limit=2",
    "--train.load_best_model_at_end=true",
    "--train.metric_for_best_model=eval_span_f1",
    "--train.greater_is_better=true",
)


def state(run: Path) -> dict:
    last = max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_a_recipe_trains_below_runs_and_keeps_the_best(path):
    recipe = parse_recipe(StageTraining, path, ["--train.use_cpu=true"])
    assert recipe.train.output_dir.split("/")[0] == "runs"
    assert recipe.train.load_best_model_at_end


# A run, and what it leaves


@pytest.fixture(scope="module")
def finished(tmp_path_factory, emblems) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train_stage(make_recipe(folder, emblems, *BEST))
    return folder


def test_the_best_checkpoint_by_dev_score_is_saved(finished):
    run = finished / "run"
    history = state(run)["log_history"]
    scores = {entry["step"]: entry["eval_span_f1"] for entry in history if "eval_span_f1" in entry}
    assert list(scores) == list(range(3, 25, 3))
    assert max(scores.values()) > min(scores.values())
    best = Path(state(run)["best_model_checkpoint"])
    assert best.name == f"checkpoint-{max(scores, key=scores.get)}"
    kept, saved = load_file(best / "model.safetensors"), load_file(run / "model.safetensors")
    assert kept.keys() == saved.keys()
    assert all(torch.equal(kept[name], saved[name]) for name in kept)


def test_the_figures_are_those_of_the_saved_stage(finished, emblems):
    reader, _ = load_predictor(finished / "run", TYPES, 4)
    figures = json.loads((finished / "run" / "metrics.json").read_text())
    for split in ("dev", "test"):
        samples = read_split(emblems, split)
        found = reader.tag(samples, [sample.knowledge[0] for sample in samples])
        said = {(s.id, e.span, e.type) for s, (entities, _) in zip(samples, found, strict=True) for e in entities}
        gold = {(sample.id, entity.span, entity.type) for sample in samples for entity in sample.entities}
        right = len(said & gold)
        assert figures[split]["span_f1"] == pytest.approx(2 * right / (len(said) + len(gold)))
    assert {"span_f1_seen", "span_f1_unseen"} <= figures["test"].keys()
    assert figures["dev"]["span_f1"] > 0


def test_the_card_says_what_was_trained(finished):
    card = json.loads((finished / "run" / "stage.json").read_text())
    assert (card["version"], card["kind"], card["types"]) == (1, "crf", list(TYPES))
    assert card["settings"]["encoder"] == "tiny"
    assert not [path for path in (finished / "run").iterdir() if path.suffix in (".bin", ".pt", ".pth", ".partial")]


def test_a_finished_run_is_not_run_again(finished, emblems, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*") if path.is_file()}
    assert train_stage(make_recipe(finished, emblems, *BEST)) == finished / "run"
    assert "holds this stage already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("--train.learning_rate=1e-4", "train"),
        ("--stage.knowledge=none", "stage"),
        ("--types=[PER,LOC,ORG,OTHER,X]", "types"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused(finished, emblems, override, named):
    with pytest.raises(UserError, match=rf"holds a run that was started with other settings: {named}"):
        train_stage(make_recipe(finished, emblems, *BEST, override))


# What is refused


def test_a_figure_that_the_stage_does_not_have(tmp_path, emblems):
    recipe = make_recipe(tmp_path, emblems, *BEST, "--train.metric_for_best_model=eval_gmner_f1")
    with pytest.raises(UserError, match="'eval_gmner_f1' is none of eval_span_f1, "):
        train_stage(recipe)


def test_types_that_the_data_have_not(tmp_path, emblems):
    with pytest.raises(UserError, match=r"has the types .*'OTHER'.* but the recipe has 'athlete'"):
        train_stage(make_recipe(tmp_path, emblems, "--types=[athlete]"))


def test_entities_that_overlap(tmp_path, emblems):
    samples = read_split(emblems, "train")
    samples[3] = dataclasses.replace(samples[3], entities=samples[3].entities[:1] * 2)
    write_records(tmp_path / "data" / "train.jsonl", samples)
    with pytest.raises(UserError, match=rf"{samples[3].id}.*overlaps"):
        train_stage(make_recipe(tmp_path, tmp_path / "data"))


def test_an_unknown_stage_is_named(tmp_path, emblems, capsys):
    path = write_recipe(tmp_path, emblems)
    path.write_text(path.read_text().replace("type: crf", "type: crv"))
    assert main([str(path)]) == 2
    assert "crv" in capsys.readouterr().err


# Learning rates and rows


def test_head_and_field_have_their_own_rate(tmp_path, emblems):
    recipe = make_recipe(tmp_path, emblems, "--train.weight_decay=0.1")
    trainable = recipe.stage.prepare(StageData(read_split(emblems, "train"), [], emblems, TYPES, 0))
    groups = StageTrainer(trainable, recipe.train, []).create_optimizer().param_groups
    rates = {id(value): (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}
    trained = {name: value for name, value in trainable.model.named_parameters() if value.requires_grad}
    assert len(rates) == len(trained) < len(list(trainable.model.parameters()))
    for name, value in trained.items():
        rate, decay = rates[id(value)]
        assert rate == (2e-3 if name.startswith("encoder.") else 5e-3), name
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1), name


def test_variants_of_rows():
    rows = [["a1", "a2", "a3"], ["b1"], ["c1", "c2"]]
    copies = MultiVariantDataset(rows, "copies", 0)
    assert [copies[index] for index in range(len(copies))] == ["a1", "a2", "a3", "b1", "c1", "c2"]
    first = MultiVariantDataset(rows, "first", 0)
    drawn = MultiVariantDataset(rows, "draw", 0)
    assert len(first) == len(drawn) == 3
    seen = set()
    for epoch in range(30):
        first.set_epoch(epoch)
        drawn.set_epoch(epoch)
        assert [first[index] for index in range(3)] == ["a1", "b1", "c1"]
        seen |= {drawn[index] for index in range(3)}
    assert seen == {"a1", "a2", "a3", "b1", "c1", "c2"}
    assert drawn.lengths(lambda row: int(row[1])) == [3, 1, 2]
    with pytest.raises(UserError, match="'all' is none of"):
        MultiVariantDataset(rows, "all", 0)


# Killed and started again

LONG = (
    "--stage.renamed_variants=1",
    "--train.num_train_epochs=6",
    "--train.save_strategy=steps",
    "--train.save_steps=4",
    "--train.save_total_limit=2",
)


def launch(recipe: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "rivegs_mllm.train", str(recipe), *overrides]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_ends_as_one_that_never_was(tmp_path, emblems):
    """Eighteen steps, three an epoch, killed behind step 8."""
    recipe, run = write_recipe(tmp_path / "killed", emblems), tmp_path / "killed" / "run"
    process = launch(recipe, *LONG)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint-8" / "trainer_state.json").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "stage.json").exists()

    process = launch(recipe, *LONG)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    train_stage(make_recipe(tmp_path / "whole", emblems, *LONG))

    def losses(folder: Path) -> list[float]:
        return [entry["loss"] for entry in state(folder)["log_history"] if "loss" in entry]

    whole = tmp_path / "whole" / "run"
    assert len(losses(whole)) == 18
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    resumed, straight = load_file(run / "model.safetensors"), load_file(whole / "model.safetensors")
    for name in straight:
        assert torch.allclose(resumed[name], straight[name], rtol=1e-3, atol=1e-6), name


# Several seeds


def test_seeds_by_one_command(tmp_path, emblems, capsys):
    recipe = write_recipe(tmp_path, emblems)
    settings = ("--data.test=test", "--train.num_train_epochs=6", "--train.eval_strategy=epoch")
    assert main([str(recipe), "--seeds", "0", "3", *settings]) == 0
    printed = capsys.readouterr().out
    run = tmp_path / "run"
    result = json.loads((run / "seeds.json").read_text())
    assert list(result["seeds"]) == ["0", "3"]
    values = [json.loads((run / f"seed-{seed}" / "metrics.json").read_text())["test"]["span_f1"] for seed in (0, 3)]
    assert result["mean"]["test"]["span_f1"] == pytest.approx(sum(values) / 2)
    assert result["deviation"]["test"]["span_f1"] == pytest.approx(statistics.stdev(values))
    assert "dev" in printed
    assert f"{50 * sum(values):.2f}" in printed
    weights = [load_file(run / f"seed-{seed}" / "model.safetensors")["head.weight"] for seed in (0, 3)]
    assert not torch.equal(*weights)
    assert main([str(recipe), "--seeds", "0", "3", *settings]) == 0
    assert capsys.readouterr().out.count("holds this stage already") == 2


def test_seeds_that_cannot_be_summed_up(tmp_path, emblems, capsys):
    recipe = write_recipe(tmp_path, emblems)
    assert main([str(recipe), "--seeds", "1", "1"]) == 2
    assert "names a seed twice" in capsys.readouterr().err
    assert main([str(recipe), "--seeds", "1", "2", "--train.max_steps=1"]) == 2
    assert "nothing was evaluated; set train.eval_strategy" in capsys.readouterr().err
