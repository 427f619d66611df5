"""Runs, adapters, stages, stores, scores and recipes that earlier releases wrote are still read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.analysis.calibration import Calibration, read_calibration
from eval.scores import evaluate
from rivegs_mllm import load
from rivegs_mllm.cascade.config import read_cascade
from rivegs_mllm.cascade.training import StageTraining
from rivegs_mllm.compare.systems import read_systems
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.data.jsonl import read_predictions, read_split
from rivegs_mllm.distill.config import read_distill
from rivegs_mllm.models.base_model import load_processor
from rivegs_mllm.runtime.post_errors import TRUNCATED, kinds_of
from rivegs_mllm.store.answer_store import Store, read_rows, read_store
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.train import start
from rivegs_mllm.training.run.folder import model_fingerprint

FILES = Path(__file__).parent / "earlier"


@pytest.fixture
def earlier(tmp_path, base) -> Path:
    """A copy of the files, with the folders of this machine in them."""
    folder = tmp_path / "earlier"
    shutil.copytree(FILES, folder)
    places = {"@HERE@": str(folder), "@BASE CONTENT@": model_fingerprint(base), "@BASE@": str(base)}
    for path in [*folder.rglob("*.json"), *folder.rglob("*.yaml")]:
        text = path.read_text()
        for place, there in places.items():
            text = text.replace(place, there)
        path.write_text(text)
    load_processor(read_recipe(folder / "recipes" / "e2e.yaml").model).save_pretrained(folder / "run")
    return folder


def test_samples_and_predictions(earlier):
    one, two, three = read_split(earlier / "data", "dev")
    assert (one.entities[0].masks[0].size, two.knowledge[1], three.image) == ((48, 64), "Kelda sells boats.", "")
    first = read_predictions(earlier / "predictions.jsonl")[0]
    assert first.entities[0].visible_score == 0.93
    assert kinds_of(first) == {TRUNCATED}


def test_adapter_and_calibration(earlier):
    system = load(earlier / "run")
    assert system.types == ("PER", "LOC", "ORG", "OTHER")
    assert read_calibration(earlier / "run") == Calibration(temperature=1.5, threshold=0.4)
    assert system("Kelda opens a shop", earlier / "data" / "images" / "two.png").raw


@pytest.mark.parametrize("name", ["e2e", "tagger"])
def test_finished_runs_are_known(earlier, name, capsys):
    """The settings that a run was started with are those that its recipe has now."""
    start(earlier / "recipes" / f"{name}.yaml")
    assert " already" in capsys.readouterr().out


def test_stage_in_a_cascade(earlier):
    recipe = read_cascade(earlier / "recipes" / "cascade.yaml")
    samples = read_split(earlier / "data", "dev")
    partials = read_predictions(earlier / "predictions.jsonl")
    assert [partial.id for partial in recipe.tagger.load(earlier / "data")(samples, partials)] == [
        "one",
        "two",
        "three",
    ]


def test_store_that_was_cut_off(earlier):
    store = earlier / "store"
    assert [row.status for row in read_rows(store)] == 6 * ["answered"] + ["failed"]
    with Store(store) as opened:
        assert opened.notes == []
    knowledge = read_store(store, "knowledge", clean=True)
    assert {place: [row.text for row in rows] for place, rows in knowledge.items()} == {
        ("one", ""): ["Zarvik Molen plays football."],
        ("two", ""): ["Kelda is a company."],
    }
    refused = next(row for row in read_rows(store) if row.text == "I cannot help.")
    assert refused.faults == ("refusal",)


def test_captions(earlier):
    [one, two, three] = read_split(earlier / "data", "dev")
    captions = Captions([earlier / "captions.txt", earlier / "store"])
    assert [captions.of(sample) for sample in (one, two, three)] == ["a red field", "a blue\nsign", ""]


def test_scores_keep_their_names_and_figures(earlier):
    """What others read out of the JSON of `rivegs evaluate` is where it was; more may have come."""
    before = json.loads((earlier / "scores.json").read_text())
    samples, predictions = read_split(earlier / "data", "dev"), read_predictions(earlier / "predictions.jsonl")
    now = json.loads(json.dumps(evaluate(samples, predictions)))
    assert before.pop("posts") == now["posts"] == 3
    assert_holds(now, before, "scores")


def assert_holds(now: object, before: object, place: str) -> None:
    if isinstance(before, dict):
        for key, value in before.items():
            assert key in now, f"{place}.{key} is gone"
            assert_holds(now[key], value, f"{place}.{key}")
    else:
        assert now == (pytest.approx(before) if isinstance(before, float) else before), place


def test_recipes_of_other_commands(earlier):
    recipes = earlier / "recipes"
    assert read_distill(recipes / "distill.yaml").limits.max_cost is None
    assert parse_recipe(StageTraining, recipes / "tagger.yaml").stage.max_length == 40
    systems = read_systems([recipes / "cascade.yaml", recipes / "variants.yaml"])
    assert list(systems) == ["cascade", "no_knowledge", "no_expression"]
