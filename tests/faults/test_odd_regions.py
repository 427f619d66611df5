"""Masks and boxes of every kind and size, in gold and in predictions: refused in one line that names line and entity,
or counted, drawn and written; never a crash of the process, and no number that is none."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

import pytest
from exporting_files import exported
from PIL import Image
from pycocotools import mask as coco

from data_builders.audit import audit
from eval.protocols import Criteria
from eval.report.page import write_report
from eval.scores import evaluate
from eval.stage_metrics import grounding_scores, segmentation_scores
from rivegs_mllm.data.jsonl import RecordError, read_predictions, read_samples, write_records
from rivegs_mllm.data.masks import decode, mask_area
from rivegs_mllm.training.pictures import check_pictures
from rivegs_mllm.types import Prediction, Sample, UserError

WIDTH, HEIGHT = 30, 20
PROTOCOLS = ("strict", "riveg", "e2e", "mqspn")
NAN, INF = float("nan"), float("inf")
NUMBERS = [
    None,
    True,
    -1,
    0,
    1,
    0.5,
    2**31,
    2**62,
    2**70,
    10**400,
    1e308,
    -1e308,
    1e-320,
    NAN,
    INF,
    -INF,
    "5",
    "",
    [],
    [3],
    {},
]
SHAPES = [(1, 1), (HEIGHT, WIDTH), (WIDTH, HEIGHT), (0, 0), (0, 5), (2**62, 4), (4, 2**62), (2**31, 2**31)]
SHAPES += [
    (100_000, 100_000),
    (131_072, 131_072),
    (9000, 9000),
    (2**32 + 20, WIDTH),
    (-20, -30),
    (20.0, 30.0),
    (20,),
    (),
]


def code(*runs: int) -> str:
    """Counts as COCO compresses them, of whatever numbers."""
    text = []
    for place, run in enumerate(runs):
        number = run - (runs[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != (-1 if bits & 0x10 else 0)
            text.append(chr((bits | (0x20 if more else 0)) + 48))
    return "".join(text)


FULL = WIDTH * HEIGHT
RIGHT = code(40, 20, FULL - 60)
COUNTS = [RIGHT, code(FULL), code(0, FULL), code(*[1] * FULL), code(0, 0, FULL), code(FULL, 0), code(0, 0, 0, FULL)]
COUNTS += [
    code(40, -20, FULL - 20),
    code(-FULL),
    code(FULL + 1),
    code(FULL - 1),
    code(2**40),
    code(2**31, 2**31),
    "",
    "\0",
]
COUNTS += [
    RIGHT[:-1],
    RIGHT + "0",
    f"b'{RIGHT}'",
    RIGHT.upper() + "é",
    "o" * 7,
    "o" * 100_000,
    "P" * 8,
    "`" * 3000,
    "ÿ" * 9,
]
COUNTS += [code(81_000_000), code(0, 10**10), " " + RIGHT, RIGHT + "\n", "\ufffd"]
NO_TEXT = [None, True, 0, 1.5, NAN, [40, 20, FULL - 60], [[0, 0, 5, 0, 5, 5]], {}, {"a": 1}, [], list(RIGHT)]
WHOLE = [None, True, 7, NAN, "x", RIGHT, [], [[0, 0, 5, 0, 5, 5]], {}, {"size": [HEIGHT, WIDTH]}, {"counts": RIGHT}]


def test_the_code_is_coco_s():
    assert (
        coco.frPyObjects({"size": [HEIGHT, WIDTH], "counts": [40, 20, FULL - 60]}, HEIGHT, WIDTH)["counts"]
        == RIGHT.encode()
    )


def masks_to_try() -> list:
    """Values for a mask: every counts with every size, no text, and no mask."""
    made: list = [{"size": size, "counts": counts} for size, counts in product(SHAPES, COUNTS)]
    made += [{"size": [HEIGHT, WIDTH], "counts": counts} for counts in NO_TEXT]
    made += [{"size": [side, WIDTH], "counts": RIGHT} for side in NUMBERS]
    made += [{"size": size, "counts": RIGHT} for size in ([[HEIGHT, WIDTH]], "20x30", {"h": 1}, None, HEIGHT)]
    made += WHOLE
    return made


def _changed(rng: random.Random) -> str:
    runs, left = [], FULL
    while left:
        runs.append(rng.randint(0, left))
        left -= runs[-1]
    letters = list(code(*runs))
    for _ in range(rng.randrange(3)):
        place = rng.randrange(len(letters))
        letters[place : place + rng.randrange(2)] = chr(rng.randrange(40, 120))
    return "".join(letters)


def entity(**region: object) -> dict:
    return {"text": "Ada", "type": "PER", "span": [0, 1], "visible": True, **region}


def line(record: dict) -> bytes:
    """JSON as Python writes it, with NaN and numbers of any length, as others may send it."""
    return json.dumps(record).encode()


def as_gold(region: dict, size: list | None) -> dict:
    return {"id": "a", "tokens": ["Ada", "L"], "image": "a.png", "size": size, "entities": [entity(**region)]}


def read(path: Path, record: dict, reader):
    """What is read from a file of one line, None where it is refused: by its line, in one line."""
    path.write_bytes(line(record))
    try:
        return reader(path)
    except RecordError as error:
        message = str(error)
        if not (message.startswith(f"{path}:1: ") and message.isprintable() and len(message) < 1000):
            raise AssertionError(message) from error
        return None


def used(folder: Path, gold: list[Sample], said: list[Prediction], page: bool) -> None:
    """Scores, exports and, which takes long, a page of what was read; a UserError names the post."""
    try:
        json.dumps(evaluate(gold, said, Criteria(PROTOCOLS)), allow_nan=False)
        json.dumps([segmentation_scores(gold, said), grounding_scores(gold, said)], allow_nan=False)
        for name in ("coco", "label-studio", "csv", "conll", "fiftyone"):
            exported(name, folder / name, gold, {"one": said}, folder)
        if page:
            write_report(folder / "report.html", gold, {"one": said}, folder)
    except UserError as error:
        message = str(error)
        if not ("post 'a'" in message and message.isprintable() and len(message) < 1000):
            raise AssertionError(message) from error


def check_masks(record: Sample | Prediction) -> None:
    """What was read can be decoded, and covers what it says."""
    for own in record.entities:
        for mask in own.masks:
            assert decode(mask).sum() == mask_area(mask, "")


@pytest.fixture
def folder(tmp_path) -> Path:
    """With one picture and whole splits."""
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "a.png")
    for split in ("dev", "test"):
        write_records(tmp_path / f"{split}.jsonl", [Sample(split, (split,))])
    return tmp_path


def held(folder: Path, region: dict, size: list | None, page: bool = False) -> None:
    """A region in gold: what audit passes, training and scoring take; and in a prediction."""
    gold = read(folder / "train.jsonl", as_gold(region, size), read_samples)
    right = [Sample("a", ("Ada", "L"), "a.png", (WIDTH, HEIGHT))]
    found = [finding for finding in audit(folder).findings if finding.level == "error"]
    assert all(finding.message.isprintable() for finding in found)
    assert bool(found) or gold is not None
    if gold is not None:
        if not found:
            gold = check_pictures(gold, folder)
            check_masks(gold[0])
        used(folder, gold, [Prediction("a", entities=gold[0].entities)], page)
    said = read(folder / "said.jsonl", {"id": "a", "entities": [entity(**region)]}, read_predictions)
    if said is not None:
        used(folder, right, said, page)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.faults)])
def test_masks(trials, folder, count):
    fixed = masks_to_try()
    changed = [{"size": [HEIGHT, WIDTH], "counts": _changed(trials.rng)} for _ in range(count)]
    cases = [*(fixed if count > 100 else trials.rng.sample(fixed, 60)), *changed]

    def attempt(mask):
        held(folder, {"masks": [mask]}, [WIDTH, HEIGHT], page=mask in fixed)
        held(folder, {"masks": [mask]}, None)
        held(folder, {"masks": [mask], "boxes": [[1, 1, 5, 5]]}, [WIDTH, HEIGHT])

    trials.each("masks: size, counts and kind", cases, attempt)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.faults)])
def test_boxes(trials, folder, whole):
    edges = [1, 1, 5, 5]
    cases: list = [[[*edges[:place], value, *edges[place + 1 :]]] for place in range(4) for value in NUMBERS]
    cases += [
        [[5, 5, 1, 1]],
        [[5, 1, 1, 5]],
        [[3, 3, 3, 3]],
        [[-9, -9, -1, -1]],
        [[40, 40, 50, 50]],
        [[-1e308] * 2 + [1e308] * 2],
    ]
    cases += [
        [[0, 0, 1e-300, 1e-300]],
        [[0, 0, 5e-324, 5]],
        [[0.1, 0.1, 0.4, 0.7]],
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5]],
        [1, 2, 3, 4],
    ]
    cases += [
        None,
        True,
        3,
        NAN,
        "1 1 5 5",
        {},
        [[]],
        [None],
        [{}],
        [edges, None],
        [edges] * 500,
        [["1", "1", "5", "5"]],
    ]
    cases = cases if whole else trials.rng.sample(cases, 40)

    def attempt(boxes):
        held(folder, {"boxes": boxes}, [WIDTH, HEIGHT], page=whole)
        held(folder, {"boxes": boxes}, None)

    trials.each("boxes: edges and kind", cases, attempt)
