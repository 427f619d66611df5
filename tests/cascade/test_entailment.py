"""The small entailment stages, the decision, and how a stage is measured."""

import dataclasses

import pytest
from cascade_suite import StageSuite

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.entailment.base import (
    AlwaysEntailment,
    DecisionRule,
    GoldEntailment,
    entailment_metrics,
    query_texts,
)
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError


class TestAlways(StageSuite):
    slot = "entailment"

    @pytest.fixture(scope="class")
    def choice(self):
        return AlwaysEntailment()

    def test_all_are_visible_where_there_is_a_picture(self, cases, answers):
        for sample, answer in zip(cases.samples, answers, strict=True):
            for entity in answer.entities:
                assert (entity.visible, entity.visible_score) == (bool(sample.image), float(bool(sample.image)))


class TestGold(StageSuite):
    slot = "entailment"

    @pytest.fixture(scope="class")
    def choice(self):
        return GoldEntailment()

    def test_decisions_are_the_gold_s(self, cases, answers):
        for sample, answer in zip(cases.samples, answers, strict=True):
            assert [entity.visible for entity in answer.entities] == [entity.visible for entity in sample.entities]
            assert all(entity.visible_score == entity.visible for entity in answer.entities)


def _gold(sample, *entities):
    stage = GoldEntailment().load(None)
    return stage([sample], [Prediction(sample.id, entities=entities)])[0].entities


def test_gold_for_what_the_tagger_made_up():
    sample = Sample("a", ("Nokia", "rocks"), entities=(Entity("Nokia", "ORG", (0, 1), visible=True),))
    right, other_type, unknown = _gold(
        sample, Entity("Nokia", "ORG", (0, 1)), Entity("Nokia", "LOC", (0, 1)), Entity("rocks", "ORG", (1, 2))
    )
    assert (right.visible, other_type.visible, unknown.visible) == (
        True,
        True,
        False,
    )  # boxes and EEG do not ask for the type


def test_gold_with_boxes_alone_is_visible():
    gold = Entity("Nokia", "ORG", (0, 1), boxes=(Box(0, 0, 2, 2),))
    (answer,) = _gold(Sample("a", ("Nokia",), entities=(gold,)), Entity("Nokia", "ORG", (0, 1)))
    assert answer.visible is True


def test_gold_that_does_not_say():
    sample = Sample("a", ("Nokia",), entities=(Entity("Nokia", "ORG", (0, 1)),))
    with pytest.raises(StageError, match=r"'a'.*'Nokia'.*use data with regions"):
        _gold(sample, Entity("Nokia", "ORG", (0, 1)))


@pytest.mark.parametrize(
    ("logit", "temperature", "score"),
    [(0.0, 1.0, 0.5), (2.0, 1.0, 0.880797), (2.0, 2.0, 0.731059), (-1000.0, 1.0, 0.0), (1000.0, 1.0, 1.0)],
)
def test_probability_of_a_logit(logit, temperature, score):
    decided = DecisionRule(0.5, temperature).decided(Entity("a", "PER"), logit)
    assert decided.visible_score == pytest.approx(score, abs=1e-6)
    assert decided.visible is (score >= 0.5)


def test_threshold():
    entity = Entity("a", "PER")
    assert DecisionRule(threshold=0.8).decided(entity, 1.0).visible is False  # 0.73
    assert DecisionRule(threshold=0.2).decided(entity, -1.0).visible is True  # 0.27


@pytest.mark.parametrize(("setting", "value"), [("threshold", 1.5), ("temperature", 0.0)])
def test_decision_that_cannot_be(setting, value):
    with pytest.raises(UserError, match=f"decision.{setting}"):
        DecisionRule(**{setting: value})


def test_an_entity_without_the_parts_asked_for():
    entities = [Entity("Nokia", "ORG", expression="a blue logo"), Entity("Rome", "LOC")]
    texts, notes = query_texts(entities, ["expression"])
    assert texts == ["a blue logo", "Rome"]
    assert notes == ["'Rome' has no expression: scored by its mention"]
    assert query_texts(entities, ["mention", "type", "expression"]) == (["Nokia (ORG) - a blue logo", "Rome (LOC)"], [])


def test_figures_worked_out_by_hand():
    """Four entities, two of them visible; the stage says yes to the first three."""
    entities = tuple(
        Entity(word, "PER", (place, place + 1), visible=place in (0, 3)) for place, word in enumerate("abcd")
    )
    sample = Sample("s", tuple("abcd"), "s.jpg", (9, 9), entities, subset="seen")

    def stage(samples, partials):
        assert not samples[0].entities
        assert all(entity.visible is None for entity in partials[0].entities)
        said = [dataclasses.replace(entity, visible=entity.text != "d") for entity in partials[0].entities]
        return [dataclasses.replace(partials[0], entities=tuple(said))]

    figures = entailment_metrics(stage, [sample])
    assert figures == {"accuracy": 0.25, "f1": pytest.approx(2 / 5), "majority": 0.5, "accuracy_seen": 0.25}
