"""Expanders: none, the gold's, and those of an encyclopedia."""

import dataclasses

import pytest
from cascade_suite import StageSuite, drafted

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.knowledge.expansion import GoldExpander, NoExpander, ReplayExpander
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import Entity, Prediction, Sample


class TestNoExpander(StageSuite):
    slot = "expander"

    @pytest.fixture(scope="class")
    def choice(self):
        return NoExpander()

    def test_it_does_something(self, cases, answers):
        assert answers == cases.partials


class TestGoldExpander(StageSuite):
    slot = "expander"

    @pytest.fixture(scope="class")
    def choice(self):
        return GoldExpander()


class TestReplayExpander(StageSuite):
    slot = "expander"

    @pytest.fixture(scope="class")
    def choice(self, emblems):
        return ReplayExpander(emblems / "encyclopedia.jsonl", fallback=None)


def test_the_encyclopedia_says_of_every_emblem_what_its_builder_says(emblems):
    samples = read_split(emblems, "train") + read_split(emblems, "test")
    partials = [drafted("expander", sample) for sample in samples]
    filled = ReplayExpander(emblems / "encyclopedia.jsonl").load(emblems)(samples, partials)
    for sample, partial in zip(samples, filled, strict=True):
        assert [e.expression for e in partial.entities] == [e.expression for e in sample.entities]
        assert partial.errors == ()


def test_a_mention_that_is_not_there_is_listed_or_an_error(emblems):
    settings = ReplayExpander(emblems / "encyclopedia.jsonl", fallback="something")
    partial = Prediction("1", entities=(Entity("Nobody", "PER", (0, 1)),), errors=("before",))
    sample = Sample("1", ("Nobody",))
    [filled] = settings.load(emblems)([sample], [partial])
    assert filled.entities[0].expression == "something"
    assert filled.errors[0] == "before"
    assert "'Nobody' is not in" in filled.errors[1]
    with pytest.raises(StageError, match=r"expander \(replay\): 'Nobody' of post '1' is not in .*set `fallback`"):
        dataclasses.replace(settings, fallback=None).load(emblems)([sample], [partial])


def test_gold_expressions_go_by_the_mention(emblems):
    gold = Entity("Rex", "OTHER", (1, 2), "a brown dog", visible=False)
    sample = Sample("1", ("my", "Rex", "Rex"), entities=(gold,))
    entities = (Entity("Rex", "PER", (1, 2)), Entity("Rex", "PER", (2, 3)), Entity("my Rex", "PER", (0, 2)))
    [filled] = GoldExpander().load(emblems)([sample], [Prediction("1", entities=entities)])
    assert [entity.expression for entity in filled.entities] == ["a brown dog", "", ""]
