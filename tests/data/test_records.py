"""Records survive their file, and a wrong line is an error that names file, line and field."""

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from rivegs_mllm.data.jsonl import (
    RecordError,
    prediction_from_json,
    read_predictions,
    read_samples,
    read_split,
    sample_from_json,
    scan_samples,
    to_line,
    write_records,
)
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

texts = st.text(st.characters(exclude_categories=("Cs",)))
some_text = texts.filter(bool)
tokens = some_text.map(lambda text: "".join(text.split())).filter(bool)
edges = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
sides = st.integers(1, 2**31 - 1)
real_boxes = st.builds(
    lambda x, y, width, height: Box(x, y, x + width, y + height),
    *[st.integers(0, 9000)] * 2,
    *[st.floats(0.25, 9000) | st.integers(1, 9000)] * 2,
)


@st.composite
def masks(draw) -> Mask:
    """A mask of a few runs."""
    runs = draw(st.lists(st.integers(1, 400), min_size=1, max_size=6))
    code = coco.frPyObjects({"size": [sum(runs), 1], "counts": runs}, sum(runs), 1)
    return Mask((sum(runs), 1), code["counts"].decode())


predicted = st.builds(
    Entity,
    text=some_text,
    type=some_text,
    span=st.none() | st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda s: (s[0], s[0] + s[1])),
    expression=texts,
    visible=st.none() | st.booleans(),
    visible_score=st.none() | st.floats(0, 1),
    boxes=st.lists(st.builds(Box, edges, edges, edges, edges), max_size=2).map(tuple),
    masks=st.lists(masks(), max_size=2).map(tuple),
)
predictions = st.builds(
    Prediction,
    id=some_text,
    knowledge=texts,
    entities=st.lists(predicted, max_size=3).map(tuple),
    raw=texts,
    errors=st.lists(texts, max_size=2).map(tuple),
)


@st.composite
def samples(draw) -> Sample:
    words = tuple(draw(st.lists(tokens, max_size=8)))
    entities = []
    for _ in range(draw(st.integers(0, 3)) if words else 0):
        start = draw(st.integers(0, len(words) - 1))
        end = draw(st.integers(start + 1, len(words)))
        boxes = tuple(draw(st.lists(real_boxes, max_size=2)))
        visible = True if boxes else draw(st.none() | st.booleans())
        text = " ".join(words[start:end])
        entities.append(Entity(text, draw(some_text), (start, end), draw(texts), visible, None, boxes))
    return Sample(
        id=draw(some_text),
        tokens=words,
        image=draw(texts),
        size=draw(st.none() | st.tuples(sides, sides)),
        entities=tuple(entities),
        knowledge=tuple(draw(st.lists(texts, max_size=2))),
        subset=draw(texts),
    )


@given(samples())
def test_any_sample_survives_its_line(sample):
    line = to_line(sample)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert sample_from_json(orjson.loads(line)) == sample


@given(predictions)
def test_any_prediction_survives_its_line(prediction):
    line = to_line(prediction)
    assert line.count(b"\n") == 1
    assert prediction_from_json(orjson.loads(line)) == prediction


def test_files_keep_order_and_leave_nothing_half_written(tmp_path):
    records = [Sample(str(number), ("a",) * number) for number in (3, 500, 0, 2)]
    write_records(tmp_path / "new" / "train.jsonl", records)
    assert read_samples(tmp_path / "new" / "train.jsonl") == records
    assert read_split(tmp_path / "new", "train") == records

    def breaking():
        yield records[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "new" / "train.jsonl", breaking())
    assert read_samples(tmp_path / "new" / "train.jsonl") == records


def test_fields_at_their_default_may_be_left_out(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "1"}\n\n{"id": "2", "entities": [{"text": "a", "type": "PER"}]}')
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction("1"), Prediction("2", entities=(Entity("a", "PER"),))]


GOLD = {"text": "Ada L", "type": "PER", "span": [0, 2]}
GOOD = {"version": 1, "id": "7", "tokens": ["Ada", "L", "!"], "size": [4, 3], "entities": [GOLD]}


def test_the_good_line_is_good():
    assert sample_from_json(GOOD).entities == (Entity("Ada L", "PER", (0, 2)),)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2, "novelty": 1}, "version: 2"),
        ({"id": None}, "id"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"tokens": None}, "tokens"),
        ({"tokens": "Ada L !"}, "tokens"),
        ({"tokens": ["Ada", 1]}, r"tokens\[1\]"),
        ({"tokens": ["Ada", ""]}, r"tokens\[1\]"),
        ({"tokens": ["Ada L", "!"]}, r"tokens\[0\]"),
        ({"tokens": ["Ada", "L\u3000"]}, r"tokens\[1\]"),
        ({"image": 1}, "image"),
        ({"size": [4]}, "size"),
        ({"size": [4, 0]}, "size"),
        ({"size": [4, 3.5]}, "size"),
        ({"size": [True, True]}, "size"),
        ({"knowledge": "text"}, "knowledge"),
        ({"knowledge": [1]}, r"knowledge\[0\]"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"entities": {}}, "entities"),
        ({"entities": [1]}, r"entities\[0\]"),
    ],
)
def test_a_wrong_sample_names_its_field(tmp_path, change, field):
    path = tmp_path / "train.jsonl"
    path.write_bytes(orjson.dumps({**GOOD, "id": "first"}) + b"\n\n" + orjson.dumps({**GOOD, **change}) + b"\n")
    with pytest.raises(RecordError, match=rf"train\.jsonl:3: (line: )?{field}") as caught:
        read_samples(path)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "Ada  L"}, "text"),
        ({"text": "ada L"}, "text"),
        ({"type": None}, "type"),
        ({"span": None}, "span"),
        ({"span": [2, 2]}, "span"),
        ({"span": [-1, 2]}, "span"),
        ({"span": [0, 4]}, "span"),
        ({"span": [0.0, 2.0]}, "span"),
        ({"visible": 1}, "visible"),
        ({"visible": False, "boxes": [[0, 0, 1, 1]]}, "visible"),
        ({"visible_score": 1.5}, "visible_score"),
        ({"visible_score": "high"}, "visible_score"),
        ({"boxes": [0, 0, 1, 1]}, r"boxes\[0\]"),
        ({"boxes": [[0, 0, 1]]}, r"boxes\[0\]"),
        ({"boxes": [[0, 0, 1, 1], [0, 0, 1, "1"]]}, r"boxes\[1\]"),
        ({"boxes": [[0, 0, 0, 1]]}, r"boxes\[0\]"),
        ({"boxes": [[0, 2, 1, 1]]}, r"boxes\[0\]"),
        ({"masks": [{"size": [1, 2]}]}, r"masks\[0\]\.counts"),
        ({"masks": [{"size": [3, 4], "counts": [4, 8]}]}, r"masks\[0\]\.counts"),
        ({"masks": [{"size": [3, 4], "counts": "`03`0"}]}, r"masks\[0\]"),
        ({"masks": [{"size": [3, 4], "counts": "b'48'"}]}, r"masks\[0\]"),
        ({"masks": [{"size": [3, 4], "counts": ""}]}, r"masks\[0\]"),
        ({"masks": [{"size": [3, 4], "counts": "49"}]}, r"masks\[0\]"),
        ({"masks": [{"size": [3, 4], "counts": "<"}]}, r"masks\[0\]: covers no pixel"),
        ({"masks": [{"size": [4, 3], "counts": "48"}]}, r"masks\[0\]\.size: a mask of 3 x 4"),
        ({"masks": [{"size": [2**62, 4], "counts": "48"}]}, r"masks\[0\]\.size"),
        ({"masks": [[0, 0, 1, 0, 1, 1]]}, r"masks\[0\]"),
        ({"masks": [{"counts": "x"}]}, r"masks\[0\]\.size"),
        ({"masks": [{"size": [1, 2], "counts": "x", "area": 1}]}, r"masks\[0\]"),
        ({"box": [0, 0, 1, 1]}, "unknown field 'box'"),
    ],
)
def test_a_wrong_entity_names_its_field(tmp_path, change, field):
    path = tmp_path / "dev.jsonl"
    path.write_bytes(orjson.dumps({**GOOD, "entities": [GOLD, {**GOLD, **change}]}))
    with pytest.raises(RecordError, match=rf"dev\.jsonl:1: entities\[1\][.:] ?{field}"):
        read_samples(path)


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"id"', b"\xff\xfe", b'{"id": "1", "tokens": [], "size": NaN}'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RecordError, match=r"a\.jsonl:1: "):
        read_samples(tmp_path / "a.jsonl")


def test_an_id_twice_names_both_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "x"}\n{"id": "y"}\n{"id": "x"}\n')
    with pytest.raises(RecordError, match=r"a\.jsonl:3: id: 'x' is already on line 1"):
        read_predictions(tmp_path / "a.jsonl")


def test_predictions_may_have_boxes_without_area_and_mentions_without_span(tmp_path):
    line = b'{"id": "1", "entities": [{"text": "a", "type": "PER", "visible": false, "boxes": [[3, 3, 1, 1]]}]}'
    (tmp_path / "p.jsonl").write_bytes(line)
    assert read_predictions(tmp_path / "p.jsonl")[0].entities[0].boxes == (Box(3, 3, 1, 1),)


@pytest.mark.parametrize("size", [(2**62, 4), (2**31 - 1, 2**31 - 1), (100_000, 100_000), (131_072, 131_072)])
@pytest.mark.parametrize("counts", ["48", "", "\0", "o" * 7, "`" * 3000, "P" * 8, "é"])
def test_a_predicted_mask_of_any_size_is_refused_before_anything_is_allocated(tmp_path, size, counts):
    mask = {"size": size, "counts": counts}
    (tmp_path / "p.jsonl").write_bytes(
        orjson.dumps({"id": "1", "entities": [{"text": "a", "type": "PER", "masks": [mask]}]})
    )
    with pytest.raises(RecordError, match=r"p\.jsonl:1: entities\[0\]\.masks\[0\]"):
        read_predictions(tmp_path / "p.jsonl")


def test_null_is_a_field_left_out():
    optional = ["version", "image", "size", "entities", "knowledge", "subset"]
    assert sample_from_json({"id": "7", "tokens": ["Ada"], **dict.fromkeys(optional)}) == Sample("7", ("Ada",))
    entity = {**GOLD, **dict.fromkeys(["expression", "visible", "visible_score", "boxes", "masks"])}
    assert sample_from_json({**GOOD, "entities": [entity]}) == sample_from_json(GOOD)
    optional = ["version", "entities", "knowledge", "raw", "errors"]
    assert prediction_from_json({"id": "7", **dict.fromkeys(optional)}) == Prediction("7")


def test_a_folder_without_the_split_says_what_it_has(tmp_path):
    with pytest.raises(RecordError, match=r"no split 'dev'.*rivegs build"):
        read_split(tmp_path, "dev")
    write_records(tmp_path / "train.jsonl", [])
    with pytest.raises(RecordError, match=r"no split 'dev'.*it has train"):
        read_split(tmp_path, "dev")
    with pytest.raises(RecordError, match=r"gone\.jsonl"):
        read_predictions(tmp_path / "gone.jsonl")


def test_a_scan_goes_on_behind_a_wrong_line(tmp_path):
    good = Sample("1", ("a",))
    (tmp_path / "a.jsonl").write_bytes(b"{\n" + to_line(good) + b"\n" + to_line(good) + to_line(Sample("2", ())))
    found = list(scan_samples(tmp_path / "a.jsonl"))
    assert [number for number, _ in found] == [1, 2, 4, 5]
    assert [type(record) for _, record in found] == [RecordError, Sample, RecordError, Sample]


def test_the_examples_of_the_format_page_are_read():
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    sample, raw, prediction = (orjson.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    assert [entity.text for entity in sample_from_json(sample).entities] == ["Edwin Chanas", "Rome"]
    assert sample_from_json(raw).tokens == ("Edwin", "Chanas", ",", "in", "#", "Rome", "Today")
    assert prediction_from_json(prediction).id == sample["id"]
