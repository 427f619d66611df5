"""Every field of every file that comes from outside, replaced by wrong values: each is refused in a line that names the
file and the place, or read as what it is and written back as it was read."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from faults.conftest import LONGEST

from data_builders.audit import audit
from data_builders.findings import Finding
from data_builders.formats.conll import read_posts
from data_builders.formats.labelme import read_regions
from data_builders.formats.riveg_rows import _read_boxes
from data_builders.formats.voc import read_annotation, usable_boxes
from eval.proposals import read_candidates
from eval.scores import evaluate
from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.data.jsonl import read_predictions, read_samples, to_line, write_records
from rivegs_mllm.data.masks import encode
from rivegs_mllm.llm.few_shot import read_examples
from rivegs_mllm.training.run.folder import read_metrics
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

VALUES = [
    None,
    True,
    -1,
    0,
    1.5,
    2**31,
    10**30,
    1e308,
    "",
    " ",
    "word",
    "two words",
    "a\nb\x1b[2J",
    "NUL \0",
    "\u202e\u200b",
    "x" * 10**5,
    " x" * 10**4,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
]
"""By which each field is replaced; it is also left out, and its object gets one more."""

MASK = encode(np.eye(6, 8, dtype=bool))
SAMPLE = Sample(
    "post-1",
    ("Ada", "met", "Bob", "Lee"),
    "images/1.jpg",
    (8, 6),
    (
        Entity("Ada", "PER", (0, 1), "a woman", True, 0.75, (Box(0, 0, 4, 4), Box(1, 1, 3, 3.5)), ()),
        Entity("Bob Lee", "PER", (2, 4)),
    ),
    ("a post of two",),
    "known",
)
PREDICTION = Prediction("post-1", "a post of two", SAMPLE.entities, "raw", ("box: no box",))
EXAMPLE = {
    "version": 1,
    "id": "post-1",
    "text": "Ada met Bob Lee",
    "image": "images/1.jpg",
    "caption": "two people",
    "entities": [{"text": "Ada", "type": "PER", "explanation": "a name", "shown": True}],
    "relation": "they meet",
}
SHAPE = {"label": "Ada", "points": [[0, 0], [4, 0], [4, 4]], "group_id": 1, "shape_type": "polygon", "flags": {}}


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every field and item of a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, own in items:
        yield (*path, key)
        yield from places(own, (*path, key))


def changed(record: object, path: Sequence, change: Callable[[object, object], None]) -> object:
    made = copy.deepcopy(record)
    above = made
    for key in path[:-1]:
        above = above[key]
    change(above, path[-1])
    return made


def wrong(record: dict) -> Iterator[tuple[str, object]]:
    """What was done to a record, and the record."""
    for path in places(record):
        for value in VALUES:
            yield f"{path} = {value!r:.40}", changed(record, path, lambda above, key: above.__setitem__(key, value))  # noqa: B023
        yield f"{path} left out", changed(record, path, lambda above, key: above.__delitem__(key))
        yield (
            f"{path} twice",
            changed(
                record,
                path,
                lambda above, key: above.append(above[key]) if isinstance(above, list) else above.update(one_more=1),
            ),
        )
    for value in VALUES:
        yield f"all = {value!r:.40}", value


def refused(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file is refused, in a line as it should be."""
    try:
        read(path)
    except UserError as error:
        message = str(error)
        assert str(path) in message, message[:500]
        assert message.isprintable(), message[:500]
        assert len(message) < LONGEST + len(str(path)), len(message)
        return True
    return False


class Reader(NamedTuple):
    """``record`` is one as it should be, ``lines`` whether a file has one a line, ``read`` what reads such a file."""

    record: dict
    lines: bool
    read: Callable[[Path], object]


def reread(path: Path, read) -> None:
    records = read(path)
    other = path.with_name("again.jsonl")
    write_records(other, records)
    assert read(other) == records


def as_gold(path: Path) -> None:
    """Read, audited, scored against itself and written back."""
    reread(path, read_samples)
    samples = read_samples(path)
    evaluate(samples, read_predictions(path))
    assert all(finding.message.isprintable() for finding in audit(path).findings)


def as_predictions(path: Path) -> None:
    reread(path, read_predictions)
    said = read_predictions(path)
    evaluate([dataclasses.replace(SAMPLE, id=one.id) for one in said], said)


READERS = {
    "sample": Reader(json.loads(to_line(SAMPLE)), True, as_gold),
    "sample with a mask": Reader(
        json.loads(to_line(dataclasses.replace(SAMPLE, entities=(Entity("Ada", "PER", (0, 1), masks=(MASK,)),)))),
        True,
        as_gold,
    ),
    "prediction": Reader(json.loads(to_line(PREDICTION)), True, as_predictions),
    "example of a prompt": Reader(EXAMPLE, True, read_examples),
    "encyclopedia": Reader(
        {"name": "Ada", "expression": "a woman", "knowledge": ["Ada is one"]}, True, read_encyclopedia
    ),
    "proposals": Reader({"id": "post-1", "boxes": [[0, 0, 4, 4]]}, True, read_candidates),
    "labelme": Reader(
        {"version": "5", "imageWidth": 8, "imageHeight": 6, "imagePath": "1.jpg", "shapes": [SHAPE]},
        False,
        read_regions,
    ),
    "RiVEG's boxes": Reader([{"uniq_id": "1", "box": [0, 0, 4, 4]}], False, _read_boxes),
}


@pytest.mark.parametrize("name", READERS)
def test_every_field_of_a_record(trials, tmp_path, name):
    reader = READERS[name]
    path = tmp_path / ("file.jsonl" if reader.lines else "file.json")
    path.write_text(json.dumps(reader.record) + "\n")
    assert not refused(reader.read, path), "the right record is refused"
    many = list(wrong(reader.record))
    count = {"refused": 0}

    def attempt(case):
        _, record = case
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")
        count["refused"] += refused(reader.read, path)

    trials.each(f"record: a wrong value in a {name}", many, attempt)
    assert count["refused"] > len(many) // 3


CONTENTS = {
    "nothing": b"",
    "half a line": b'{"id": "po',
    "NaN": b'{"id": NaN}',
    "infinity": b'[{"uniq_id": "1", "box": [0, 0, Infinity, 1]}]',
    "half a character": b'{"id": "\\ud800", "name": "\\ud800"}',
    "no UTF-8": b'{"id": "\xff"}',
    "UTF-16": '{"id": "post-1"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"id": "post-1", "name": "a", "boxes": []}\n',
    "deep lists": b"[" * 100_000,
    "deep lists that are closed": b"[" * 5000 + b"]" * 5000,
    "deep objects": b'{"a": ' * 100_000,
    "a number of 5,000 digits": b'{"id": ' + b"9" * 5000 + b"}",
    "zeros": b"\0" * 4096,
    "a key twice": b'{"id": "a", "id": "b"}',
}


@pytest.mark.parametrize("name", READERS)
def test_files_that_hold_something_else(trials, tmp_path, name):
    path = tmp_path / "file.jsonl"

    def attempt(what):
        path.write_bytes(CONTENTS[what])
        refused(READERS[name].read, path)

    trials.each(f"file that is something else: {name}", CONTENTS, attempt)


def test_every_field_of_a_run_that_is_resumed(trials, tmp_path):
    path = tmp_path / "metrics.json"

    def attempt(content):
        path.write_bytes(content)
        assert refused(lambda file: read_metrics(file.parent), path)

    trials.each("file that is something else: metrics of a run", [b"", b"{", b"[1]", b"\xff", b"[" * 10**5], attempt)


XML = """<annotation><size><width>80</width><height>60</height></size><object><name>Ada</name><bndbox><xmin>1</xmin>
<ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"""
TEXTS = ["", " ", "word", "-1", "0", "1e308", "1e400", "nan", "inf", "9" * 400, "9" * 5000, "1.5", "0x10", "٣", "1 2",
         "&lt;", "x" * 10**5, "<b>1</b>", "<!-- 1 -->", "&#8238;"]  # fmt: skip


def test_every_element_of_an_annotation(trials, tmp_path):
    path = tmp_path / "1.xml"
    tags = ("width", "height", "name", "xmin", "ymin", "xmax", "ymax", "bndbox", "size", "object")

    def read(file: Path) -> None:
        annotation = read_annotation(file)
        boxes, faults = usable_boxes(annotation)
        assert all(fault.message.isprintable() and len(fault.message) < LONGEST for fault in faults)
        for own in boxes.values():
            write_records(
                tmp_path / "1.jsonl",
                [Sample("1", ("a",), entities=(Entity("a", "PER", (0, 1), boxes=own),))],
            )
            read_samples(tmp_path / "1.jsonl")

    def attempt(case):
        tag, text = case
        path.write_text(
            re.sub(f"(<{tag}>).*(</{tag}>)", lambda found: f"{found[1]}{text}{found[2]}", XML, flags=re.DOTALL)
        )
        refused(read, path)

    trials.each("record: a wrong value in a VOC annotation", [(tag, text) for tag in tags for text in TEXTS], attempt)


LINE_PARTS = ["", " ", "\t", "O", "B-", "B-PER", "I-LOC", "X-PER", "b-per", "B-PER\tO", "IMGID:", "IMGID:7", "\ufeff",
              "\u2028", "\x85", "a\x0bb",
              "\0", "\x1b[2J", "x" * 9999, "\u202e", "B-" + "y" * 9999, "\u3000"]  # fmt: skip


def test_every_line_of_a_conll_file(trials, tmp_path):
    path = tmp_path / "train.txt"
    lines = ["IMGID:1", "Ada\tB-PER", "met\tO", "", "IMGID:2", "Bob\tB-PER", "Lee\tI-PER", ""]

    def read(file: Path) -> None:
        for post in read_posts(file):
            findings = [Finding(repair.kind, str(file), repair.message) for repair in post.repairs]
            assert all(str(finding).isprintable() and len(str(finding)) < LONGEST for finding in findings)
            if post.tokens:
                write_records(tmp_path / "1.jsonl", [Sample(post.id, post.tokens, entities=post.entities)])
                read_samples(tmp_path / "1.jsonl")

    def attempt(case):
        place, before, part = case
        content = [*lines[:place], *([lines[place] + part] if before else [part]), *lines[place + 1 :]]
        path.write_text("\n".join(content), encoding="utf-8")
        refused(read, path)

    cases = [(place, before, part) for place in range(len(lines)) for before in (0, 1) for part in LINE_PARTS]
    cases += [(place, 0, f"{a}\t{b}") for place in range(len(lines)) for a in LINE_PARTS for b in LINE_PARTS]
    trials.each("record: a wrong line in a CoNLL file", cases, attempt)
