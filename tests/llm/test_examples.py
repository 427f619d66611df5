"""Annotated example sets: read with their faults named, written, and begun from a training split."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.cli.distill_command import start
from rivegs_mllm.data.images import picture_size
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.llm.few_shot import (
    ExampleError,
    FewShotEntity,
    FewShotExample,
    draft_examples,
    read_examples,
    write_examples,
)
from rivegs_mllm.types import Entity, Sample, UserError

ROOT = Path(__file__).parents[2]
WHOLE = FewShotExample(
    "a", "Ann in Bonn", "images/a.jpg", "a woman", (FewShotEntity("Ann", "PER", "A singer.", True),), "Ann sings."
)


def test_written_and_read_again_pictures_relative_to_the_file(tmp_path):
    made = [
        FewShotExample("b", "x"),
        FewShotExample(
            **{**{name: getattr(WHOLE, name) for name in WHOLE.__slots__}, "image": str(tmp_path / "data/a.jpg")}
        ),
    ]
    write_examples(tmp_path / "sets" / "examples.jsonl", made)
    raw = [json.loads(line) for line in (tmp_path / "sets" / "examples.jsonl").read_text().splitlines()]
    assert raw[1]["image"] == "../data/a.jpg"
    found = read_examples(tmp_path / "sets" / "examples.jsonl")
    assert found[0] == made[0]
    assert Path(found[1].image).resolve() == (tmp_path / "data" / "a.jpg").resolve()


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": "a"}', "text: None"),
        ('{"id": "", "text": "x"}', "id: ''"),
        ('{"id": "a", "text": "x", "surprise": 1}', "unknown field 'surprise'"),
        ('{"id": "a", "text": "x", "version": 9}', "version: 9"),
        ('{"id": "a", "text": "x", "entities": {}}', "entities: not a list"),
        ('{"id": "a", "text": "x", "entities": [{"text": "Bob", "type": "PER"}]}', "'Bob' does not stand"),
        ('{"id": "a", "text": "x", "entities": [{"text": "x", "type": "PER", "shown": 1}]}', r"entities\[0\].shown: 1"),
        ('{"id": "a", "text": "x", "caption": 3}', "caption: 3"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, line, fault):
    path = tmp_path / "examples.jsonl"
    path.write_text(f'{{"id": "ok", "text": "fine"}}\n\n{line}\n')
    with pytest.raises(ExampleError, match=f"{path.name}:3: .*{fault}"):
        read_examples(path)


def test_no_examples(tmp_path):
    with pytest.raises(ExampleError, match="no such file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ExampleError, match="holds no example"):
        read_examples(tmp_path / "empty.jsonl")


def test_set_begun_from_a_split_says_what_is_known_and_no_more():
    entities = (Entity("Ann", "PER", (0, 1), visible=True), Entity("Bonn", "LOC", (2, 3), "a town", False))
    labelled = Sample("a", ("Ann", "in", "Bonn"), "images/a.jpg", (8, 8), entities, ("Ann is a singer. Bonn? No.",))
    samples = [Sample(f"empty-{index}", ("x",)) for index in range(9)] + [labelled]
    first, second = draft_examples(samples, Path("data"), 2, 0, {"a": "a woman"})
    assert first.id == "a"
    assert (first.caption, first.image) == ("a woman", "data/images/a.jpg")
    assert first.entities[0] == FewShotEntity("Ann", "PER", "Ann is a singer.", True)
    assert first.entities[1].shown is False
    assert first.relation == "Text and picture belong together."
    assert second.entities == ()
    with pytest.raises(UserError, match="3 examples cannot be drawn"):
        draft_examples(samples[:2], Path("data"), 3, 0)


def test_begun_from_emblems_by_command(tmp_path, emblems, capsys):
    start(emblems, "train", 5, 0, [], tmp_path / "examples.jsonl")
    assert "wrote" in capsys.readouterr().out
    examples = read_examples(tmp_path / "examples.jsonl")
    gold = {sample.id: sample for sample in read_split(emblems, "train")}
    assert len(examples) == 5
    for example in examples:
        assert example.text == gold[example.id].text
        assert picture_size(example.image) == gold[example.id].size
        assert all(entity.explanation for entity in example.entities)
        assert [entity.shown for entity in example.entities] == [one.visible for one in gold[example.id].entities]
    with pytest.raises(UserError, match="is not overwritten"):
        start(emblems, "train", 5, 0, [], tmp_path / "examples.jsonl")


def test_ready_set_is_of_the_emblems_of_seed_0(tmp_path):
    from random import Random

    from data_builders.emblems.build import plan_posts
    from data_builders.emblems.encyclopedia import make_encyclopedia

    examples = {
        example.id: example for example in read_examples(ROOT / "recipes" / "distill" / "emblems_examples.jsonl")
    }
    assert len(examples) == 100
    planned = plan_posts(0, "train", 400, make_encyclopedia(Random("0/encyclopedia"), 48, 24))
    found = 0
    for index, (_, _, plan) in enumerate(planned):
        example = examples.get(f"train-{index:05}")
        if example:
            found += 1
            assert example.text == " ".join(plan.tokens)
            assert [entity.text for entity in example.entities] == [
                " ".join(plan.tokens[slice(*mention.span)]) for mention in plan.mentions
            ]
            assert [bool(mention.shown) for mention in plan.mentions] == [entity.shown for entity in example.entities]
            assert all(entity.explanation for entity in example.entities)
    assert found == 100
