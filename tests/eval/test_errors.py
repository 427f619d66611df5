import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from eval.analysis.errors import CORRECT, OUTCOMES, Requirement, correct_errors, error_budget, outcomes_of
from eval.protocols import GMNER, SMNER
from eval.scores import evaluate
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Prediction, Sample

SQUARE = Box(0, 0, 10, 10)
MORE = Box(0, 0, 10, 6)  # IoU 0.6
LITTLE = Box(0, 0, 10, 3)  # 0.3
OTHER = Box(50, 50, 60, 60)
NOWHERE = Box(200, 200, 210, 210)
TOKENS = tuple("abcdefghij")


def said(text="a", kind="PER", boxes=(), visible=None, masks=(), span=None) -> Entity:
    if span is None and text:
        start = TOKENS.index(text[0])
        span = (start, start + len(text.split()))
    return Entity(text, kind, span, visible=visible, boxes=tuple(boxes), masks=tuple(masks))


def rectangle(width: int, height: int) -> Mask:
    pixels = np.zeros((20, 20), np.uint8, order="F")
    pixels[:height, :width] = 1
    return Mask((20, 20), coco.encode(pixels)["counts"].decode())


def names(golds, answers, task=GMNER, errors=()) -> tuple[list[str], list[str]]:
    sample = Sample("1", TOKENS, entities=tuple(golds))
    found = outcomes_of(sample, Prediction("1", entities=tuple(answers), errors=tuple(errors)), Requirement(task))
    return [outcome.name for outcome in found.gold], [outcome.name for outcome in found.predicted]


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        (said("b c"), said("b c"), CORRECT),
        (said("b c", boxes=[SQUARE]), said("b c", boxes=[MORE]), CORRECT),
        (said("b c"), said("a b c"), "boundary_longer"),
        (said("b c"), said("b c d"), "boundary_longer"),
        (said("b c"), said("b"), "boundary_shorter"),
        (said("b c"), said("c d", "ORG"), "boundary_overlap"),
        (said("b c"), replace(said("c d"), span=None), "boundary_overlap"),
        (said("b"), said("b", "ORG"), "type_error"),
        (said("b", boxes=[SQUARE]), said("b", "ORG"), "type_error"),
        (said("b", boxes=[SQUARE]), said("b", visible=False), "missed_grounding"),
        (said("b", boxes=[SQUARE]), said("b", visible=False, boxes=[SQUARE]), "missed_grounding"),
        (said("b", boxes=[SQUARE]), said("b", visible=True), "missed_grounding"),
        (said("b"), said("b", boxes=[SQUARE]), "spurious_grounding"),
        (said("b", boxes=[SQUARE]), said("b", boxes=[LITTLE]), "localisation"),
        (said("b", boxes=[SQUARE]), said("b", boxes=[OTHER]), "confused_entity"),
        (said("b", boxes=[SQUARE]), said("b", boxes=[NOWHERE]), "background"),
        (said("b", boxes=[SQUARE]), said("b", boxes=[Box(10, 10, 0, 0)]), "background"),  # corners swapped
    ],
)
def test_verdicts_of_pairs(gold, answer, outcome):
    another = said("j", boxes=[OTHER])
    assert names([gold, another], [answer, another]) == ([outcome, CORRECT], [outcome, CORRECT])


def test_verdicts_of_those_without_a_partner():
    assert names([said("a"), said("b")], [said("a"), said("a"), said("c")]) == (
        [CORRECT, "missed"], [CORRECT, "duplicate", "spurious"],
    )  # fmt: skip
    assert names([said("a")], [said("c"), said("c")]) == (["missed"], ["spurious", "duplicate"])
    assert names([said("a"), said("b")], [said("a")], errors=["no closing bracket"])[0] == [CORRECT, "parse_error"]
    found = outcomes_of(Sample("1", TOKENS, entities=(said("a"),)), None)
    assert [outcome.name for outcome in found.gold] == ["missed"]


def test_a_right_pair_is_not_spoilt_by_a_wrong_one_of_the_same_mention():
    gold = [said("a", boxes=[SQUARE])]
    assert names(gold, [said("a", "ORG"), said("a", boxes=[OTHER]), said("a", boxes=[MORE])]) == (
        [CORRECT], ["duplicate", "duplicate", CORRECT],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ([rectangle(10, 10)], [rectangle(10, 6)], CORRECT),
        ([rectangle(10, 10)], [rectangle(10, 5)], "mask_error"),
        ([rectangle(10, 10)], [], "mask_error"),
    ],
)
def test_masks(gold, answer, outcome):
    golds = [said("a", boxes=[SQUARE], masks=gold)]
    answers = [said("a", boxes=[SQUARE], masks=answer)]
    assert names(golds, answers, SMNER) == ([outcome], [outcome])
    assert names(golds, answers, GMNER) == ([CORRECT], [CORRECT])
    if answer:
        off = [replace(answers[0], boxes=(LITTLE,), masks=(rectangle(2, 2),))]
        assert names(golds, off, SMNER) == (["localisation"], ["localisation"])


def test_a_budget_by_hand():
    golds = (said("a", boxes=[SQUARE]), said("b"), said("c", boxes=[OTHER]), said("d"), said("e f"))
    answers = (
        said("a", boxes=[LITTLE]),
        said("b", "ORG", boxes=[SQUARE]),  # the type and the box are wrong
        said("c", boxes=[OTHER]),
        said("e"),
        said("h"),
        said("i"),
    )
    budget = error_budget([Sample("1", TOKENS, entities=golds)], [Prediction("1", entities=answers)])
    assert {name: count for name, count in budget["predicted"].items() if count} == {
        CORRECT: 1, "spurious": 2, "boundary_shorter": 1, "type_error": 1, "localisation": 1,
    }  # fmt: skip
    assert {name: count for name, count in budget["gold"].items() if count} == {
        CORRECT: 1, "missed": 1, "boundary_shorter": 1, "type_error": 1, "localisation": 1,
    }  # fmt: skip
    assert budget["f1"] == pytest.approx(2 / 11)
    f1 = {name: row["f1"] for name, row in budget["corrected"].items() if row["gain"]}
    assert f1 == pytest.approx(
        {
            "spurious": 2 / 9,  # two predictions fewer
            "missed": 4 / 12,  # one right prediction more
            "boundary_shorter": 4 / 11,
            "localisation": 4 / 11,
        }
    )
    assert budget["corrected"]["type_error"]["gain"] == 0  # its box would still be wrong
    oracle = budget["oracle"]
    # Boxes: c, and a, are named and seen rightly.
    assert oracle["regions"] == {"f1": pytest.approx(4 / 11), "estimated": 0}
    # Visibility: nothing was said invisible; the box of c is right, that of a is not.
    assert oracle["visibility"] == {"f1": pytest.approx(2 / 11), "estimated": 0}
    # Mentions: of a, b, c one is right when judged without type; d and "e f" are taken to be so as often.
    assert oracle["mentions"] == {"f1": pytest.approx((1 + 2 / 3) / 5), "estimated": 2}


def test_visibility_replaced_takes_unseen_boxes_as_right_as_often_as_seen_ones():
    golds = (said("a", boxes=[SQUARE]), said("b", boxes=[OTHER]), said("c", boxes=[NOWHERE]), said("d"))
    answers = (said("a", boxes=[SQUARE]), said("b", boxes=[SQUARE]), said("c", visible=False), said("d", boxes=[OTHER]))
    budget = error_budget([Sample("1", TOKENS, entities=golds)], [Prediction("1", entities=answers)])
    assert budget["oracle"]["visibility"] == {"f1": pytest.approx((1 + 0.5 + 1) / 4), "estimated": 1}


@st.composite
def posts(draw):
    rng = random.Random(draw(st.integers(0, 10**6)))
    boxes = ((), (), (SQUARE,), (OTHER,), (SQUARE, OTHER))
    masks = ((), (rectangle(10, 10),), (rectangle(3, 3),))

    def entity() -> Entity:
        start = rng.randrange(8)
        end = start + rng.randint(1, 2)
        text = " ".join(TOKENS[start:end])
        found = rng.choice(boxes)
        return said(text, rng.choice(TYPES[:2]), found, None, rng.choice(masks) if found else (), (start, end))

    golds = tuple(entity() for _ in range(rng.randint(0, 4)))
    answers = []
    for gold in (*golds, *(entity() for _ in range(rng.randint(0, 2)))):
        if rng.random() < 0.3:
            gold = replace(gold, type="LOC")
        if rng.random() < 0.3:
            gold = replace(
                gold, boxes=rng.choice(((), (LITTLE,), (NOWHERE,), (OTHER,))), visible=rng.choice((None, False))
            )
        answers += [gold] * rng.choice((0, 1, 1, 1, 2))
    errors = ("cut off",) if rng.random() < 0.3 else ()
    return Sample("", TOKENS, entities=golds), Prediction("", entities=tuple(answers), errors=errors)


@settings(deadline=None)
@given(st.lists(posts(), max_size=5), st.sampled_from((GMNER, SMNER)))
def test_verdicts_add_up_and_agree_with_the_scores(made, task):
    gold = [replace(sample, id=str(index)) for index, (sample, _) in enumerate(made)]
    answers = [replace(prediction, id=str(index)) for index, (_, prediction) in enumerate(made)]
    budget = error_budget(gold, answers, Requirement(task))
    scores = evaluate(gold, answers)["strict"]["all"]
    row = scores.get(task.name)
    assert sum(budget["predicted"].values()) == scores["MNER"]["predicted"]
    assert sum(budget["gold"].values()) == scores["MNER"]["gold"]
    if row:
        assert budget["predicted"][CORRECT] == budget["gold"][CORRECT] == row["correct"]
        assert budget["f1"] == row["f1"]
    for name in set(budget["predicted"]) & set(budget["gold"]):
        assert budget["predicted"][name] == budget["gold"][name]  # these come in pairs
    assert all(entry["gain"] >= -1e-12 for entry in budget["corrected"].values())
    assert set(budget["predicted"]) | set(budget["gold"]) == set(OUTCOMES)
    json.dumps(budget, allow_nan=False)


@settings(deadline=None)
@given(posts())
def test_all_verdicts_mended_give_the_gold(made):
    sample, prediction = made
    for _ in range(8):  # an entity may be wrong in several ways, of which each round mends the first
        outcomes = outcomes_of(sample, prediction)
        wrong = {outcome.name for outcome in (*outcomes.gold, *outcomes.predicted)} - {CORRECT}
        if not wrong:
            break
        prediction = replace(
            prediction, entities=correct_errors(sample, prediction.entities, outcomes, sorted(wrong)[0])
        )
    assert not wrong


def test_the_gold_as_prediction_has_no_error():
    gold = [Sample("1", TOKENS, entities=(said("a", boxes=[SQUARE]), said("b"), said("b")))]
    budget = error_budget(gold, [Prediction("1", entities=gold[0].entities)])
    assert budget["f1"] == 1
    assert {name for name, count in {**budget["predicted"], **budget["gold"]}.items() if count} == {CORRECT}
    assert {row["f1"] for row in budget["oracle"].values()} == {1}
