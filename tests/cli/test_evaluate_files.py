"""Predictions that are odd or do not fit, in memory and in files; and that both ways of scoring agree."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from eval.analysis.summary import explain
from eval.protocols import PROTOCOLS, Criteria
from eval.scores import evaluate, evaluate_files
from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

SQUARE = Box(0, 0, 10, 10)
GOLD = [
    Sample(
        str(index),
        ("a", "b", "c"),
        size=(100, 80),
        entities=(
            Entity("a", "PER", (0, 1), visible=True, boxes=(SQUARE,)),
            Entity("b", "LOC", (1, 2), visible=False),
        ),
        subset=("seen", "unseen")[index % 2],
    )
    for index in range(6)
]


def predicted(*boxes: Box) -> list[Prediction]:
    """The gold, with these boxes for the first post's first entity."""
    first = replace(GOLD[0].entities[0], boxes=boxes)
    return [
        Prediction("0", entities=(first, GOLD[0].entities[1])),
        *(Prediction(sample.id, entities=sample.entities) for sample in GOLD[1:]),
    ]


@pytest.mark.parametrize(
    ("box", "correct", "flat", "outside"),
    [
        (SQUARE, 12, 0, 0),
        (Box(10, 10, 0, 0), 11, 1, 0),  # corners swapped
        (Box(10, 0, 0, 10), 11, 1, 0),
        (Box(5, 5, 5, 5), 11, 1, 0),
        (Box(-1, -1, 10, 10), 12, 0, 1),  # IoU 100 / 121
        (Box(-100, -100, -90, -90), 11, 0, 1),
        (Box(0, 0, 100, 80), 11, 0, 0),
        (Box(0, 0, 1.7e308, 1.7e308), 11, 0, 1),
        (Box(-1e308, -1e308, 1e308, 1e308), 11, 0, 1),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_odd_boxes_are_counted_as_they_are(box, correct, flat, outside, protocol):
    result = evaluate(GOLD, predicted(box), Criteria([protocol]))
    assert result[protocol]["all"]["GMNER"]["correct"] == correct
    assert result["boxes_without_area"] == {"count": flat, "ids": ["0"] * flat}
    assert result["boxes_outside"] == {"count": outside, "ids": ["0"] * outside}
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_box_that_is_not_finite_is_an_error(number, protocol):
    with pytest.raises(UserError, match=r"post '0', predicted entity 'a'.*no finite number"):
        evaluate(GOLD, predicted(Box(0, 0, number, 10)), Criteria([protocol]))
    broken = replace(GOLD[0], entities=(replace(GOLD[0].entities[0], boxes=(Box(number, 0, 1, 1),)),))
    with pytest.raises(UserError, match="post '0', gold entity 'a'"):
        evaluate([broken], [], Criteria([protocol]))


def test_unknown_types_are_listed_and_wrong():
    answers = [Prediction("3", entities=(Entity("a", "ANIMAL", boxes=(SQUARE,)), Entity("b", "OTHER")))]
    result = evaluate(GOLD, answers)
    assert result["unknown_types"] == {"count": 1, "ids": ["3"]}  # OTHER is a type, though not in this gold
    assert result["strict"]["all"]["EEG"]["correct"] == 2
    assert result["strict"]["all"]["MNER"]["correct"] == 0
    assert result["strict"]["type:ANIMAL"]["MNER"]["predicted"] == 1


def shuffled_files(folder, gold, answers):
    write_records(folder / "gold.jsonl", gold)
    write_records(folder / "answers.jsonl", answers)
    return folder / "gold.jsonl", folder / "answers.jsonl"


def masked(samples):
    pixels = np.zeros((80, 100), np.uint8, order="F")
    pixels[:10, :10] = 1
    mask = Mask((80, 100), coco.encode(pixels)["counts"].decode())
    return [replace(s, entities=(replace(s.entities[0], masks=(mask,)), *s.entities[1:])) for s in samples]


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_files_give_what_memory_gives(tmp_path, with_masks, seed):
    rng = random.Random(seed)
    gold = masked(GOLD) if with_masks else GOLD
    answers = [
        Prediction(s.id, entities=tuple(e for e in s.entities if rng.random() < 0.7), errors=("cut",) * (s.id == "2"))
        for s in gold
        if s.id != "4"
    ]
    rng.shuffle(answers)
    result = evaluate_files(*shuffled_files(tmp_path, gold, answers), Criteria(tuple(PROTOCOLS), 0.6))
    expected = evaluate(gold, answers, Criteria(tuple(PROTOCOLS), 0.6))
    for found in (result, expected):
        for key in ("unreadable_answers", "missing_predictions"):
            found[key]["ids"].sort()
    assert result == expected
    assert ("SMNER" in result["strict"]["all"]) == with_masks
    assert result["missing_predictions"]["ids"] == ["4"]
    assert result["unreadable_answers"]["ids"] == ["2"]


def test_mistakes_in_files_are_named(tmp_path):
    gold, answers = shuffled_files(tmp_path, GOLD, [*predicted(SQUARE), Prediction("9")])
    with pytest.raises(UserError, match="'9' is not in the gold"):
        evaluate_files(gold, answers)
    answers.write_text('{"id": "0"}\n{"id": "1"}\n{"id": "0"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl:3.*is already on line 1"):
        evaluate_files(gold, answers)
    answers.write_text('{"id": "0", "entities": [{"text": "a", "type": "PER", "boxes": [[0, 0, NaN, 1]]}]}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl:1"):
        evaluate_files(gold, answers)
    with pytest.raises(UserError, match="no such file"):
        evaluate_files(gold, tmp_path / "none.jsonl")
    answers.write_text("")
    assert evaluate_files(gold, answers)["missing_predictions"]["count"] == 6


odd_entities = st.builds(
    Entity,
    text=st.sampled_from(("a", "b", "a b", "b c", "zzz", "a ", "a(b")),
    type=st.sampled_from(("PER", "LOC", "X")),
    span=st.sampled_from((None, (0, 1), (0, 2), (1, 2), (5, 9))),
    visible=st.sampled_from((None, True, False)),
    visible_score=st.sampled_from((None, 0, 0.4, 1)),
    boxes=st.lists(
        st.sampled_from(
            (SQUARE, Box(10, 10, 0, 0), Box(-5, -5, 8, 8), Box(5, 5, 5, 5), Box(0, 0, 1e308, 1e308),
             Box(-1e308, 0, 1e308, 5))
        ),
        max_size=2,
    ).map(tuple),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("012345"), st.lists(odd_entities, max_size=4).map(tuple)))
def test_whatever_the_format_allows_is_counted(tmp_path_factory, said):
    answers = [Prediction(name, entities=entities) for name, entities in said.items()]
    result = evaluate_files(*shuffled_files(tmp_path_factory.mktemp("odd"), GOLD, answers), Criteria(tuple(PROTOCOLS)))
    count = sum(map(len, said.values()))
    for protocol in ("strict", "riveg", "e2e"):
        for row in result[protocol]["all"].values():
            assert (row["predicted"], row["gold"]) == (count, 12)
            assert row["correct"] <= min(count, 12)
    assert result["missing_predictions"]["count"] == 6 - len(said)
    assert result["unknown_types"]["count"] == sum(any(e.type == "X" for e in entities) for entities in said.values())
    explained = explain(GOLD, answers)
    assert explained["strict"] == result["strict"]
    assert sum(explained["error_budget"]["GMNER"]["predicted"].values()) == count
    json.dumps(explained, allow_nan=False)
