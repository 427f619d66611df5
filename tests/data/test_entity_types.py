"""Which entities a recipe's types leave, and what is said where files disagree on types."""

import pytest

from rivegs_mllm.data.dataset_info import DatasetInfo, write_info
from rivegs_mllm.data.entity_types import check_listed, check_shared, left_out, of_types
from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

ADA, NIKE = Entity("Ada", "athlete", (0, 1)), Entity("Nike", "big brand", (2, 3))
POSTS = [Sample("1", ("Ada", "beats", "Nike"), entities=(ADA, NIKE))]
POSTS += [Sample("2", ("Nike",), entities=(Entity("Nike", "big brand", (0, 1)),)), Sample("3", ())]


def test_entities_of_other_types_are_left_out_and_counted():
    kept = of_types(POSTS, ["athlete"])
    assert [own.entities for own in kept] == [(ADA,), (), ()]
    assert [own.tokens for own in kept] == [own.tokens for own in POSTS]
    assert left_out(POSTS, ["athlete"]) == "2 of 3 entities are of other types and left out ('big brand' 2)"
    assert left_out(POSTS, ["athlete", "big brand", "event"]) == ""
    assert of_types([Prediction("1", entities=(NIKE,))], ["athlete"]) == [Prediction("1")]


def test_a_split_is_read_with_the_types_of_the_recipe(tmp_path, capsys):
    write_records(tmp_path / "train.jsonl", POSTS)
    assert [len(own.entities) for own in read_posts(tmp_path, "train", ["big brand"])] == [1, 1, 0]
    assert capsys.readouterr().out == "train: 1 of 3 entities are of other types and left out ('athlete' 1)\n"
    assert read_posts(tmp_path, "train", ["athlete", "big brand"]) == POSTS
    assert capsys.readouterr().out == ""


def test_a_type_that_dataset_json_does_not_list(tmp_path):
    check_listed(POSTS, tmp_path)
    write_info(tmp_path, DatasetInfo({"athlete": ""}))
    with pytest.raises(UserError) as caught:
        check_listed(POSTS, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/dataset.json: types: lacks 'big brand', the type of 'Nike' in sample 1; add it there, or set the "
        "sample right"
    )


def test_a_model_of_other_types_than_the_posts(tmp_path):
    check_shared(POSTS, tmp_path, ["athlete"], "runs/x")
    check_shared(POSTS[2:], tmp_path, ["PER"], "runs/x")
    with pytest.raises(UserError, match=rf"^{tmp_path} has the types 'athlete', 'big brand', but runs/x has 'PER': "):
        check_shared(POSTS, tmp_path, ["PER"], "runs/x")
