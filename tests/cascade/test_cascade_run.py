"""The cascade's runner: recipes, required slots, partial predictions on disk, resuming, and the contract."""

import dataclasses
import json

import pytest

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.config import (
    CascadeRecipe,
    check_requirements,
    is_cascade,
    predict_cascade,
    read_cascade,
    run_cascade,
)
from rivegs_mllm.cascade.grounding.base import GoldGrounder
from rivegs_mllm.cascade.knowledge.base import ReplayKnowledge
from rivegs_mllm.cascade.knowledge.expansion import GoldExpander, NoExpander
from rivegs_mllm.cascade.runner import Step, run_steps
from rivegs_mllm.cascade.tagging.base import GoldTagger
from rivegs_mllm.data.jsonl import read_predictions, read_split
from rivegs_mllm.types import TYPES, Entity, UserError

RECIPE = """\
tagger:
  type: gold
expander:
  type: replay
  source: names.jsonl
batch_size: 4
"""


@pytest.fixture(scope="module")
def samples(emblems):
    return read_split(emblems, "test")


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def step(stage, slot="tagger", sees_gold=False, kind="test"):
    return Step(slot, kind, lambda models: stage, sees_gold)


def run(steps, samples, out, batch_size=4, **settings):
    return run_steps(steps, samples, out, batch_size, settings, TYPES)


def name_first_word(samples, partials):
    """A tagger that takes every post's first word for a person."""
    return [
        dataclasses.replace(partial, entities=(Entity(sample.tokens[0], "PER", (0, 1)),))
        for sample, partial in zip(samples, partials, strict=True)
    ]


class KilledError(BaseException):
    """Stands for the kill."""


class StopsAfter:
    """A stage that does ``batches`` batches and is then killed. It notes which posts it was given."""

    def __init__(self, stage, batches):
        self.stage, self.batches, self.seen = stage, batches, []

    def __call__(self, samples, partials):
        if not self.batches:
            raise KilledError
        self.batches -= 1
        self.seen += [sample.id for sample in samples]
        return self.stage(samples, partials)


def test_a_recipe_is_read_slot_by_slot(recipe_file):
    recipe = read_cascade(recipe_file)
    assert list(recipe.stages()) == ["tagger", "expander"]
    assert isinstance(recipe.tagger, GoldTagger)
    assert recipe.batch_size == 4


def test_another_type_in_a_slot_lets_its_settings_go(recipe_file):
    recipe = read_cascade(recipe_file, ["--expander.type=none", "--batch_size=2", "--knowledge.type=none"])
    assert recipe.expander == NoExpander()
    assert recipe.batch_size == 2
    assert list(recipe.stages()) == ["knowledge", "tagger", "expander"]
    assert read_cascade(recipe_file, ["--expander=null"]).expander is None
    assert str(read_cascade(recipe_file, ["--expander.source=other.jsonl"]).expander.source) == "other.jsonl"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--tagger.type=guess"], "tagger.type: 'guess' is none of"),
        (["--expander.type=gold", "--expander.speed=1"], "speed"),
        (["--taggr.type=gold"], "taggr"),
        (["--expander.source=[1]"], "expander.source"),
        (["--tagger=null", "--expander=null"], "no slot has a stage"),
        (["tagger.type=gold"], "written --key=value"),
    ],
)
def test_a_recipe_that_is_wrong_is_told_where(recipe_file, overrides, said):
    with pytest.raises(UserError, match=said):
        read_cascade(recipe_file, overrides)


def test_cascades_are_told_from_end_to_end_recipes(recipe_file, tmp_path):
    assert is_cascade(recipe_file)
    assert not is_cascade("recipes/tiny/e2e.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    for path, said in ((tmp_path / "none.yaml", "no such recipe"), (tmp_path / "list.yaml", "not a recipe")):
        with pytest.raises(UserError, match=said):
            is_cascade(path)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (CascadeRecipe(expander=GoldExpander()), r"expander \(gold\): needs what the slot 'tagger' fills"),
        (CascadeRecipe(tagger=GoldTagger(), grounder=GoldGrounder()), r"'entailment' fills.*type: always"),
    ],
)
def test_a_field_that_nobody_fills_is_an_error_before_anything_is_run(recipe, said, samples, emblems, tmp_path):
    with pytest.raises(StageError, match=said):
        run_cascade(recipe, samples, emblems, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    check_requirements(CascadeRecipe(tagger=GoldTagger(), expander=GoldExpander()))


def test_drafts_of_every_stage_are_on_disk(samples, emblems, tmp_path):
    recipe = CascadeRecipe(ReplayKnowledge(), GoldTagger(), GoldExpander(), batch_size=4)
    predictions, reports = run_cascade(recipe, samples, emblems, tmp_path)
    assert read_predictions(tmp_path / "3-expander.jsonl") == predictions
    tagged = read_predictions(tmp_path / "2-tagger.jsonl")
    for sample, partial, prediction in zip(samples, tagged, predictions, strict=True):
        assert partial.knowledge == sample.knowledge[0]
        assert [(e.text, e.type, e.span, e.expression) for e in partial.entities] == [
            (e.text, e.type, e.span, "") for e in sample.entities
        ]
        assert [e.expression for e in prediction.entities] == [e.expression for e in sample.entities]
        assert not any(e.boxes or e.visible is not None for e in prediction.entities)
    assert [(report.slot, report.kind, report.posts) for report in reports] == [
        ("knowledge", "replay", 6),
        ("tagger", "gold", 6),
        ("expander", "gold", 6),
    ]
    assert json.loads((tmp_path / "stages.json").read_text()) == [dataclasses.asdict(report) for report in reports]
    assert run_cascade(recipe, samples, emblems, tmp_path) == (predictions, reports)


def test_predictions_lie_beside_the_drafts(samples, emblems, tmp_path):
    out = tmp_path / "predictions.jsonl"
    predictions, _ = predict_cascade(CascadeRecipe(tagger=GoldTagger()), samples, emblems, out)
    assert read_predictions(out) == predictions
    assert read_predictions(tmp_path / "predictions.jsonl.stages" / "1-tagger.jsonl") == predictions


def fails_on(*ids):
    """A tagger that breaks on these posts."""

    def stage(samples, partials):
        for sample in samples:
            if sample.id in ids:
                raise RuntimeError(f"too much\nfor {sample.id}")
        return name_first_word(samples, partials)

    return stage


def test_a_post_that_breaks_a_stage_keeps_its_draft_and_says_so(samples, tmp_path):
    broken = samples[1].id
    first = step(ReplayKnowledge().load(tmp_path), "knowledge", True)
    predictions, reports = run([first, step(fails_on(broken))], samples, tmp_path)
    whole, _ = run([first, step(name_first_word)], samples, tmp_path / "whole")
    partial = read_predictions(tmp_path / "1-knowledge.jsonl")[1]
    error = f"tagger (test): not answered: too much for {broken}"
    assert predictions[1] == dataclasses.replace(partial, errors=(*partial.errors, error))
    assert partial.knowledge
    assert predictions[:1] + predictions[2:] == whole[:1] + whole[2:]
    assert reports[-1].posts == len(samples)


def test_a_stage_that_breaks_on_every_post_ends_the_run(samples, tmp_path):
    broken = step(fails_on(*(sample.id for sample in samples)))
    with pytest.raises(UserError, match=rf"none of the first 6 posts could be answered.*for {samples[-1].id}"):
        run([broken], samples, tmp_path)
    assert not (tmp_path / "1-tagger.jsonl").exists()
    run([step(name_first_word)], samples, tmp_path)


def test_a_run_that_was_killed_goes_on_where_it_was(samples, tmp_path):
    gold = GoldTagger().load(tmp_path)
    whole, _ = run([step(name_first_word), step(GoldExpander().load(tmp_path), "expander", True)], samples, tmp_path)
    out = tmp_path / "work"
    first = StopsAfter(name_first_word, 1)
    with pytest.raises(KilledError):
        run([step(first), step(gold, "expander")], samples, out, batch_size=2)
    unfinished = out / "1-tagger.jsonl.partial"
    with unfinished.open("ab") as file:
        file.write(b'{"version":1,"id":"half')
    with (out / "costs.jsonl").open("a") as file:
        file.write('{"slot": "tag')
    second = StopsAfter(name_first_word, 9)
    done, reports = run(
        [step(second), step(GoldExpander().load(tmp_path), "expander", True)], samples, out, batch_size=3
    )
    assert first.seen + second.seen == [sample.id for sample in samples]
    assert done == whole
    assert [report.posts for report in reports] == [6, 6]
    third = StopsAfter(name_first_word, 0)
    assert run([step(third), step(third, "expander")], samples, out)[0] == whole


def test_a_work_folder_of_another_run_is_refused(samples, emblems, tmp_path):
    run([step(name_first_word)], samples, tmp_path, teacher=1)
    with pytest.raises(UserError, match=r"another run \(teacher differ\)"):
        run([step(name_first_word)], samples, tmp_path, teacher=2)
    with pytest.raises(UserError, match=r"another run \(posts differ\)"):
        run([step(name_first_word)], samples[:4], tmp_path, teacher=1)


def test_a_file_that_a_stage_reads_may_not_change_under_its_drafts(samples, emblems, tmp_path):
    source, out = tmp_path / "names.jsonl", tmp_path / "work"
    source.write_bytes((emblems / "encyclopedia.jsonl").read_bytes())
    recipe = CascadeRecipe(ReplayKnowledge(source, fallback=""))
    run_cascade(recipe, samples, emblems, out)
    run_cascade(dataclasses.replace(recipe, batch_size=3), samples, emblems, out)
    source.write_text('{"name": "Nobody", "knowledge": ["Nobody is nobody."]}\n')
    with pytest.raises(UserError, match=r"another run \(files differ\)"):
        run_cascade(recipe, samples, emblems, out)


def test_gold_is_shown_to_no_other_stage(samples, tmp_path):
    def snoop(given, partials):
        return [
            dataclasses.replace(partial, knowledge=f"{len(sample.entities)} entities")
            for sample, partial in zip(given, partials, strict=True)
        ]

    blind, _ = run([step(snoop, "knowledge")], samples, tmp_path / "blind")
    assert {partial.knowledge for partial in blind} == {"0 entities"}
    seeing, _ = run([step(snoop, "knowledge", sees_gold=True)], samples, tmp_path / "seeing")
    assert [partial.knowledge for partial in seeing] == [f"{len(sample.entities)} entities" for sample in samples]


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (
            lambda samples, partials: partials[1:],
            r"tagger \(test\): returned 3 predictions for 4 posts, none for 'test-00000'; a stage must return one",
        ),
        (
            lambda samples, partials: partials[::-1],
            r"tagger \(test\): returned the prediction of post 'test-00003' in place of post 'test-00000'; .*order",
        ),
        (
            lambda samples, partials: [dataclasses.replace(partial, knowledge="x") for partial in partials],
            "changed the knowledge of post 'test-00000'",
        ),
        (
            lambda samples, partials: [
                dataclasses.replace(partial, entities=(Entity("a", "MISC"),)) for partial in partials
            ],
            r"tagger \(test\): gave 'a' of post 'test-00000' the type 'MISC', which is none of PER",
        ),
    ],
)
def test_a_stage_that_breaks_the_contract_is_named(breaks, said, samples, tmp_path):
    with pytest.raises(StageError, match=said):
        run([step(breaks)], samples, tmp_path)
    assert not (tmp_path / "1-tagger.jsonl").exists()


def test_what_a_stage_costs_is_told(samples, tmp_path):
    class Large:
        num_parameters = 17

        def __call__(self, samples, partials):
            self.held = bytearray(150_000_000)
            return name_first_word(samples, partials)

    _, (small, large) = run([step(name_first_word), step(Large(), "expander", kind="large")], samples, tmp_path)
    assert (small.parameters, large.parameters) == (None, 17)
    assert 0 < small.seconds < 5
    if small.peak_memory is not None:
        assert large.peak_memory > small.peak_memory + 100_000_000


def test_no_posts(tmp_path):
    assert run([step(name_first_word)], [], tmp_path)[0] == []
