"""The types of a recipe that names none are those of its dataset."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.answer.format import SEGMENTS, AnswerFormat
from rivegs_mllm.answer.prompt import describe_types, instruction_for, messages
from rivegs_mllm.answer.serialization import parse, render
from rivegs_mllm.cascade.config import read_cascade
from rivegs_mllm.cli.main import main
from rivegs_mllm.config.answering import read_answering
from rivegs_mllm.config.defaults.types import with_dataset_types
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.yaml_print import as_yaml
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.config.trained import trained_folder
from rivegs_mllm.data.dataset_info import DatasetInfo, write_info
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.types import TYPES, Entity, Sample, UserError

TINY = "recipes/tiny/e2e.yaml"


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [
        {"id": str(number), "tokens": ["Ada"], "entities": [{"text": "Ada", "type": kind, "span": [0, 1]}]}
        for number, kind in enumerate(("Sports Event", "athlete", "athlete"))
    ]
    (folder / "train.jsonl").write_text("\n".join([*map(json.dumps, lines), "[]", '{"entities": [1]}', "{"]))
    return folder


def test_types_are_found_in_the_entities(data):
    recipe = read_recipe(TINY, [f"--data.folder={data}"])
    assert recipe.answer.types == ["Sports Event", "athlete"]
    assert recipe.answer.instruction == "Types: {types}\n{text}"
    shown = as_yaml(with_dataset_types(read_layers(TINY, [f"--data.folder={data}"])))
    assert f"# from the entities of {data}" in shown


def test_dataset_json_goes_before_them_with_its_descriptions(data):
    write_info(data, DatasetInfo({"athlete": "a {sports} person", "brand": ""}))
    recipe = read_answering("recipes/e2e/qwen2_5_vl_3b.yaml", data=data)
    assert recipe.answer.types == {"athlete": "a {sports} person", "brand": ""}
    assert "{types}" in recipe.answer.instruction
    instruction = instruction_for(SEGMENTS)
    told = describe_types(instruction, recipe.answer.types)
    (turn,) = messages(Sample("1", ("Ada",)), told, ("athlete", "brand"))
    assert "(athlete (a {sports} person), brand)" in turn["content"][-1]["text"]
    assert describe_types(instruction, ["athlete"]) == instruction


def test_what_a_recipe_says_stays(data):
    recipe = read_recipe(TINY, [f"--data.folder={data}", "--answer.types=[athlete]"])
    assert recipe.answer.types == ["athlete"]
    assert recipe.answer.instruction == "{text}"
    assert read_cascade("recipes/cascade/tiny.yaml", ["--types=[athlete]"], data).types == ["athlete"]


def test_a_cascade_has_those_of_the_posts_that_it_is_given(data):
    assert read_cascade("recipes/cascade/tiny.yaml", (), data).types == ["Sports Event", "athlete"]
    assert read_cascade("recipes/cascade/tiny.yaml").types == list(TYPES)
    for types, recipe in (
        (["Sports Event", "athlete"], read_cascade("recipes/cascade/tiny.yaml", (), data)),
        (list(TYPES), read_cascade("recipes/cascade/tiny.yaml")),
        (["athlete"], read_cascade("recipes/cascade/tiny.yaml", ["--types=[athlete]"], data)),
    ):
        assert recipe.tagger.types == recipe.entailment.types == recipe.grounder.types == types
    recipe = read_cascade("recipes/cascade/tiny.yaml", ["--grounder.types=[other]"], data)
    assert (recipe.tagger.types, recipe.grounder.types) == (["Sports Event", "athlete"], ["other"])


@pytest.mark.parametrize(
    ("override", "unknown"),
    [
        ("--answer.types=[athelete, Sports Event]", "athelete"),
        ("--answer.types={athlete: a person, brand: a firm}", "brand"),
    ],
)
def test_types_on_which_recipe_and_dataset_disagree_are_told_with_both_files(data, override, unknown):
    with pytest.raises(UserError) as caught:
        read_recipe(TINY, [f"--data.folder={data}", override])
    known = f"the entities of {data}, which has 'Sports Event', 'athlete'; name"
    assert str(caught.value).startswith(f"{TINY}: answer.types: {unknown!r}: no type of {known}")
    write_info(data, DatasetInfo(dict.fromkeys(("Sports Event", "athlete"), "")))
    with pytest.raises(UserError, match=rf"no type of {data / 'dataset.json'}"):
        read_recipe(TINY, [f"--data.folder={data}", override])
    assert read_recipe(TINY, [f"--data.folder={data}", "--answer.types=[athlete, Sports Event, rare one]"])


def test_a_trained_model_says_its_types(data, tmp_path):
    trained = tmp_path / "run"
    trained.mkdir()
    AnswerFormat("qwen2_5_vl", "loc", 784, 78400, 28, 64, types=("athlete", "brand")).save(trained)
    assert read_answering(TINY, (), data, trained).answer.types == ["athlete", "brand"]
    (data / "train.jsonl").write_text('{"id": "1", "tokens": ["nobody", "has", "labelled", "this"]}')
    assert read_answering(TINY, (), data, trained).answer.types == ["athlete", "brand"]
    assert read_answering(TINY, ["--answer.types=[brand, athlete]"], data, trained).answer.types == ["brand", "athlete"]
    with pytest.raises(UserError, match=rf"^{TINY}: answer.types: 'brand', but {trained}/rivegs_contract.json says"):
        read_answering(TINY, ["--answer.types=[brand]"], data, trained)
    assert read_answering(TINY, (), data, tmp_path / "none").answer.types == list(TYPES)


def test_a_model_and_posts_of_other_types_are_told_in_one_line(data, tmp_path, capsys):
    trained = tmp_path / "run"
    trained.mkdir()
    AnswerFormat("qwen2_5_vl", "loc", 784, 78400, 28, 64).save(trained)
    asked = ["predict", TINY, "--data", str(data), "--adapter", str(trained), "--out", str(tmp_path / "said.jsonl")]
    lines = (data / "train.jsonl").read_text().splitlines()[:3]
    (data / "test.jsonl").write_text("\n".join(lines))
    assert main(asked) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{data} has the types 'Sports Event', 'athlete', but {trained} has 'PER', 'LOC', 'ORG', 'OTHER'" in said
    assert "box" not in said
    cascade = tmp_path / "cascade.yaml"
    cascade.write_text("tagger: {type: gold}")
    asked = ["predict", str(cascade), "--data", str(data), "--out", str(tmp_path / "said.jsonl")]
    assert main([*asked, "--types=[PER, LOC]"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{cascade}: types: 'PER', 'LOC': no type of the entities of {data}, which has" in said
    assert main([*asked, "--types=[athlete]"]) == 0
    assert {own.type for one in read_predictions(tmp_path / "said.jsonl") for own in one.entities} == {"athlete"}
    assert "test: 1 of 3 entities are of other types and left out ('Sports Event' 1)" in capsys.readouterr().out


def test_a_cascade_on_posts_without_entities_has_the_types_of_its_stages(data, tmp_path):
    stage = tmp_path / "tagger"
    stage.mkdir()
    (stage / "stage.json").write_text('{"types": ["athlete", "brand"]}')
    (data / "train.jsonl").write_text('{"id": "1", "tokens": ["nobody", "has", "labelled", "this"]}')
    given = [f"--tagger.checkpoint={stage}"]
    recipe = read_cascade("recipes/cascade/tiny.yaml", given, data)
    assert recipe.types == recipe.tagger.types == ["athlete", "brand"]
    assert read_cascade("recipes/cascade/tiny.yaml", [*given, "--types=[x]"], data).types == ["x"]


def test_the_four_types_are_the_default_in_their_order(data, tmp_path):
    (data / "train.jsonl").write_text(
        '{"id": "1", "tokens": ["a"], "entities": [{"text": "a", "type": "ORG", "span": [0, 1]}]}'
    )
    recipe = read_recipe(TINY, [f"--data.folder={data}"])
    assert recipe.answer.types == list(TYPES)
    assert recipe.answer.instruction == "{text}"
    assert read_recipe(TINY, [f"--data.folder={tmp_path / 'none'}"]).answer.types == list(TYPES)


def test_a_dataset_json_that_is_wrong_is_told(data):
    (data / "dataset.json").write_text('{"version": 1, "types": "PER"}')
    with pytest.raises(UserError, match=r"dataset.json: types: 'PER' is not a list"):
        read_recipe(TINY, [f"--data.folder={data}"])


@pytest.mark.parametrize("name", ["Sports Event", "Événement sportif", "スポーツ", "спорт", "A-1_b.c"])
def test_names_of_types_have_spaces_and_any_letters(name):
    answer_format = AnswerFormat("qwen2_5_vl", "loc", 784, 78400, 28, 64, segments=("entities",), types=(name, "other"))
    entity = Entity("Ada (b)", name, (0, 2))
    text = "".join(piece.text for piece in render(("Ada", "(b)"), "", (entity,), answer_format, None))
    read = parse("1", text, ("Ada", "(b)"), answer_format, None)
    assert [(own.text, own.type, own.span) for own in read.entities] == [("Ada (b)", name, (0, 2))]
    assert read.errors == ()


def test_a_run_on_other_data_has_a_folder_of_its_own(data, tmp_path, monkeypatch):
    other = [f"--data.folder={data}"]
    assert read_recipe(TINY, other).train.output_dir == "runs/e2e-data"
    assert read_recipe(TINY).train.output_dir == "runs/demo/model"
    assert read_recipe(TINY, [*other, "--train.output_dir=runs/x"]).train.output_dir == "runs/x"
    assert "# default: runs/<recipe>-<data>" in as_yaml(read_layers(TINY, other))
    recipe = Path(TINY).resolve()
    monkeypatch.chdir(tmp_path)
    assert trained_folder(recipe, (), data) == Path("runs/demo/model")  # there is no run on that data yet
    (tmp_path / "runs/e2e-data").mkdir(parents=True)
    (tmp_path / "runs/e2e-data/recipe.yaml").touch()
    assert trained_folder(recipe, (), data) == Path("runs/e2e-data")
    assert trained_folder(recipe, ["--train.output_dir=runs/x"], data) == Path("runs/x")
    assert trained_folder(recipe) == Path("runs/demo/model")
