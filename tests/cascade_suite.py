"""What every stage of the cascade must pass. A stage's tests inherit it and say which stage::

    class TestMyStage(StageSuite):
        slot = "grounder"

        @pytest.fixture(scope="class")
        def choice(self, tmp_path_factory) -> StageRecipe:
            return MyStage(...)

``cases`` can be overridden where a stage needs other posts than those of the small Emblems set.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar, NamedTuple

import draccus
import pytest
from tiny_base import without_picture

from rivegs_mllm.cascade.base import (
    REQUIRED_SLOTS,
    SLOTS,
    RequiresSlots,
    SharedModel,
    Stage,
    StageRecipe,
    check_stage,
    without_labels,
)
from rivegs_mllm.cascade.config import CascadeRecipe
from rivegs_mllm.data.jsonl import prediction_from_json, read_split, to_line
from rivegs_mllm.types import Entity, Prediction, Sample


class Cases(NamedTuple):
    """Posts with their gold, what the slots before have filled in, and the folder of the pictures."""

    samples: list[Sample]
    partials: list[Prediction]
    folder: Path


def drafted(slot: str, sample: Sample) -> Prediction:
    """The partial prediction of a post as it comes to ``slot``: the gold's fields up to there."""
    place = SLOTS.index(slot)
    knowledge = sample.knowledge[0] if place > SLOTS.index("knowledge") and sample.knowledge else ""
    entities = sample.entities if place > SLOTS.index("tagger") else ()
    return Prediction(sample.id, knowledge, tuple(_entity(entity, place) for entity in entities))


def _entity(entity: Entity, place: int) -> Entity:
    known = Entity(entity.text, entity.type, entity.span)
    if place > SLOTS.index("expander"):
        known = dataclasses.replace(known, expression=entity.expression)
    if place > SLOTS.index("entailment"):
        known = dataclasses.replace(known, visible=entity.visible)
    if place > SLOTS.index("grounder"):
        known = dataclasses.replace(known, boxes=entity.boxes[:1])
    return known


def assert_same(ours: list[Prediction], theirs: list[Prediction]) -> None:
    """The predictions agree: words and decisions exactly, scores and edges but for rounding."""
    assert [_words(one) for one in ours] == [_words(one) for one in theirs]
    assert _numbers(ours) == pytest.approx(_numbers(theirs), rel=1e-3, abs=1e-3)


def _words(partial: Prediction) -> Prediction:
    plain = tuple(dataclasses.replace(entity, visible_score=None, boxes=()) for entity in partial.entities)
    return dataclasses.replace(partial, entities=plain)


def _numbers(partials: list[Prediction]) -> list[float]:
    numbers = []
    for entity in (entity for partial in partials for entity in partial.entities):
        numbers += [-1.0 if entity.visible_score is None else entity.visible_score, float(len(entity.boxes))]
        numbers += [edge for box in entity.boxes for edge in (box.xmin, box.ymin, box.xmax, box.ymax)]
    return numbers


class StageSuite:
    """Inherited by the tests of a stage, which give ``slot`` and the fixture ``choice``, the stage's settings."""

    slot: ClassVar[str]

    @pytest.fixture(scope="class")
    def choice(self) -> StageRecipe:
        raise NotImplementedError("the tests of a stage say which stage")

    @pytest.fixture(scope="class")
    def cases(self, emblems: Path) -> Cases:
        """Six posts: the second without its picture, the third without entities."""
        samples = read_split(emblems, "dev")
        samples[1] = without_picture(samples[1])
        samples[2] = dataclasses.replace(samples[2], entities=())
        return Cases(samples, [drafted(self.slot, sample) for sample in samples], emblems)

    @pytest.fixture(scope="class")
    def stage(self, choice: StageRecipe, cases: Cases) -> Stage:
        return self.loaded(choice, cases.folder)

    @pytest.fixture(scope="class")
    def answers(self, choice: StageRecipe, stage: Stage, cases: Cases) -> list[Prediction]:
        return stage(self.shown(choice, cases.samples), cases.partials)

    def loaded(self, choice: StageRecipe | SharedModel, folder: Path) -> Stage:
        if isinstance(choice, SharedModel):
            return choice.stage_in(self.slot, choice.load_model(folder))
        return choice.load(folder)

    @staticmethod
    def shown(choice: StageRecipe, samples: list[Sample]) -> list[Sample]:
        """The posts as the runner hands them to the stage."""
        return list(samples) if choice.SEES_GOLD else [without_labels(sample) for sample in samples]

    def test_it_is_chosen_by_its_type_in_a_recipe(self, choice):
        recipe = CascadeRecipe(**{self.slot: choice})
        written = draccus.encode(recipe)
        assert written[self.slot]["type"] == type(choice).get_choice_name(type(choice))
        assert draccus.decode(CascadeRecipe, written) == recipe

    def test_what_it_needs_comes_before_it(self, choice):
        further = choice.requires_in(self.slot) if isinstance(choice, SharedModel) else ()
        further = choice.requires() if isinstance(choice, RequiresSlots) else further
        assert {*further} | set(REQUIRED_SLOTS[self.slot]) <= set(SLOTS[: SLOTS.index(self.slot)])

    def test_it_keeps_the_order_and_changes_its_own_fields_only(self, choice, cases, answers):
        check_stage(self.slot, "under test", cases.samples, cases.partials, answers)

    def test_it_does_something(self, cases, answers):
        assert answers != cases.partials

    def test_what_it_gives_can_be_written_to_disk(self, answers):
        import orjson

        for answer in answers:
            assert prediction_from_json(orjson.loads(to_line(answer))) == answer

    def test_a_post_s_answer_does_not_depend_on_its_neighbours(self, choice, stage, cases, answers):
        backwards = stage(self.shown(choice, cases.samples)[::-1], cases.partials[::-1])
        assert_same(backwards[::-1], answers)

    def test_no_posts(self, stage):
        assert stage([], []) == []

    def test_loaded_again_it_answers_the_same(self, choice, cases, answers):
        again = self.loaded(choice, cases.folder)
        assert_same(again(self.shown(choice, cases.samples), cases.partials), answers)

    def test_a_long_post_is_answered_beside_others(self, choice, stage, cases, answers):
        """Its text, background and expressions are longer than any encoder reads."""
        first, partial = cases.samples[0], cases.partials[0]  # by its id, as stores hold what they know of a post
        entities = tuple(dataclasses.replace(e, expression=" ".join([e.expression] * 200)) for e in partial.entities)
        long = dataclasses.replace(first, tokens=first.tokens * 100)
        before = dataclasses.replace(partial, knowledge=partial.knowledge * 50, entities=entities)
        answer, *others = stage(self.shown(choice, [long, *cases.samples[1:]]), [before, *cases.partials[1:]])
        check_stage(self.slot, "under test", [long], [before], [answer])
        assert_same(others, answers[1:])

    def test_it_does_not_read_the_gold(self, choice, stage, cases, answers):
        """With the gold in reach its answers stay the same, unless it exists to stand in for a perfect stage."""
        if not choice.SEES_GOLD:
            assert_same(stage(cases.samples, cases.partials), answers)
