"""Knowledge and expressions from a teacher. The teacher here is a store that replays the answers it holds."""

import dataclasses

import pytest
from cascade_suite import StageSuite, drafted

from rivegs_mllm.answer.prompt import expansion_messages, knowledge_messages
from rivegs_mllm.cascade.base import StageError, without_labels
from rivegs_mllm.cascade.config import CascadeRecipe, check_requirements
from rivegs_mllm.cascade.knowledge.base import ReplayKnowledge
from rivegs_mllm.cascade.knowledge.expansion import ReplayExpander
from rivegs_mllm.cascade.knowledge.llm import LlmExpander, LlmKnowledge
from rivegs_mllm.cascade.tagging.base import GoldTagger
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.llm.client import ReplayChat, question_digest
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import draft_examples, write_examples
from rivegs_mllm.store.answer_store import Store, StoredAnswer
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.types import Entity, Prediction, Sample


def keep(folder, *rows):
    """A store of (kind, sample, mention, question, text, faults)."""
    with Store(folder) as store:
        for number, (kind, sample, mention, turns, text, faults) in enumerate(rows):
            store.append(
                StoredAnswer(
                    sample, kind, str(number), question_digest(turns), "teacher", mention, text=text, faults=faults
                )
            )
    return folder


@pytest.fixture(scope="module")
def teacher(emblems, tmp_path_factory) -> ReplayChat:
    """It was asked about every post of dev without examples, and about all its names."""
    rows = []
    for sample in read_split(emblems, "dev"):
        names = "; ".join(f"{entity.text} (person)" for entity in sample.entities) or "none"
        text = f"Named entities: {names}\nThat is all."
        rows.append(("knowledge", sample.id, "", knowledge_messages(sample), text, ()))
        for entity in sample.entities:
            turns = expansion_messages(sample, entity.text)
            rows.append(("expression", sample.id, entity.text, turns, f" looks like {entity.text}\n", ()))
    return ReplayChat(keep(tmp_path_factory.mktemp("store") / "store", *rows))


class TestLlmKnowledge(StageSuite):
    slot = "knowledge"

    @pytest.fixture(scope="class")
    def choice(self, teacher):
        return LlmKnowledge(teacher)


class TestLlmExpander(StageSuite):
    slot = "expander"

    @pytest.fixture(scope="class")
    def choice(self, teacher):
        return LlmExpander(teacher)


class TestKnowledgeFromAStore(StageSuite):
    slot = "knowledge"

    @pytest.fixture(scope="class")
    def choice(self, teacher):
        return ReplayKnowledge(teacher.store)


class TestExpressionsFromAStore(StageSuite):
    slot = "expander"

    @pytest.fixture(scope="class")
    def choice(self, teacher):
        return ReplayExpander(teacher.store, fallback=None)


def test_a_store_says_what_its_teacher_said(teacher, emblems):
    samples = [without_labels(sample) for sample in read_split(emblems, "dev")]
    empty = [Prediction(sample.id) for sample in samples]
    asked = LlmKnowledge(teacher).load(emblems)(samples, empty)
    assert asked == ReplayKnowledge(teacher.store).load(emblems)(samples, empty)
    assert all(partial.knowledge.startswith("Named entities: ") and not partial.errors for partial in asked)


def test_a_question_without_answer_is_listed(teacher, emblems, tmp_path):
    sample = Sample("1", ("Rex", "!"))
    [partial] = LlmKnowledge(teacher).load(emblems)([sample], [Prediction("1", errors=("before",))])
    assert partial.knowledge == ""
    assert partial.errors[0] == "before"
    assert partial.errors[1].startswith("knowledge (llm): no answer: ")
    named = Prediction("1", entities=(Entity("Rex", "OTHER", (0, 1)),))
    [partial] = LlmExpander(teacher).load(emblems)([sample], [named])
    assert partial.entities[0].expression == ""
    assert partial.errors[0].startswith("expander (llm): 'Rex': no answer: ")


def test_no_picture_from_outside_the_dataset_is_sent(tmp_path):
    """The question is asked without it, and the note says so; none is asked where the recipe names its folder."""
    (tmp_path / "data").mkdir()
    sample = Sample("1", ("Rex", "!"), image="../other/secret.png")
    named = Prediction("1", entities=(Entity("Rex", "OTHER", (0, 1)),))
    rows = [("knowledge", "1", "", knowledge_messages(sample), "Named entities: Rex\nA dog.", ())]
    rows.append(("expression", "1", "Rex", expansion_messages(sample, "Rex"), "a dog", ()))
    blind = ReplayChat(keep(tmp_path / "store", *rows))
    [partial] = LlmKnowledge(blind, pictures=True).load(tmp_path / "data")([sample], [Prediction("1")])
    assert partial.knowledge == "Named entities: Rex\nA dog."
    assert "image_root" in partial.errors[0]
    [partial] = LlmExpander(blind, pictures=True).load(tmp_path / "data")([sample], [named])
    assert partial.entities[0].expression == "a dog"
    assert "image_root" in partial.errors[0]
    settings = LlmKnowledge(blind, pictures=True, image_root=tmp_path / "other")
    [partial] = settings.load(tmp_path / "data")([sample], [Prediction("1")])
    assert "secret.png: no such picture" in partial.errors[0]


def test_answers_that_are_no_answers_are_listed(emblems, tmp_path):
    sample = Sample("1", ("Rex", "!"))
    store = keep(tmp_path, ("knowledge", "1", "", knowledge_messages(sample), "I'm sorry, I cannot tell.", ()))
    [partial] = LlmKnowledge(ReplayChat(store)).load(emblems)([sample], [Prediction("1")])
    assert any("refus" in error for error in partial.errors)


def test_one_mention_is_asked_about_once(teacher, emblems):
    sample = next(sample for sample in read_split(emblems, "dev") if sample.entities)
    stage = LlmExpander(teacher).load(emblems)
    asked = []
    ask, stage.ask = stage.ask, lambda questions: asked.extend(questions) or ask(questions)
    twice = (drafted("expander", sample).entities[0],) * 2
    [partial] = stage([sample], [Prediction(sample.id, entities=twice)])
    assert len(asked) == 1
    assert [entity.expression for entity in partial.entities] == [f"looks like {twice[0].text}"] * 2


def test_the_prompt_has_examples_captions_and_pictures(emblems, tmp_path):
    """The store knows the answer to this very question only."""
    samples = read_split(emblems, "dev")
    sample = next(sample for sample in samples if sample.image and sample.entities)
    file = tmp_path / "examples.jsonl"
    write_examples(file, draft_examples(read_split(emblems, "train"), emblems, 4, seed=0))
    captions = tmp_path / "captions.txt"
    captions.write_text(f"{sample.id}.jpg :two people and a logo")
    examples = ExampleSelection(file, "random", 3)
    chosen = examples.select([sample], emblems, tmp_path)[0]
    turns = knowledge_messages(sample, chosen, "two people and a logo", emblems / sample.image)
    store = keep(tmp_path / "store", ("knowledge", sample.id, "", turns, "Named entities: none", ()))
    settings = LlmKnowledge(ReplayChat(store), examples, [captions], pictures=True)
    empty = [Prediction(sample.id)]
    assert settings.load(emblems)([sample], empty)[0].knowledge == "Named entities: none"
    for other in ({"examples": ExampleSelection(choose="none")}, {"captions": []}, {"pictures": False}):
        assert dataclasses.replace(settings, **other).load(emblems)([sample], empty)[0].knowledge == ""


def test_the_background_of_an_expression_is_caption_and_knowledge(emblems, tmp_path):
    sample = Sample("7#2", ("Rex", "!"), "pictures/x.jpg", (10, 10))
    captions = keep(tmp_path / "captions", ("caption", "7#2", "", [{"role": "user", "content": "?"}], "a dog", ()))
    turns = expansion_messages(sample, "Rex", "a dog Rex is a dog's name")
    store = keep(tmp_path / "store", ("expression", "7#2", "Rex", turns, "a brown dog", ()))
    partial = Prediction("7#2", "Rex is a dog's name", (Entity("Rex", "OTHER", (0, 1)),))
    settings = LlmExpander(ReplayChat(store), [captions], knowledge=True)
    [filled] = settings.load(emblems)([sample], [partial])
    assert filled.entities[0].expression == "a brown dog"
    with pytest.raises(StageError, match=r"expander \(llm\): needs what the slot 'knowledge' fills"):
        check_requirements(CascadeRecipe(tagger=GoldTagger(), expander=settings))


def test_captions_are_found_by_post_and_by_picture(tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("x.jpg :by picture\n7.jpg :by number")
    captions = Captions([file])
    assert captions.of(Sample("1", ("a",), "pictures/x.jpg", (1, 1))) == "by picture"
    assert captions.of(Sample("7#2", ("a",))) == "by number"
    assert captions.of(Sample("8", ("a",))) == ""
    assert Captions([]).of(Sample("8", ("a",))) == ""


def test_faulty_answers_of_a_store_are_left_out(emblems, tmp_path):
    turns = [{"role": "user", "content": "?"}]
    store = keep(
        tmp_path, ("knowledge", "1", "", turns, "bad", ("refusal",)), ("expression", "1", "Rex", turns, "x", ())
    )
    sample = Sample("1", ("Rex",))
    with pytest.raises(StageError, match="nothing is known of post '1'"):
        ReplayKnowledge(store).load(emblems)([sample], [Prediction("1")])
    partial = Prediction("1", entities=(Entity("Rex", "PER", (0, 1)), Entity("rex", "PER")))
    [filled] = ReplayExpander(store, "?").load(emblems)([sample], [partial])
    assert [entity.expression for entity in filled.entities] == ["x", "?"]
    assert len(filled.errors) == 1
