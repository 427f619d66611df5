import doctest
from pathlib import Path

import evaluate
import numpy as np
import pytest
from pycocotools import mask as coco

from eval.protocols import Criteria
from eval.scores import evaluate as score
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

FOLDER = Path(__file__).parents[2] / "eval" / "metrics"
TASKS = ("mner", "gmner", "eeg", "smner", "ees")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    cache = tmp_path_factory.mktemp("evaluate")
    return {name: evaluate.load(str(FOLDER / name), cache_dir=str(cache)) for name in TASKS}


def mask(width: int) -> dict:
    pixels = np.zeros((280, 280), np.uint8, order="F")
    pixels[:10, :width] = 1
    return {"size": [280, 280], "counts": coco.encode(pixels)["counts"].decode()}


REFERENCES = [
    {
        "tokens": ["a", "b", "c"],
        "size": [280, 280],
        "entities": [
            {
                "text": "a",
                "type": "PER",
                "span": [0, 1],
                "visible": True,
                "boxes": [[0, 0, 10, 10]],
                "masks": [mask(10)],
            },
            {"text": "b", "type": "LOC", "span": [1, 2], "visible": False},
        ],
    },
    {"entities": []},
]
PREDICTIONS = [
    {
        "entities": [
            {"text": "a", "type": "ORG", "boxes": [[0, 0, 10, 6]], "masks": [mask(9)]},
            {"text": "b", "type": "LOC"},
            {"text": "c", "type": "LOC"},
        ]
    },
    {"entities": []},
]


@pytest.mark.parametrize(("name", "correct"), zip(TASKS, (1, 1, 2, 1, 2), strict=True))
def test_figures_by_hand(metrics, name, correct):
    result = metrics[name].compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == pytest.approx(
        {
            "correct": correct,
            "predicted": 3,
            "gold": 2,
            "precision": correct / 3,
            "recall": correct / 2,
            "f1": 2 * correct / 5,
        }
    )


@pytest.mark.parametrize("protocol", ["strict", "riveg", "e2e", "hindex", "mqspn"])
def test_they_say_what_the_evaluator_says(metrics, protocol):
    gold = [
        Sample(
            "0",
            ("a", "b", "c"),
            size=(280, 280),
            entities=(
                Entity(
                    "a",
                    "PER",
                    (0, 1),
                    visible=True,
                    boxes=(Box(0, 0, 10, 10),),
                    masks=(Mask((280, 280), mask(10)["counts"]),),
                ),
                Entity("b", "LOC", (1, 2), visible=False),
            ),
        )
    ]
    half = [{"text": "a", "type": "PER", "boxes": [[0, 0, 10, 5]], "masks": [mask(10)]}, {"text": "b", "type": "LOC"}]
    said = [
        Prediction(
            "0",
            entities=(
                Entity("a", "PER", boxes=(Box(0, 0, 10, 5),), masks=(Mask((280, 280), mask(10)["counts"]),)),
                Entity("b", "LOC"),
            ),
        )
    ]
    for iou in (0.4, 0.5):
        expected = score(gold, said, Criteria([protocol], iou))[protocol]["all"]
        for name in TASKS:
            got = metrics[name].compute(
                predictions=[{"entities": half}], references=REFERENCES[:1], protocol=protocol, iou=iou
            )
            assert got == expected[name.upper()]


def test_batches_add_up(metrics):
    for said, gold in zip(PREDICTIONS, REFERENCES, strict=True):
        metrics["gmner"].add(prediction=said, reference=gold)
    assert metrics["gmner"].compute()["gold"] == 2


def test_wrong_inputs_are_named(metrics):
    gold = [{"entities": [{"text": "a", "type": "PER", "boxes": [[0, 0, 10]]}]}]
    with pytest.raises(UserError, match=r"post 0.*xmin"):
        metrics["gmner"].compute(predictions=[{"entities": []}], references=gold)
    with pytest.raises(UserError, match="unknown field 'bbox'"):
        metrics["gmner"].compute(predictions=[{"entities": [{"text": "a", "type": "b", "bbox": []}]}], references=gold)
    with pytest.raises(UserError, match="needs masks"):
        metrics["smner"].compute(predictions=[{"entities": []}], references=[{"entities": []}])
    with pytest.raises(UserError, match="protocol"):
        metrics["gmner"].compute(predictions=[{"entities": []}], references=[{"entities": []}], protocol="lenient")


@pytest.mark.parametrize("name", TASKS)
def test_the_documented_example_holds(metrics, name, monkeypatch):
    monkeypatch.chdir(FOLDER.parent.parent)
    text = metrics[name].inputs_description
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert len(example.examples) == 4
    assert doctest.DocTestRunner().run(example).failed == 0
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for heading in ("Metric description", "How to use", "Inputs", "Output values", "Limitations", "Citation"):
        assert heading in card
