"""The JSON Schemas of docs/ take what is written and what the reader takes, but for sums and offsets."""

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from test_import_export_same import samples

from rivegs_mllm.data.field_errors import FieldError
from rivegs_mllm.data.jsonl import prediction_from_json, read_samples, sample_from_json, scan_samples, to_line
from rivegs_mllm.types import Prediction

DOCS = Path(__file__).parent.parent.parent / "docs"
SAMPLE, PREDICTION = (
    Draft202012Validator(json.loads((DOCS / f"{name}.schema.json").read_text())) for name in ("sample", "prediction")
)


def test_the_schemas_are_schemas():
    for own in (SAMPLE, PREDICTION):
        Draft202012Validator.check_schema(own.schema)


@settings(max_examples=60)
@given(samples())
def test_what_is_written_is_of_the_schema(given_samples):
    for sample in given_samples:
        SAMPLE.validate(json.loads(to_line(sample)))
        said = Prediction(sample.id, "knows", sample.entities, "raw", ("error",))
        PREDICTION.validate(json.loads(to_line(said)))


ENTITY = {"text": "Ada", "type": "x", "span": [0, 1]}
TEXT = {"id": "1", "text": "Ada Lovelace, 1815", "entities": [{"type": "x", "start": 0, "end": 12}]}
GOOD = [
    {"id": "1", "tokens": []},
    {"id": "1", "tokens": ["Ada"], "entities": [ENTITY], "image": None, "size": None, "version": None, "subset": None},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "visible": None, "boxes": [[0, 0, 1.5, 2]], "masks": None}]},
    TEXT,
    {**TEXT, "tokens": None, "entities": None, "size": [4, 3]},
    {**TEXT, "entities": [{**TEXT["entities"][0], "text": "Ada  Lovelace", "visible": True, "boxes": []}]},
]
BAD = [
    {},
    [],
    {"id": ""},
    {"id": 1, "tokens": []},
    {"id": "1", "tokens": ["two words"]},
    {"id": "1", "tokens": [""]},
    {"id": "1", "tokens": [], "more": 1},
    {"id": "1", "tokens": [], "version": 2},
    {"id": "1", "tokens": [], "size": [1, 0]},
    {"id": "1", "tokens": [], "size": [1.5, 2]},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "span": None}]},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "type": ""}]},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "visible_score": 2}]},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "boxes": [[1, 2, 3]]}]},
    {"id": "1", "tokens": ["Ada"], "entities": [{**ENTITY, "start": 0, "end": 3}]},
    {"id": "1", "tokens": ["Ada"], "text": "Ada"},
    {"id": "1", "text": "Ada", "entities": [ENTITY]},
    {"id": "1", "text": ["Ada"]},
    {"id": "1", "text": "Ada", "entities": [{"type": "x", "start": "0", "end": 3}]},
]


@pytest.mark.parametrize("line", GOOD)
def test_lines_that_are_read(line):
    SAMPLE.validate(line)
    sample_from_json(line)


@pytest.mark.parametrize("line", BAD)
def test_lines_that_are_refused(line):
    assert not SAMPLE.is_valid(line)
    with pytest.raises(FieldError):
        sample_from_json(line)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        ({"start": 0, "end": 30}, "which has 18"),
        ({"start": 3, "end": 3}, "not characters of the text"),
        ({"start": 3, "end": 4}, "holds no word"),
        ({"start": 0, "end": 3, "text": "Bob"}, "'Bob' is not what stands at"),
        ({"start": 0, "end": 3, "span": [0, 1]}, "leave it out"),
    ],
)
def test_offsets_that_do_not_fit(entity, message):
    with pytest.raises(FieldError, match=message):
        sample_from_json({**TEXT, "entities": [{"type": "x", **entity}]})


def test_all_faults_of_a_line_with_a_text(tmp_path):
    def faults(line):
        (tmp_path / "a.jsonl").write_bytes(orjson.dumps(line))
        return [str(found).partition(":1: ")[2] for _, found in scan_samples(tmp_path / "a.jsonl")]

    assert faults({**TEXT, "entities": [{"type": "x", "start": 0, "end": 30}]}) == [
        "entities[0]: start and end [0, 30] are not characters of the text, which has 18"
    ]
    twice = faults({**TEXT, "size": [0, 1], "entities": [{"type": "", "start": 0, "end": 3}]})
    assert sorted(fault.partition(":")[0] for fault in twice) == ["entities[0].type", "size"]


def test_a_line_with_a_text_is_a_sample_and_a_prediction(tmp_path):
    line = {"id": "1", "text": "#AdaLovelace's day", "entities": [{"type": "x", "start": 1, "end": 4}]}
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(line))
    (sample,) = read_samples(tmp_path / "a.jsonl")
    assert sample.tokens == ("#", "Ada", "Lovelace's", "day")
    assert (sample.entities[0].text, sample.entities[0].span) == ("Ada", (1, 2))
    assert prediction_from_json(line).entities == sample.entities
