"""Every value of files of other tools, replaced by wrong ones: a line that names file and place, or a dataset."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from faults.conftest import LONGEST
from importing_files import picture

from data_builders.importing.run import Request, import_dataset
from rivegs_mllm.data.jsonl import read_samples
from rivegs_mllm.types import UserError

VALUES = [
    None, True, -1, 0, 1.5, 2**31, 10**18, 1e308, "", " ", "word", "a\nb\x1b[2J", "\u202e\u200b", "x" * 10**5,
    [], [1], [[]], [["a"]], [1, 2, 3, 4], {}, {"a": 1}, "../../secret.jpg", "[[[", "[1, 2]", "nan",
]  # fmt: skip

COCO = {
    "images": [{"id": 1, "file_name": "p1.jpg", "width": 80, "height": 60, "text": "Ada met Bob", "split": "",
                "entities": [{"id": "0", "text": "Ada", "type": "x", "span": [0, 1], "visible": None}]}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "entity": "0",
         "segmentation": [[1, 1, 9, 1, 9, 9]], "attributes": {"mention": "Ada"}},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "tokens_positive": [[8, 11]],
         "segmentation": {"size": [60, 80], "counts": [4000, 800]}},
        {"id": 3, "image_id": 1, "category_id": 1, "derived_box": True, "mention": "Ada",
         "segmentation": {"size": [60, 80], "counts": "Pj04"}},
    ],
    "categories": [{"id": 1, "name": "x"}],
}  # fmt: skip
SIZE = {"original_width": 80, "original_height": 60}
LABEL_STUDIO = [
    {"id": 1, "data": {"text": "Ada met Bob", "image": "/data/upload/1/p1.jpg", "tokens": ["Ada", "met", "Bob"]},
     "annotations": [{"was_cancelled": False, "ground_truth": True, "result": [
         {"id": "a", "type": "labels", "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["x"]}, "meta": {}},
         {"id": "a", "type": "choices", "value": {"choices": ["visible"]}},
         {"id": "a", "type": "textarea", "value": {"text": ["a woman"]}},
         {"id": "b", "type": "rectanglelabels", **SIZE,
          "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 5, "rectanglelabels": ["x"]}},
         {"id": "c", "type": "polygonlabels", **SIZE,
          "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["x"]}},
         {"id": "d", "type": "brushlabels", **SIZE, "value": {"rle": [0, 0, 75, 0], "brushlabels": ["x"]}},
         {"type": "relation", "from_id": "a", "to_id": "b"}]}]},
]  # fmt: skip
ANSWER = '[{"label": "Ada", "type": "x", "bbox_2d": [1, 2, 3, 4]}]'
SHAREGPT = [
    {"id": "1", "messages": [{"role": "user", "content": "<image>Ada met Bob"},
                             {"role": "assistant", "content": ANSWER}],
     "images": ["p1.jpg"], "width": 80, "height": 60},
    {"id": "2", "conversations": [{"from": "human", "value": [{"type": "text", "text": "Bob"}]},
                                  {"from": "gpt", "value": "Bob (y)"}], "image": "p1.jpg", "text": "Bob"},
]  # fmt: skip
OBJECTS = [{"messages": [{"role": "user", "content": "Ada met Bob"}], "images": ["p1.jpg"],
            "objects": {"ref": ["Ada"], "bbox": [[0.1, 0.2, 0.3, 0.4]], "bbox_type": "norm1"}}]  # fmt: skip
SPACY = [["Ada met Bob", {"entities": [[0, 3, "x"]]}], {"text": "Bob", "spans": [{"start": 0, "end": 3, "label": "y"}],
                                                        "meta": {"image": "p1.jpg"}, "answer": "accept"}]  # fmt: skip
DOCCANO = [{"id": 1, "text": "Ada met Bob", "entities": [{"id": 1, "start_offset": 0, "end_offset": 3, "label": "x"}],
            "relations": []}]  # fmt: skip
GLINER = [{"tokenized_text": ["Ada", "met", "Bob"], "ner": [[0, 0, "x"], [2, 2, "y"]], "id": "1"}]
FILES = {
    "coco": COCO,
    "label-studio": LABEL_STUDIO,
    "sharegpt": SHAREGPT,
    "sharegpt of ms-swift": OBJECTS,
    "spacy": SPACY,
    "doccano": DOCCANO,
    "gliner": GLINER,
}

QUICK = ("gliner", "doccano")


def damaged(content: object) -> Iterator[object]:
    """The content with each of its values replaced, left out, or beside one more key."""
    for path in list(places(content)):
        for value in VALUES:
            yield replaced(content, path, value)
        if path and type(path[-1]) is str:
            copied, parent = parent_of(content, path)
            del parent[path[-1]]
            yield copied


def places(content: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        items = ()
    for key, value in items:
        yield from places(value, (*path, key))


def parent_of(content: object, path: tuple):
    copied = copy.deepcopy(content)
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    return copied, parent


def replaced(content: object, path: tuple, value: object) -> object:
    if not path:
        return value
    copied, parent = parent_of(content, path)
    parent[path[-1]] = value
    return copied


def tried(name: str, path: Path, out: Path, pictures: Path) -> None:
    """An import either refuses in a line that names the file, or leaves a dataset that is read."""
    boxes = "xyxy" if name in ("csv", "sharegpt") else ""
    request = Request(name.partition(" ")[0], [path], out, images=[pictures], boxes=boxes, split="100/0/0")
    try:
        import_dataset(request, lambda _: None)
    except UserError as error:
        message = str(error)
        lines = message.splitlines()
        assert lines[0].isprintable(), message
        assert all(len(line) < LONGEST for line in lines), message
        assert path.name in message or "boxes" in lines[0] or "--" in lines[0], message
        return
    read_samples(out / "train.jsonl")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.faults) for name in FILES]
)
def test_wrong_values(trials, tmp_path, capfd, name):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    path = tmp_path / "outside.json"

    def attempt(content: object) -> None:
        path.write_bytes(orjson.dumps(content))
        tried(name, path, tmp_path / "out", pictures)

    trials.each(f"files of other tools: {name}", list(damaged(FILES[name])), attempt)
    capfd.readouterr()


HEADS = ("id", "text", "tokens", "image", "image_width", "image_height", "mention", "start", "end", "type", "visible",
         "visible_score", "expression", "boxes", "masks", "split", "knowledge")  # fmt: skip


def test_wrong_cells(trials, tmp_path, capfd):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    path = tmp_path / "outside.csv"
    values = ["", " ", "word", "-1", "1e999", "nan", "[[[", "[1, 2]", '{"a": 1}', "../../secret.jpg", "x" * 10**5,
              "a\x1b[2J", "[[1, 2, 3, Infinity]]", "[" * 10**4, '[{"size": [1, 2], "counts": "x"}]',
              "99999999999"]  # fmt: skip
    rows = [["1", "Ada met Bob", "", "p1.jpg", "80", "60", "Ada", "0", "3", "x", "true", "0.5", "a", "[[1,2,3,4]]", "",
             "train", "says"]]  # fmt: skip

    def attempt(case: tuple[int, str]) -> None:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(HEADS)
        table.writerow([case[1] if place == case[0] else cell for place, cell in enumerate(rows[0])])
        path.write_text(text.getvalue())
        tried("csv", path, tmp_path / "out", pictures)

    trials.each("cells of a table", [(place, value) for place in range(len(HEADS)) for value in values], attempt)
    capfd.readouterr()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("csv", b""), ("csv", b"\xff\xfe"), ("csv", b"a,a\n1,2\n"), ("csv", b"text\n\"open"), ("csv", b"text,b\n1\n"),
        ("csv", b"image\nx.jpg\n"), ("conll", b""), ("conll", b"Ada"), ("conll", b"Ada\tB-x\nBob\n"),
        ("conll", b"\xff"),
        ("coco", b"[]"), ("coco", b"{"), ("coco", b'{"images": []}'), ("label-studio", b"[1]"), ("label-studio", b"[]"),
        ("gliner", b"{}"), ("sharegpt", b"[{}]"), ("sharegpt", b"[[[["), ("spacy", b"[" * 10**5), ("cvat", b"<a/>"),
        ("cvat", b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>"), ("parquet", b"PAR1"), ("brat", b""),
        ("labelme", b"{}"), ("fiftyone", b'{"labels": {}}'), ("fiftyone", b'{"labels": {"p1": [{}]}}'),
        ("datasets", b""),
    ],
)  # fmt: skip
def test_files_that_are_none(tmp_path, name, content):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    endings = {"csv": ".csv", "conll": ".txt", "cvat": ".xml", "parquet": ".parquet", "brat": ".txt"}
    path = tmp_path / f"outside{endings.get(name, '.json')}"
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        import_dataset(Request(name, [path], tmp_path / "out", images=[pictures]), lambda _: None)
    assert path.name in str(told.value)
    assert not (tmp_path / "out" / "train.jsonl").exists()
