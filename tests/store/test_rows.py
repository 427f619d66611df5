"""A cascade's predictions as training rows: which posts are sure enough, and where every field came from."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image
from tiny_base import make_recipe

from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.distill.config import DistillData
from rivegs_mllm.distill.pseudo_labels import (
    MISSING,
    NOWHERE,
    UNBOXED,
    UNDECIDED,
    UNPLACED,
    UNREAD,
    UNSURE,
    PseudoLabelRecipe,
    make_pseudo_labels,
    select_confident,
)
from rivegs_mllm.train import train
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

POST = Sample("p", ("Ann", "in", "Bonn", "in", "May"), "p.png", (20, 10), (Entity("May", "PER", (4, 5)),), ("GOLD",))
ANN = Entity("Ann", "PER", (0, 1), "a woman", True, 0.97, (Box(1, 1, 5, 5),))
BONN = Entity("Bonn", "LOC", None, "", False, 0.02, (Box(0, 0, 2, 2),), (Mask((10, 20), "x"),))


def chosen(prediction: Prediction | None, **settings):
    return select_confident([POST], [prediction] if prediction else [], **{"min_confidence": 0.9, **settings})


def test_sure_prediction_becomes_gold():
    rows, reasons = chosen(Prediction("p", "Ann is a singer.", (BONN, ANN)))
    assert reasons == {}
    assert rows == [
        dataclasses.replace(
            POST,
            knowledge=("Ann is a singer.",),
            entities=(
                dataclasses.replace(ANN, visible_score=None),
                Entity("Bonn", "LOC", (2, 3), visible=False),
            ),
        )
    ]


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        (None, MISSING),
        (Prediction("p", errors=("line 3",)), UNREAD),
        (Prediction("p", entities=(ANN, dataclasses.replace(BONN, visible_score=0.3))), UNSURE),
        (Prediction("p", entities=(dataclasses.replace(ANN, visible=None),)), UNDECIDED),
        (Prediction("p", entities=(dataclasses.replace(ANN, boxes=()),)), UNBOXED),
        (Prediction("p", entities=(dataclasses.replace(ANN, boxes=(Box(5, 5, 1, 1),)),)), NOWHERE),
        (Prediction("p", entities=(dataclasses.replace(ANN, boxes=(Box(1, 1, 21, 5),)),)), NOWHERE),
        (Prediction("p", entities=(dataclasses.replace(ANN, masks=(Mask((20, 10), "X60X"),)),)), NOWHERE),
        (Prediction("p", entities=(dataclasses.replace(ANN, masks=(Mask((10, 20), "X6"),)),)), NOWHERE),
        (Prediction("p", entities=(dataclasses.replace(ANN, text="in", span=None),)), UNPLACED),
        (Prediction("p", entities=(dataclasses.replace(ANN, span=(1, 2)),)), UNPLACED),
        (Prediction("p", entities=(dataclasses.replace(ANN, text="Rome", span=None),)), UNPLACED),
    ],
)
def test_one_doubt_leaves_the_post_out_and_says_why(prediction, reason):
    assert chosen(prediction) == ([], {"p": reason})


def test_doubts_that_can_be_allowed():
    assert not chosen(Prediction("p", entities=(dataclasses.replace(ANN, visible_score=0.6),)), min_confidence=0.5)[1]
    assert not chosen(Prediction("p", entities=(dataclasses.replace(ANN, boxes=()),)), boxes=False)[1]
    assert not chosen(Prediction("p", entities=(dataclasses.replace(ANN, visible_score=None),)))[1]


def test_dataset_folder_that_can_be_trained_on(tmp_path):
    data = tmp_path / "data"
    unsure = dataclasses.replace(POST, id="q", entities=())
    write_records(data / "train.jsonl", [POST, unsure])
    Image.new("RGB", (20, 10)).save(data / "p.png")
    doubt = dataclasses.replace(ANN, visible_score=0.5)
    write_records(tmp_path / "said.jsonl", [Prediction("p", entities=(ANN,)), Prediction("q", entities=(doubt,))])
    recipe = PseudoLabelRecipe(DistillData(data), tmp_path / "deep" / "rows", predictions=tmp_path / "said.jsonl")
    counts = make_pseudo_labels(recipe)
    assert counts == {"train": {"rows": 1, "posts": 2, UNSURE: 1}}
    (row,) = read_split(recipe.out, "train")
    assert [entity.text for entity in row.entities] == ["Ann"], "its own gold is no part of it"
    assert row.knowledge == ()
    assert (recipe.out / row.image).resolve() == (data / "p.png").resolve()
    (made,) = [json.loads(line) for line in (recipe.out / "provenance.jsonl").read_text().splitlines()]
    assert made["id"] == "p"
    assert made["made_by"]["boxes"] == str(tmp_path / "said.jsonl")
    assert made["entities"] == [{"text": "Ann", "span": [0, 1], "visible_score": 0.97}]
    assert (recipe.out / "left_out.txt").read_text() == f"train q: {UNSURE}\n"


def test_rows_of_a_real_cascade(tmp_path, trained):
    recipe = tmp_path / "cascade.yaml"
    mllm = f"{{type: mllm, recipe: {trained.recipe}, adapter: {trained.recipe.parent / 'run'}}}"
    slots = dict.fromkeys(("knowledge", "tagger", "expander", "entailment", "grounder"), mllm)
    recipe.write_text("".join(f"{slot}: {choice}\n" for slot, choice in slots.items()))
    rows = PseudoLabelRecipe(
        DistillData(trained.data, ["dev"]), tmp_path / "rows", cascade=recipe, min_confidence=0.5, boxes=False
    )
    counts = make_pseudo_labels(rows)["dev"]
    assert counts["posts"] == len(trained.samples)
    made = read_split(rows.out, "dev")
    assert len(made) == counts["rows"] >= 1
    source = json.loads((rows.out / "provenance.jsonl").read_text().splitlines()[0])["made_by"]
    assert source == {
        "knowledge": "knowledge: mllm",
        "entities": "tagger: mllm",
        "expression": "expander: mllm",
        "visible": "entailment: mllm",
        "boxes": "grounder: mllm",
    }
    settings = json.loads((rows.out / "made_by.json").read_text())["boxes"]["settings"]
    assert settings == {"recipe": str(trained.recipe), "adapter": str(trained.recipe.parent / "run")}
    surer = make_pseudo_labels(dataclasses.replace(rows, out=tmp_path / "surer", min_confidence=1.0))["dev"]
    assert surer["rows"] < counts["rows"], "an untrained head is never wholly sure"
    assert surer["posts"] == sum(number for what, number in surer.items() if what != "posts")
    base = trained.recipe.parent / "base"
    single = train(make_recipe(tmp_path / "single", base, rows.out, "--data.train=dev", "--train.max_steps=1"))
    assert (single / "adapter_model.safetensors").is_file(), "the end-to-end model is trained on the rows"
    recipe.write_text("tagger: {type: gold}\n")
    with pytest.raises(UserError, match="tagger is gold"):
        make_pseudo_labels(dataclasses.replace(rows, out=tmp_path / "other"))


def test_recipe_needs_one_source():
    for sources in ({}, {"cascade": Path("a"), "predictions": Path("b")}):
        with pytest.raises(UserError, match="either cascade"):
            PseudoLabelRecipe(DistillData(Path("x")), Path("y"), **sources)
    with pytest.raises(UserError, match="min_confidence"):
        PseudoLabelRecipe(DistillData(Path("x")), Path("y"), cascade=Path("a"), min_confidence=0.3)
