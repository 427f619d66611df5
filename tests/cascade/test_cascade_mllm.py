"""The end-to-end model in the slots of the cascade: alone it says what it says end to end, beside others it goes on."""

import dataclasses
import shutil
import weakref
from pathlib import Path

import pytest
from cascade_suite import Cases, StageSuite, assert_same, drafted

from eval.analysis.calibration import Calibration, write_calibration
from rivegs_mllm.cascade import mllm
from rivegs_mllm.cascade.base import SLOTS, Stage, StageError
from rivegs_mllm.cascade.config import CascadeRecipe, check_requirements, read_cascade, run_cascade, steps_of
from rivegs_mllm.cascade.grounding.base import GoldGrounder
from rivegs_mllm.cascade.knowledge.base import NoKnowledge
from rivegs_mllm.cascade.knowledge.expansion import NoExpander
from rivegs_mllm.cascade.mllm import EndToEndStage, Mllm, load_end_to_end
from rivegs_mllm.cascade.runner import Step, run_steps
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.prediction.run import predict
from rivegs_mllm.types import Box, Entity, Prediction, UserError


@pytest.fixture(scope="module")
def end_to_end(trained, tmp_path_factory) -> list[Prediction]:
    recipe = read_recipe(trained.recipe)
    out = tmp_path_factory.mktemp("end_to_end") / "predictions.jsonl"
    return predict(recipe, trained.samples, trained.data, out, Path(recipe.train.output_dir))


def stage_in(slot: str, trained, adapter: Path | None = None) -> Stage:
    choice = Mllm(trained.recipe, adapter)
    return choice.stage_in(slot, choice.load_model(trained.data))


class MllmSuite(StageSuite):
    @pytest.fixture(scope="class")
    def choice(self, trained):
        return Mllm(trained.recipe)

    @pytest.fixture(scope="class")
    def cases(self, trained) -> Cases:
        return Cases(trained.samples, [drafted(self.slot, sample) for sample in trained.samples], trained.data)


class TestMllmKnowledge(MllmSuite):
    slot = "knowledge"


class TestMllmTagger(MllmSuite):
    slot = "tagger"


class TestMllmExpander(MllmSuite):
    slot = "expander"


class TestMllmEntailment(MllmSuite):
    slot = "entailment"


class TestMllmGrounder(MllmSuite):
    slot = "grounder"


@pytest.fixture
def alone(trained, tmp_path) -> CascadeRecipe:
    """The model in every slot whose field it writes."""
    path = tmp_path / "alone.yaml"
    path.write_text("".join(f"{slot}:\n  type: mllm\n  recipe: {trained.recipe}\n" for slot in SLOTS[:-1]))
    return read_cascade(path)


def test_alone_in_the_cascade_it_says_what_it_says_end_to_end(trained, alone, end_to_end, tmp_path):
    recipe = dataclasses.replace(alone, batch_size=3)  # of four posts, so that neighbours differ
    predictions, reports = run_cascade(recipe, trained.samples, trained.data, tmp_path)
    assert_same(predictions, end_to_end)
    assert sum(len(entity.boxes) for answer in end_to_end for entity in answer.entities) > 1
    assert all(answer.knowledge and answer.raw for answer in end_to_end)
    assert len({report.parameters for report in reports}) == 1


@pytest.fixture
def loads(monkeypatch) -> list[weakref.ref]:
    """A reference to each model that is loaded from here on, in order."""
    found, load = [], mllm.load_trained

    def noted(*given):
        system = load(*given)
        found.append(weakref.ref(system.model))
        return system

    monkeypatch.setattr(mllm, "load_trained", noted)
    return found


def test_another_stage_between_two_slots_does_not_load_the_model_again(trained, loads, tmp_path):
    recipe = CascadeRecipe(
        tagger=Mllm(trained.recipe),
        expander=NoExpander(),
        entailment=Mllm(trained.recipe, trained.recipe.parent / "run"),  # the same folder, named
        grounder=GoldGrounder(),
    )
    steps = steps_of(recipe, trained.data)
    run_steps(steps, trained.samples, tmp_path / "work", 4, {}, recipe.types)
    assert len(loads) == 1


def test_the_model_is_released_after_the_last_slot_that_shares_it(trained, loads, tmp_path):
    def watched(slot: str) -> Step:
        def load(models):
            alive.append((slot, [model() is not None for model in loads]))
            return lambda samples, partials: list(partials)

        return Step(slot, "watched", load)

    alive: list[tuple[str, list[bool]]] = []
    recipe = CascadeRecipe(NoKnowledge(), Mllm(trained.recipe), NoExpander(), Mllm(trained.recipe))
    knowledge, tagger, _, entailment = steps_of(recipe, trained.data)
    steps = [knowledge, tagger, watched("expander"), entailment, watched("grounder")]
    run_steps(steps, trained.samples, tmp_path / "work", 4, {}, recipe.types)
    assert alive == [("expander", [True]), ("grounder", [False])]


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml"):
        check_requirements(CascadeRecipe(Mllm(tmp_path / "none.yaml")))


@pytest.mark.parametrize(
    ("slot", "own", "following"),
    [("knowledge", "knowledge", "entity"), ("tagger", "entity", "expression"), ("expander", "expression", "visible")],
)
def test_a_stage_writes_no_more_than_its_own_segment(trained, end_to_end, monkeypatch, slot, own, following):
    stage = stage_in(slot, trained)
    generator, written = stage.model.generator, []
    model = generator.system.model
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: written.append(generate(**given)) or written[-1])
    sample, answer = trained.samples[0], end_to_end[0]
    plain = tuple(Entity(entity.text, entity.type, entity.span) for entity in answer.entities)
    [filled] = stage([sample], [Prediction(sample.id, answer.knowledge, plain if slot == "expander" else ())])
    decoded = generator.encoder.tokenizer.decode(written[0][0])
    assert answer.raw.startswith(filled.raw)
    assert filled.raw.splitlines()[-1].startswith(own)
    assert decoded.splitlines()[-1] == following


def test_it_goes_on_from_what_others_filled_in(trained, tmp_path):
    """Mentions that it would not have named itself get its expressions, in the order of the partial prediction."""
    sample = trained.samples[0]
    mentions = tuple(Entity(token, "PER", (place, place + 1)) for place, token in enumerate(sample.tokens[:3]))
    partial = Prediction(sample.id, "", mentions[::-1], raw="something else", errors=("before",))
    [answer] = stage_in("expander", trained)([sample], [partial])
    assert [entity.text for entity in answer.entities] == [entity.text for entity in mentions[::-1]]
    assert answer.errors[0] == "before"
    lines = [line for line in answer.raw.splitlines() if line.startswith("entity")]
    assert lines == [f"entity {number}: {entity.text} (PER)" for number, entity in enumerate(mentions, 1)]


def test_nothing_is_generated_where_there_is_nothing_to_fill(trained):
    hidden = [
        Prediction(sample.id, "", tuple(Entity(e.text, e.type, e.span, "x", False) for e in sample.entities))
        for sample in trained.samples
    ]
    assert stage_in("grounder", trained)(trained.samples, hidden) == hidden
    empty = [Prediction(sample.id) for sample in trained.samples]
    assert stage_in("expander", trained)(trained.samples, empty) == empty


def test_an_entity_that_nobody_could_decide_on_gets_no_box(trained):
    sample = next(sample for sample in trained.samples if any(entity.boxes for entity in sample.entities))
    entities = drafted("grounder", sample).entities
    undecided = tuple(dataclasses.replace(e, visible=None if not e.visible else True) for e in entities)
    [answer] = stage_in("grounder", trained)([sample], [Prediction(sample.id, entities=undecided)])
    for entity, before in zip(answer.entities, undecided, strict=True):
        assert entity.visible == before.visible
        assert bool(entity.visible) or not entity.boxes


def test_what_its_answers_cannot_say_is_an_error_that_names_the_post(trained):
    sample = trained.samples[0]
    partial = Prediction(sample.id, entities=(Entity(sample.tokens[0], "MISC", (0, 1)),))
    with pytest.raises(StageError, match=rf"expander \(mllm\): post '{sample.id}'.*'MISC' is not one of"):
        stage_in("expander", trained)([sample], [partial])


def test_a_slot_that_it_does_not_write_is_an_error(trained, tmp_path):
    short = tmp_path / "short.yaml"
    short.write_text(trained.recipe.read_text().replace("  bins: 64", "  bins: 64\n  segments: [entities, boxes]"))
    with pytest.raises(StageError, match=r"expander \(mllm\): the model's answers have no segment 'expressions'"):
        Mllm(short).requires_in("expander")
    with pytest.raises(StageError, match="writes no segmenter field"):
        Mllm(short).requires_in("segmenter")
    assert Mllm(short).requires_in("tagger") == ()
    assert Mllm(trained.recipe).requires_in("grounder") == ("knowledge", "tagger", "expander", "entailment")


def test_the_segments_before_its_own_must_be_filled(trained):
    with pytest.raises(StageError, match=r"tagger \(mllm\): needs what the slot 'knowledge' fills.*`type: none`"):
        check_requirements(CascadeRecipe(tagger=Mllm(trained.recipe)))
    check_requirements(CascadeRecipe(NoKnowledge(), Mllm(trained.recipe), NoExpander()))


def test_without_expressions_it_still_decides(trained, alone, tmp_path):
    """`none` fills the segment with nothing, which the model reads as its own empty lines."""
    recipe = dataclasses.replace(alone, knowledge=NoKnowledge(), expander=NoExpander())
    predictions, _ = run_cascade(recipe, trained.samples, trained.data, tmp_path)
    for prediction in predictions:
        assert prediction.knowledge == ""
        assert all(entity.expression == "" and entity.visible is not None for entity in prediction.entities)


def test_a_work_folder_is_refused_when_the_adapter_was_trained_again(trained, tmp_path):
    adapter = Path(shutil.copytree(trained.recipe.parent / "run", tmp_path / "run"))
    recipe = CascadeRecipe(Mllm(trained.recipe, adapter))
    run_cascade(recipe, trained.samples, trained.data, tmp_path / "work")
    (adapter / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match="files differ"):
        run_cascade(recipe, trained.samples, trained.data, tmp_path / "work")


def test_the_calibration_of_the_run_decides(trained, end_to_end, tmp_path):
    """In its slot both ways, before boxes are written; at once as `rivegs predict` does, when they are."""
    adapter = Path(shutil.copytree(trained.recipe.parent / "run", tmp_path / "run"))
    scores = sorted(entity.visible_score for answer in end_to_end for entity in answer.entities)
    every = Calibration(2.0, threshold=0.0)
    write_calibration(adapter, every, {})
    partials = [
        dataclasses.replace(
            answer, entities=tuple(dataclasses.replace(e, visible=None, visible_score=None) for e in answer.entities)
        )
        for answer in end_to_end
    ]
    decided = stage_in("entailment", trained, adapter)(trained.samples, partials)
    said = [entity for answer in decided for entity in answer.entities]
    assert all(entity.visible for entity in said)
    calibrated = [every.probability(score) for score in scores]
    assert sorted(entity.visible_score for entity in said) == pytest.approx(calibrated, rel=1e-3)
    whole = EndToEndStage(load_end_to_end(read_recipe(trained.recipe), adapter, trained.data))(
        trained.samples, partials
    )
    assert_same(whole, [every.apply(answer) for answer in end_to_end])
    (adapter / "calibration.json").write_text("{")
    with pytest.raises(UserError, match=r"calibration\.json"):
        stage_in("entailment", trained, adapter)


def test_boxes_lie_in_the_picture(end_to_end, trained):
    for sample, answer in zip(trained.samples, end_to_end, strict=True):
        for box in (box for entity in answer.entities for box in entity.boxes):
            assert isinstance(box, Box)
            assert 0 <= box.xmin < box.xmax <= sample.size[0]
            assert 0 <= box.ymin < box.ymax <= sample.size[1]
