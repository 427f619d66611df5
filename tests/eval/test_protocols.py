"""Every row of the table of protocols in docs/evaluation.md, worked by hand; RiVEG's and MQSPN's counting redone."""

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from sklearn.metrics import precision_recall_fscore_support

from data_builders.formats.riveg_rows import (
    read_riveg_gold,
    read_riveg_predictions,
    with_empty_posts,
    write_riveg_gold,
    write_riveg_predictions,
)
from data_builders.twitter_gmner import build_twitter_gmner
from eval.coordinates import in_resized_pixels, resized
from eval.protocols import PROTOCOLS, Criteria
from eval.scores import evaluate, iou_sweep
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Prediction, Sample, UserError

NAMES = tuple(PROTOCOLS)
SQUARE = Box(0, 0, 10, 10)
HALF = Box(0, 0, 10, 5)  # IoU with SQUARE is exactly 0.5
MORE = Box(0, 0, 10, 6)  # 0.6
FAR = Box(50, 50, 60, 60)
TOKENS = ("a", "b", "a", "c", "d")


def said(text="a", kind="PER", span=None, boxes=(), visible=None, masks=()) -> Entity:
    return Entity(text, kind, span, visible=visible, boxes=tuple(boxes), masks=tuple(masks))


def counts(golds, predicted, task, tokens=TOKENS, size=None, candidates=None) -> dict[str, tuple[int, int, int]]:
    sample = Sample("1", tokens, size=size, entities=tuple(golds))
    candidates = None if candidates is None else {"1": candidates}
    result = evaluate([sample], [Prediction("1", entities=tuple(predicted))], Criteria(NAMES, candidates=candidates))
    rows = {name: result[name]["all"][task] for name in NAMES}
    return {name: (row["correct"], row["predicted"], row["gold"]) for name, row in rows.items()}


def correct(*arguments, **options) -> dict[str, int]:
    return {name: row[0] for name, row in counts(*arguments, **options).items()}


def test_mention_key():
    gold = said("a", span=(0, 1))
    # The same string elsewhere: found by those who compare strings.
    assert correct([gold], [said("a", span=(2, 3))], "MNER") == {
        "strict": 0, "riveg": 1, "e2e": 1, "hindex": 0, "mqspn": 0,
    }  # fmt: skip
    # Another string at the same place: found by those who compare places.
    assert correct([gold], [said("A", span=(0, 1))], "MNER") == {
        "strict": 1, "riveg": 0, "e2e": 0, "hindex": 1, "mqspn": 1,
    }  # fmt: skip
    # Without a span the string decides, or finds the place.
    assert set(correct([gold], [said("a")], "MNER").values()) == {1}
    assert set(correct([gold], [said("A")], "MNER").values()) == {0}


def test_the_type_belongs_to_the_key_but_not_in_eeg():
    golds, answers = [said("a", span=(0, 1))], [said("a", "ORG", span=(0, 1))]
    assert set(correct(golds, answers, "MNER").values()) == {0}
    assert set(correct(golds, answers, "EEG").values()) == {1}


def test_rivegs_key_without_type_ends_at_the_first_bracket():
    golds, answers = [said("a (b)")], [said("a (c)")]
    assert correct(golds, answers, "EEG", tokens=())["riveg"] == 1
    assert correct(golds, answers, "EEG", tokens=())["strict"] == 0
    assert correct(golds, answers, "MNER", tokens=())["riveg"] == 0


def test_duplicates():
    gold = [said("a", span=(0, 1)), said("a", span=(2, 3))]
    # Said three times at the first place.
    assert counts(gold, [said("a", span=(0, 1))] * 3, "MNER") == {
        "strict": (1, 3, 2),  # a multiset, by place
        "riveg": (2, 3, 2),  # a multiset, by string, each gold used once
        "e2e": (2, 3, 2),
        "hindex": (1, 1, 2),  # one a position
        "mqspn": (1, 1, 2),  # a set
    }
    # One position with two types: the dictionary keeps the last, the set both.
    both = [said("a", "PER", (0, 1)), said("a", "ORG", (0, 1))]
    assert counts(gold[:1], both, "MNER") == {
        "strict": (1, 2, 1), "riveg": (1, 2, 1), "e2e": (1, 2, 1), "hindex": (0, 1, 1), "mqspn": (1, 2, 1),
    }  # fmt: skip
    assert counts(gold[:1], both[::-1], "MNER")["hindex"] == (1, 1, 1)


def test_matching():
    # The first prediction agrees with both gold entities, the second with the first gold entity alone.
    golds = [said("a", span=(0, 1), boxes=[SQUARE, FAR]), said("a", span=(2, 3), boxes=[SQUARE])]
    answers = [said("a", boxes=[MORE]), said("a", boxes=[FAR])]
    by_string = [replace(gold, span=None) for gold in golds]
    got = counts(by_string, answers, "GMNER", tokens=())
    assert got["strict"] == got["e2e"] == (2, 2, 2)  # maximum matching
    assert got["riveg"] == (1, 2, 2)  # the first match takes what the second needed
    # A wrong region does not use up the gold: the scan goes on to the second gold entity.
    golds = [said("a", boxes=[SQUARE]), said("a", boxes=[FAR])]
    assert counts(golds, [said("a", boxes=[FAR]), said("a", boxes=[SQUARE])], "GMNER", tokens=())["riveg"] == (2, 2, 2)


def test_iou():
    golds = [said("a", span=(0, 1), boxes=[SQUARE])]
    exactly = correct(golds, [said("a", span=(0, 1), boxes=[HALF])], "GMNER")
    assert exactly == {"strict": 0, "riveg": 1, "e2e": 1, "hindex": 0, "mqspn": 1}
    assert set(correct(golds, [said("a", span=(0, 1), boxes=[MORE])], "GMNER").values()) == {1}


def test_hindex_goes_through_the_best_candidate():
    golds = [said("a", span=(0, 1), boxes=[SQUARE])]
    answers = [said("a", span=(0, 1), boxes=[Box(0, 0, 10, 9)])]
    assert correct(golds, answers, "GMNER", candidates=[FAR, MORE])["hindex"] == 1
    # The best candidate covers the prediction, and only half of the gold.
    assert correct(golds, answers, "GMNER", candidates=[FAR, HALF])["hindex"] == 0
    # No candidate covers the gold: it stays in the denominator, and saying it invisible is wrong too.
    assert counts(golds, answers, "GMNER", candidates=[FAR])["hindex"] == (0, 1, 1)
    assert counts(golds, [said("a", span=(0, 1))], "GMNER", candidates=[FAR])["hindex"] == (0, 1, 1)
    # Without candidates every box is its own.
    assert correct(golds, answers, "GMNER")["hindex"] == 1
    with pytest.raises(UserError, match="'1'"):
        evaluate([Sample("1", TOKENS)], [], Criteria(["hindex"], candidates={"2": []}))


def test_hindex_drops_malformed_spans():
    golds = [said("a", span=(0, 1))]
    answers = [said("a", span=(0, 1)), said("nowhere"), said("d", span=(4, 9))]
    assert counts(golds, answers, "MNER") == {
        "strict": (1, 3, 1), "riveg": (1, 3, 1), "e2e": (1, 3, 1), "hindex": (1, 1, 1), "mqspn": (1, 3, 1),
    }  # fmt: skip


def test_several_gold_boxes():
    golds = [said("a", span=(0, 1), boxes=[SQUARE, FAR])]
    assert counts(golds, [said("a", span=(0, 1), boxes=[FAR])], "GMNER") == {
        "strict": (1, 1, 1), "riveg": (1, 1, 1), "e2e": (1, 1, 1), "hindex": (1, 1, 1), "mqspn": (1, 1, 2),
    }  # fmt: skip
    # MNER does not look at boxes: there the entity is in the set once.
    assert counts(golds, [said("a", span=(0, 1))], "MNER")["mqspn"] == (1, 1, 1)
    # Said twice, once for each box.
    twice = [said("a", span=(0, 1), boxes=[SQUARE]), said("a", span=(0, 1), boxes=[FAR])]
    assert counts(golds, twice, "GMNER")["mqspn"] == (2, 2, 2)


def test_several_predicted_boxes():
    golds = [said("a", span=(0, 1), boxes=[SQUARE])]
    assert counts(golds, [said("a", span=(0, 1), boxes=[FAR, SQUARE])], "GMNER") == {
        "strict": (0, 1, 1),  # the first counts
        "riveg": (0, 1, 1),
        "e2e": (1, 1, 1),  # any, unpenalised
        "hindex": (0, 1, 1),
        "mqspn": (1, 2, 1),  # each is a triple of its own
    }


def test_coordinates():
    gold, answer = Box(0, 0, 10.4, 10), Box(0, 0, 10.4, 5.2)
    golds = [said("a", span=(0, 1), boxes=[gold])]
    answers = [said("a", span=(0, 1), boxes=[answer])]
    # 280 x 280 stays: (0, 0, 10, 10) against (0, 0, 10, 5), which is 0.5; unrounded it is more.
    sized = correct(golds, answers, "GMNER", size=(280, 280))
    assert sized == {"strict": 1, "riveg": 1, "e2e": 1, "hindex": 1, "mqspn": 1}
    lower = [said("a", span=(0, 1), boxes=[Box(0, 0, 10.4, 4.6)])]  # 0.46, rounded to 0.5
    assert correct(golds, lower, "GMNER", size=(280, 280)) == {
        "strict": 0, "riveg": 0, "e2e": 1, "hindex": 0, "mqspn": 0,
    }  # fmt: skip
    assert correct(golds, lower, "GMNER")["e2e"] == 0  # no size: pixels as they are


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (644, 476)),  # 22.86 and 17.14 steps of 28
        ((28, 28), (56, 56)),  # raised to 3136 pixels
        ((4000, 3000), (1148, 840)),  # lowered to 1003520 pixels: 41.3 and 30.98 steps, rounded down
        ((1000, 1000), (980, 980)),  # 36 steps would be too many pixels, 35.8 are rounded down
        ((27, 500), (27, 500)),
    ],
)
def test_resized(size, expected):
    assert resized(size) == expected


def test_boxes_are_resized_with_the_picture():
    assert in_resized_pixels(Box(0, 0, 640, 480), (640, 480)) == Box(0, 0, 644, 476)
    assert in_resized_pixels(Box(320, 100, 321, 200), (640, 480)) == Box(322, 99, 323, 198)


def test_what_is_said_invisible():
    golds = [said("a", span=(0, 1), boxes=[SQUARE], visible=True), said("b", span=(1, 2), visible=False)]
    invisible = [said("a", span=(0, 1), visible=False), said("b", span=(1, 2), visible=False)]
    assert set(correct(golds, invisible, "GMNER").values()) == {1}
    # Said visible without a box: RiVEG's rows have [0, 0, 0, 0] then, which is right nowhere.
    boxless = [said("a", span=(0, 1), visible=True), said("b", span=(1, 2), visible=True)]
    assert correct(golds, boxless, "GMNER") == {"strict": 1, "riveg": 0, "e2e": 1, "hindex": 1, "mqspn": 1}


def test_the_threshold_is_an_argument():
    gold = [Sample("1", TOKENS, entities=(said("a", span=(0, 1), boxes=[SQUARE]),))]
    answers = [Prediction("1", entities=(said("a", span=(0, 1), boxes=[Box(0, 0, 10, 7)]),))]  # 0.7

    def gmner(iou):
        result = evaluate(gold, answers, Criteria(NAMES, iou))
        return {name: result[name]["all"]["GMNER"]["correct"] for name in NAMES}

    assert set(gmner(0.65).values()) == {1}
    assert gmner(0.7) == {"strict": 0, "riveg": 1, "e2e": 1, "hindex": 0, "mqspn": 1}
    assert set(gmner(0.75).values()) == {0}
    for iou in (0, -1, 1.5, float("nan")):
        with pytest.raises(UserError, match="threshold"):
            Criteria(iou=iou)


def test_the_sweep():
    gold = [Sample("1", TOKENS, entities=(said("a", span=(0, 1), boxes=[SQUARE]), said("b", span=(1, 2))))]
    answers = [Prediction("1", entities=(said("a", span=(0, 1), boxes=[Box(0, 0, 10, 7.2)]), said("b", span=(1, 2))))]
    sweep = iou_sweep(gold, answers, Criteria(NAMES))
    for name in NAMES:
        by_iou = sweep[name]["GMNER"]
        assert list(by_iou) == ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90", "0.95"]
        assert [row["correct"] for row in by_iou.values()] == [2] * 5 + [1] * 5
    assert "SMNER" not in sweep["strict"]


def rectangle(width: int, height: int) -> Mask:
    pixels = np.zeros((20, 20), np.uint8, order="F")
    pixels[:height, :width] = 1
    return Mask((20, 20), coco.encode(pixels)["counts"].decode())


@st.composite
def samples(draw):
    entities = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 8))
        end = draw(st.integers(start + 1, 10))
        x, y = draw(st.integers(0, 200)), draw(st.integers(0, 200))
        sides = draw(st.lists(st.integers(20, 100), max_size=3, unique=True))
        boxes = [Box(x, y, x + side, y + side) for side in sides]
        masks = [rectangle(1 + side % 20, 7) for side in sides]
        text = " ".join("abcdefghij"[start:end])
        entity = said(text, draw(st.sampled_from(TYPES)), (start, end), boxes, bool(boxes), masks)
        entities += [entity] * draw(st.integers(1, 2))
    return Sample("", tuple("abcdefghij"), size=(300, 300), entities=tuple(entities))


@settings(deadline=None)
@given(st.lists(samples(), max_size=4), st.sampled_from((0.5, 0.9)))
def test_the_gold_as_prediction_is_right_under_every_protocol(posts, iou):
    gold = [
        replace(sample, id=str(index), entities=tuple(replace(e, masks=()) for e in sample.entities))
        for index, sample in enumerate(posts)
    ]
    candidates = {sample.id: [box for entity in sample.entities for box in entity.boxes] for sample in gold}
    answers = [Prediction(sample.id, entities=sample.entities) for sample in gold]
    for some in (None, candidates):
        result = evaluate(gold, answers, Criteria(NAMES, iou, some))
        for name in NAMES:
            for by_task in result[name].values():
                for row in by_task.values():
                    there = 1.0 if row["gold"] else 0.0
                    assert (row["precision"], row["recall"], row["f1"]) == (there, there, there)


def noisy(rng: random.Random, gold: Sample) -> tuple[Entity, ...]:
    answers = []
    for entity in gold.entities:
        if rng.random() < 0.3:
            entity = replace(entity, type=rng.choice(TYPES[:2]))
        if rng.random() < 0.4:
            entity = replace(entity, visible=None, boxes=rng.choice(((), (SQUARE,), (HALF,), (MORE,), (FAR,))))
        answers += [entity] * rng.choice((0, 1, 1, 1, 2))
    rng.shuffle(answers)
    return tuple(answers)


def posts(rng: random.Random, count: int) -> list[Sample]:
    made = []
    for index in range(count):
        entities = []
        for _ in range(rng.randint(0, 5)):
            start = rng.randrange(5)
            boxes = rng.choice(((), (), (SQUARE,), (SQUARE, FAR)))
            entities.append(said(TOKENS[start], rng.choice(TYPES[:2]), (start, start + 1), boxes, bool(boxes)))
        made.append(Sample(str(index), TOKENS, entities=tuple(entities)))
    return made


def plain_iou(first, second) -> float:
    wide = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    high = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - wide * high
    return wide * high / area if area else 0


def statistic(gold_lines: list[str], said_lines: list[str], typed: bool) -> int:
    """RiVEG's statistic, from the rows as they stand in its files."""
    left, right = list(gold_lines), 0
    for line in said_lines:
        fields = line.split("###")
        key = fields[0].removeprefix("Imageid:").split(".jpg#")[0] + ".jpg" + fields[1]
        for row in left:
            theirs = row.split("###")
            other = theirs[0] + theirs[1]
            if (key if typed else key.split("(")[0]) != (other if typed else other.split("(")[0]):
                continue
            boxes = [[float(edge) for edge in box.strip("[]").split(",")] for box in theirs[-1].split("&")[1:]]
            said_box = [float(edge) for edge in fields[-1].split("&")[-1].strip("[]").split(",")]
            reaches = any(plain_iou(box, said_box) >= 0.5 for box in boxes)
            fits = theirs[-2] == "0" if fields[-2] == "0" else reaches
            if fits:
                right += 1
                left.remove(row)
                break
    return right


@pytest.mark.parametrize("seed", range(5))
def test_riveg_agrees_with_the_statistic_on_its_files(tmp_path, seed):
    rng = random.Random(seed)
    gold = [sample for sample in posts(rng, 60) if sample.entities]
    said = [
        Prediction(
            sample.id, entities=tuple(replace(e, visible=bool(e.boxes), boxes=e.boxes[:1]) for e in noisy(rng, sample))
        )
        for sample in gold
    ]
    write_riveg_gold(tmp_path / "gold.txt", gold)
    write_riveg_predictions(tmp_path / "said.txt", [answer for answer in said if answer.entities])
    lines = [(tmp_path / name).read_text().splitlines() for name in ("gold.txt", "said.txt")]
    answers = read_riveg_predictions(tmp_path / "said.txt")
    scores = evaluate(with_empty_posts(read_riveg_gold(tmp_path / "gold.txt"), answers), answers, Criteria(["riveg"]))[
        "riveg"
    ]["all"]
    for task, typed in (("GMNER", True), ("EEG", False)):
        assert scores[task]["correct"] == statistic(*lines, typed)
        assert (scores[task]["predicted"], scores[task]["gold"]) == (len(lines[1]), len(lines[0]))


@pytest.mark.parametrize("seed", range(5))
def test_mqspn_counts_as_sklearn_does_over_the_union_of_sets(seed):
    # Regions that agree are given the gold's own box, so that triples can be compared as they are.
    rng = random.Random(seed)
    gold = posts(rng, 60)
    answers = [Prediction(sample.id, entities=noisy(rng, sample)) for sample in gold]
    agreeing = {HALF: SQUARE, MORE: SQUARE}

    def triples(entities) -> set:
        return {(e.span, e.type, agreeing.get(box, box)) for e in entities for box in (e.boxes or (None,))}

    wanted, given = [], []
    for sample, answer in zip(gold, answers, strict=True):
        there, here = triples(sample.entities), triples(answer.entities)
        for triple in there | here:
            wanted.append(TYPES.index(triple[1]) + 1 if triple in there else 0)
            given.append(TYPES.index(triple[1]) + 1 if triple in here else 0)
    expected = precision_recall_fscore_support(wanted, given, labels=[1, 2], average="micro")[:3]
    row = evaluate(gold, answers, Criteria(["mqspn"]))["mqspn"]["all"]["GMNER"]
    # A said HALF and MORE of one mention are two triples that reach one gold box; sklearn's union has them as one.
    extra = sum(
        len({(e.span, e.type, box) for e in a.entities for box in (e.boxes or (None,))}) - len(triples(a.entities))
        for a in answers
    )
    assert row["correct"] / row["gold"] == pytest.approx(expected[1])
    assert row["correct"] / (row["predicted"] - extra) == pytest.approx(expected[0])


@pytest.mark.slow
@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="RIVEGS_DATA names no folder of published data")
def test_the_gold_of_twitter_gmner_is_right_under_every_protocol(tmp_path):
    raw = Path(os.environ["RIVEGS_DATA"], "twitter_gmner", "Twitter10000_v2.0")
    build_twitter_gmner(raw, [], tmp_path, without_images=True)
    gold = read_split(tmp_path, "test")
    result = evaluate(gold, [Prediction(sample.id, entities=sample.entities) for sample in gold], Criteria(NAMES))
    for name in NAMES:
        for by_task in result[name].values():
            assert all(row["f1"] == 1 for row in by_task.values() if row["gold"])
    rows = {name: result[name]["all"]["GMNER"]["gold"] for name in NAMES}
    # Each box beyond an entity's first is a target of its own; some entities share mention, type and box.
    assert rows["strict"] == rows["riveg"] == rows["e2e"] == rows["hindex"] == 2543
    assert rows["mqspn"] == 2543 + 1254 - 1046
