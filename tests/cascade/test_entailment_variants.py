"""Which expressions an entity is learned by: one drawn an epoch, a copy for each, the first."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest

from rivegs_mllm.cascade.entailment.caption import CaptionTraining
from rivegs_mllm.cascade.entailment.classifier import ClassifierTraining
from rivegs_mllm.cascade.entailment.scorer_late_interaction import PatchScorerRecipe
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.rows import entailment_rows
from rivegs_mllm.cascade.training import StageData, Trainable
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.store.answer_store import Store, StoredAnswer
from rivegs_mllm.types import TYPES, Sample, UserError

TEACHERS = 5


@pytest.fixture(scope="module")
def samples(emblems) -> list[Sample]:
    return [sample for sample in read_split(emblems, "train") if sample.entities][:8]


@pytest.fixture(scope="module")
def store(samples, tmp_path_factory) -> Path:
    """Five teachers' expressions of all entities but the last post's; what the fifth wrote first has a fault."""
    folder = tmp_path_factory.mktemp("store")
    with Store(folder) as store:
        for teacher in range(TEACHERS):
            for sample in samples[:-1]:
                for entity in sample.entities:
                    key = f"{sample.id} {entity.text} {teacher}"
                    faults = ("empty",) if sample is samples[0] and teacher == 4 else ()
                    text = f"number {teacher} of {entity.text}"
                    store.append(
                        StoredAnswer(
                            sample.id, "expression", key, key, f"t{teacher}", entity.text, text=text, faults=faults
                        )
                    )
    return folder


def prepare(
    kind: str, expression_variants: ExpressionVariants, samples, emblems, base, tmp_path
) -> tuple[Trainable, list[list[str]]]:
    """The stage in training, and the texts of its rows in the first five epochs."""
    if kind == "classifier":
        stage = ClassifierTraining(PatchScorerRecipe(str(base)), expressions=expression_variants)
    else:
        captions = tmp_path / "captions.txt"
        captions.write_text("".join(f"imgid:{sample.id}###A picture.\n" for sample in samples))
        stage = CaptionTraining("tiny", [captions], expressions=expression_variants)
    trainable = stage.prepare(StageData(samples, (), emblems, TYPES, 0))
    epochs = []
    for epoch in range(5):
        trainable.train.set_epoch(epoch)
        rows = [trainable.train[place] for place in range(len(trainable.train))]
        epochs.append([str(row.inputs["input_ids"]) if kind == "caption" else row.text for row in rows])
    return trainable, epochs


def without_expressions(sample: Sample) -> Sample:
    return dataclasses.replace(
        sample, entities=tuple(dataclasses.replace(entity, expression="") for entity in sample.entities)
    )


@pytest.mark.parametrize("kind", ["classifier", "caption"])
def test_drawn_copied_or_the_first(kind, samples, store, emblems, base, tmp_path, capsys):
    entities = sum(len(sample.entities) for sample in samples)
    first, last = len(samples[0].entities), len(samples[-1].entities)
    given = (samples, emblems, base, tmp_path)

    drawn, epochs = prepare(kind, ExpressionVariants(store), *given)
    assert len(drawn.train) == entities
    assert "no expression" not in capsys.readouterr().out, "those of the last post keep their own"
    variants = [len({epoch[place] for epoch in epochs}) for place in range(entities)]
    assert set(variants[-last:]) == {1}, "what the store does not have stays as it is"
    assert all(count > 1 for count in variants[:-last])
    assert epochs == prepare(kind, ExpressionVariants(store), *given)[1], "a run that is taken up again draws the same"

    copied, epochs = prepare(kind, ExpressionVariants(store, "copies"), *given)
    assert len(copied.train) == TEACHERS * (entities - last) - first + last
    assert all(epoch == epochs[0] for epoch in epochs)

    same, epochs = prepare(kind, ExpressionVariants(store, "first"), *given)
    assert len(same.train) == entities
    assert all(epoch == epochs[0] for epoch in epochs)
    if kind == "classifier":
        entity = samples[0].entities[0]
        assert epochs[0][0] == f"{entity.text} ({entity.type}) - number 0 of {entity.text}"


def test_dev_is_scored_with_the_first(samples, store):
    changed = ExpressionVariants(store).first(samples)
    assert changed[0].entities[0].expression == f"number 0 of {samples[0].entities[0].text}"
    assert changed[-1] == samples[-1]
    assert ExpressionVariants().first(samples) is samples


def test_without_a_store_the_data_s_own(samples, emblems, base, tmp_path):
    _, epochs = prepare("classifier", ExpressionVariants(), samples, emblems, base, tmp_path)
    entity = samples[0].entities[0]
    assert {epoch[0] for epoch in epochs} == {f"{entity.text} ({entity.type}) - {entity.expression}"}


def test_a_store_of_other_posts(samples, store, emblems, base, tmp_path):
    others = [dataclasses.replace(sample, id=f"other-{sample.id}") for sample in samples]
    bare = [without_expressions(sample) for sample in others]
    with pytest.raises(UserError, match=r"none of \d+ training entities has an expression, also not in"):
        prepare("classifier", ExpressionVariants(store), bare, emblems, base, tmp_path)


def test_data_without_expressions(samples, store, emblems, base, tmp_path, capsys):
    """They are asked for, so it is an error that there are none, unless `query_fields` goes without."""
    bare = [without_expressions(sample) for sample in samples]
    with pytest.raises(
        UserError, match=r"none of \d+ training entities .* stage.expressions.store, or set stage.query_fields"
    ):
        prepare("caption", ExpressionVariants(), bare, emblems, base, tmp_path)
    prepare("caption", ExpressionVariants(store), bare, emblems, base, tmp_path)
    entities, last = sum(len(sample.entities) for sample in samples), len(samples[-1].entities)
    assert f"{last} of {entities} training entities have no expression" in capsys.readouterr().out
    ExpressionVariants().variants(entailment_rows(bare), ["mention", "type"])


def test_settings_that_do_not_fit(store, tmp_path):
    with pytest.raises(UserError, match=r"expressions.strategy: 'five' is none of draw, copies, first"):
        ExpressionVariants(store, "five")
    for stage in (partial(CaptionTraining, "tiny", [tmp_path]), partial(ClassifierTraining, PatchScorerRecipe("tiny"))):
        with pytest.raises(UserError, match=r"expressions.store: `query_fields` has no expression"):
            stage(query_fields=["mention"], expressions=ExpressionVariants(store))
