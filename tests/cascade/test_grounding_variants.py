"""Which expressions a grounder learns an entity by, where a store of teachers has several."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny_grounders import save_owlv2

from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.grounding.detector import ZeroShotTraining
from rivegs_mllm.cascade.grounding.late_interaction import PatchGrounderTraining
from rivegs_mllm.cascade.rows import grounding_rows
from rivegs_mllm.cascade.training import StageData, TrainableStage
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.store.answer_store import Store, StoredAnswer
from rivegs_mllm.types import TYPES, Sample, UserError


@pytest.fixture(scope="module")
def samples(emblems) -> list[Sample]:
    return read_split(emblems, "train")[:8]


@pytest.fixture(scope="module")
def store(samples, tmp_path_factory) -> Path:
    """Three teachers' expressions of every entity."""
    folder = tmp_path_factory.mktemp("store")
    with Store(folder) as store:
        for teacher in range(3):
            for sample in samples:
                for entity in sample.entities:
                    key = f"{sample.id} {entity.text} {teacher}"
                    row = StoredAnswer(
                        sample.id, "expression", key, key, f"t{teacher}", entity.text, text=f"number {teacher}"
                    )
                    store.append(row)
    return folder


@pytest.fixture(params=["zero_shot", "patches"])
def stage_of(request, base, tmp_path_factory):
    """From further settings to a grounder in training."""
    if request.param == "patches":
        return lambda **settings: PatchGrounderTraining(str(base), drop_mentions=False, **settings)
    model = save_owlv2(tmp_path_factory.mktemp("owlv2"))
    return lambda **settings: ZeroShotTraining(str(model), **settings)


def epochs(stage: TrainableStage, samples: list[Sample], folder: Path) -> list[list[str]]:
    """What tells the texts of the rows apart, in the first six epochs."""
    rows = stage.prepare(StageData(samples, (), folder, TYPES, 0)).train
    drawn = []
    for epoch in range(6):
        rows.set_epoch(epoch)
        picked = [rows[place] for place in range(len(rows))]
        drawn.append([row[1] if isinstance(row, tuple) else str(row.text.tolist()) for row in picked])
    return drawn


def test_drawn_copied_or_the_first(stage_of, samples, store, emblems):
    visible = len(grounding_rows(samples))
    drawn = epochs(stage_of(expressions=ExpressionVariants(store)), samples, emblems)
    assert [len(epoch) for epoch in drawn] == [visible] * 6
    assert any(len({epoch[place] for epoch in drawn}) > 1 for place in range(visible))
    copied = epochs(stage_of(expressions=ExpressionVariants(store, "copies")), samples, emblems)
    assert [len(epoch) for epoch in copied] == [3 * visible] * 6
    first = epochs(stage_of(expressions=ExpressionVariants(store, "first")), samples, emblems)
    assert all(epoch == first[0] for epoch in first)
    assert first[0] != epochs(stage_of(), samples, emblems)[0]


def test_dev_is_scored_with_the_first(stage_of, samples, store, emblems, monkeypatch):
    """What is looked for in the pictures of dev is what the store says, not what the gold does."""
    trainable = stage_of(expressions=ExpressionVariants(store)).prepare(StageData(samples, (), emblems, TYPES, 0))
    asked = []
    monkeypatch.setattr(
        "rivegs_mllm.cascade.grounding.base.referring_expression",
        lambda entity, _: asked.append(entity.expression) or "a",
    )
    trainable.model.eval()
    trainable.evaluate(samples[:3])
    assert set(asked) == {"number 0"}


def test_a_store_without_expressions_in_what_is_asked(stage_of, store):
    with pytest.raises(UserError, match=r"expressions.store: `query_fields` has no expression"):
        stage_of(query_fields=["mention"], expressions=ExpressionVariants(store))


def test_no_expression_to_learn_from(stage_of, samples, emblems):
    bare = [
        dataclasses.replace(
            sample, entities=tuple(dataclasses.replace(entity, expression="") for entity in sample.entities)
        )
        for sample in samples
    ]
    data = StageData(bare, (), emblems, TYPES, 0)
    with pytest.raises(UserError, match=r"has an expression.*expressions.store, or set stage.query_fields"):
        stage_of().prepare(data)
    assert len(stage_of(query_fields=["mention", "type"]).prepare(data).train) == len(grounding_rows(bare))
