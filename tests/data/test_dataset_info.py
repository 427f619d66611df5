"""``dataset.json``: what is written is read, and what others wrote wrongly is told in a line."""

import json

import pytest

from rivegs_mllm.data.dataset_info import NAME, DatasetInfo, read_info, write_info
from rivegs_mllm.types import UserError

INFO = DatasetInfo(
    {"athlete": "a sports person", "big brand": ""}, {"train": 3}, {"train": 5}, "coco", "xywh", ("../a.json",)
)


def test_there_and_back(tmp_path):
    assert read_info(tmp_path) is None
    write_info(tmp_path, INFO)
    assert read_info(tmp_path) == INFO
    assert list(read_info(tmp_path).types) == ["athlete", "big brand"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "reads version 1"),
        ("types", None, "types: None is not a list"),
        ("types", ["athlete"], r"types\[0\]: 'athlete' is not an object"),
        ("types", [{"name": ""}], r"types\[0\]"),
        ("types", [{"name": "a", "description": 1}], r"types\[0\]"),
        ("posts", [1], "posts: "),
        ("entities", {"train": -1}, "entities: "),
        ("format", 1, "format: 1 is not a string"),
        ("boxes", [], "boxes: "),
        ("sources", "a.json", "sources: 'a.json' is not a list"),
        ("sources", [1], r"sources: \[1\] is not a list of paths"),
    ],
)
def test_wrong_values(tmp_path, key, value, message):
    write_info(tmp_path, INFO)
    content = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps({**content, key: value}))
    with pytest.raises(UserError, match=rf"dataset\.json: {message}|dataset\.json: .*{message}"):
        read_info(tmp_path)
