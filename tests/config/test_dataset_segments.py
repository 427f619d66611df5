"""The segments of a recipe that names none are those that its dataset can teach, or its model writes."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.answer.format import SEGMENTS, AnswerFormat
from rivegs_mllm.answer.prompt import instruction_for
from rivegs_mllm.config.answering import read_answering
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.data.dataset_info import texts_of

E2E = "recipes/tiny/e2e.yaml"
BARE = {"id": "1", "tokens": ["Ada"], "entities": [{"text": "Ada", "type": "PER", "span": [0, 1]}]}
KNOWN = {**BARE, "knowledge": ["", "Ada programs."]}
DESCRIBED = {**BARE, "entities": [{**BARE["entities"][0], "expression": "a woman"}]}


@pytest.fixture
def data(tmp_path):
    def write(*posts: object) -> str:
        (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(post)}\n" for post in posts))
        return f"--data.folder={tmp_path}"

    return write


@pytest.mark.parametrize(
    ("posts", "left_out"),
    [
        (
            (BARE, {**BARE, "knowledge": [""]}, {**BARE, "knowledge": None, "entities": None}),
            {"knowledge", "expressions"},
        ),
        ((BARE, KNOWN), {"expressions"}),
        ((BARE, DESCRIBED), {"knowledge"}),
        ((DESCRIBED, KNOWN), set()),
        (([], 1, {"knowledge": 1}, {"entities": [3]}, DESCRIBED, KNOWN), set()),
    ],
)
def test_what_no_post_has_is_no_target(data, posts, left_out):
    assert set(SEGMENTS) - set(read_recipe(E2E, [data(*posts)]).answer.segments) == left_out


def test_what_a_recipe_names_or_a_teacher_gives_stays(data):
    bare = data(BARE)
    named = read_recipe(E2E, [bare, "--answer.segments=[knowledge, entities]"])
    assert named.answer.segments == ["knowledge", "entities"]
    distilled = read_recipe(E2E, [bare, "--distilled.knowledge=store"])
    assert distilled.answer.segments == ["knowledge", "entities", "visible", "boxes"]


def test_a_dataset_that_is_not_there_decides_nothing(tmp_path):
    assert read_recipe(E2E, [f"--data.folder={tmp_path / 'none'}"]).answer.segments == list(SEGMENTS)
    assert read_answering(E2E, data=tmp_path).answer.segments == list(SEGMENTS)
    assert texts_of(tmp_path / "a\0b", ["knowledge"]) is None


def test_a_model_is_asked_for_what_it_writes_whatever_the_data_have(data, tmp_path):
    data(DESCRIBED, KNOWN)
    trained = tmp_path / "model"
    trained.mkdir()
    AnswerFormat("qwen2_5_vl", "loc", 3136, 28224, 28, 64, segments=("entities", "visible", "boxes")).save(trained)
    assert read_answering(E2E, data=tmp_path, trained=trained).answer.segments == ["entities", "visible", "boxes"]
    assert read_answering(E2E, data=tmp_path, trained=Path("none")).answer.segments == list(SEGMENTS)


def test_an_instruction_asks_for_the_segments(data):
    recipe = read_answering("recipes/e2e/qwen2_5_vl_3b.yaml")
    assert recipe.answer.instruction == instruction_for(["entities", "visible", "boxes"])
    assert instruction_for(["entities"]).splitlines() == [
        "Find the named entities in the text of this post.",
        "Answer line by line: each entity with its type ({types}) (entity 1: ...).",
        "Text: {text}",
    ]
    asked = instruction_for(SEGMENTS)
    assert "ground them in its picture" in asked
    assert "(visible 1: yes or no), and its box if it does (box 1: ...)." in asked
    assert "and its box if the picture shows it" in instruction_for(["entities", "boxes"])
