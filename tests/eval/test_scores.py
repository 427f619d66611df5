import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from rich.console import Console
from sklearn.metrics import precision_recall_fscore_support

from eval.protocols import PROTOCOLS, Criteria
from eval.report.tables import format_scores
from eval.scores import evaluate
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Prediction, Sample, UserError

SQUARE = Box(0, 0, 10, 10)
HALF = Box(0, 0, 10, 5)  # IoU with SQUARE is exactly 0.5
MORE = Box(0, 0, 10, 6)  # 0.6
FAR = Box(50, 50, 60, 60)
TOKENS = tuple("abcdefghij")


def said(text="a", kind="PER", span=None, boxes=(), visible=None, masks=()) -> Entity:
    return Entity(text, kind, span, visible=visible, boxes=tuple(boxes), masks=tuple(masks))


def counts(golds, predicted, task, subset="all") -> tuple[int, int, int]:
    row = evaluate([Sample("1", TOKENS, entities=tuple(golds))], [Prediction("1", entities=tuple(predicted))])
    row = row["strict"][subset][task]
    return row["correct"], row["predicted"], row["gold"]


def rectangle(width: int, height: int) -> Mask:
    """A mask of 20 x 20 pixels whose upper left ``width`` x ``height`` are set."""
    pixels = np.zeros((20, 20), np.uint8, order="F")
    pixels[:height, :width] = 1
    code = coco.encode(pixels)
    return Mask((20, 20), code["counts"].decode())


@pytest.mark.parametrize(
    ("gold", "predicted", "mner", "gmner", "eeg"),
    [
        pytest.param(said(), said(), 1, 1, 1, id="no region on either side"),
        pytest.param(said(), said(kind="ORG"), 0, 0, 1, id="EEG has no type"),
        pytest.param(said(), said("A"), 0, 0, 0, id="case counts"),
        pytest.param(said(), said("a "), 0, 0, 0, id="the string is exact"),
        pytest.param(said(), said(boxes=[SQUARE]), 1, 0, 0, id="box where the gold has none"),
        pytest.param(said(boxes=[SQUARE]), said(), 1, 0, 0, id="no box where the gold has one"),
        pytest.param(said(boxes=[SQUARE]), said(boxes=[MORE]), 1, 1, 1, id="IoU 0.6"),
        pytest.param(said(boxes=[SQUARE]), said(boxes=[HALF]), 1, 0, 0, id="IoU of exactly 0.5 is not above it"),
        pytest.param(said(boxes=[SQUARE]), said(boxes=[FAR]), 1, 0, 0, id="another object"),
        pytest.param(said(boxes=[FAR, SQUARE]), said(boxes=[MORE]), 1, 1, 1, id="any of the gold boxes"),
        pytest.param(said(boxes=[SQUARE]), said(boxes=[FAR, SQUARE]), 1, 0, 0, id="the first predicted box counts"),
        pytest.param(said(boxes=[SQUARE]), said(boxes=[SQUARE, FAR]), 1, 1, 1, id="later boxes cost nothing"),
        pytest.param(said(), said(boxes=[SQUARE], visible=False), 1, 1, 1, id="said invisible: its box is none"),
        pytest.param(
            said(boxes=[SQUARE]), said(boxes=[SQUARE], visible=False), 1, 0, 0, id="said invisible: the box is lost"
        ),
        pytest.param(said(), said(visible=True), 1, 1, 1, id="said visible without a box: no region"),
        pytest.param(said(visible=True), said(), 1, 1, 1, id="gold visible without a box: no region"),
        pytest.param(said(boxes=[SQUARE]), said(kind="ORG", boxes=[MORE]), 0, 0, 1, id="type wrong, box right"),
        pytest.param(said(span=(0, 1)), said(span=(0, 1)), 1, 1, 1, id="equal spans"),
        pytest.param(said(span=(0, 1)), said(span=(1, 2)), 0, 0, 0, id="spans differ, strings do not"),
        pytest.param(said(span=(0, 1)), said("b", span=(0, 1)), 1, 1, 1, id="strings differ, spans do not"),
        pytest.param(said(span=(0, 1)), said(), 1, 1, 1, id="one span only: the string decides"),
        pytest.param(said(), said("b", span=(0, 1)), 0, 0, 0, id="one span only: the string differs"),
    ],
)
def test_one_entity_under_the_strict_protocol(gold, predicted, mner, gmner, eeg):
    assert counts([gold], [predicted], "MNER") == (mner, 1, 1)
    assert counts([gold], [predicted], "GMNER") == (gmner, 1, 1)
    assert counts([gold], [predicted], "EEG") == (eeg, 1, 1)


def test_figures_worked_out_by_hand():
    gold = [
        Sample("1", TOKENS, entities=(said("a", boxes=[SQUARE]), said("b", "LOC"), said("c", "ORG"))),
        Sample("2", TOKENS, entities=(said("d", "PER"),)),
    ]
    answers = [
        Prediction("1", entities=(said("a", boxes=[MORE]), said("b", "ORG"))),
        Prediction("2", entities=(said("d", boxes=[FAR]), said("e"), said("f"))),
    ]
    scores = evaluate(gold, answers)["strict"]
    # MNER: a and d of five said and four there. GMNER: a. EEG: a and b.
    assert scores["all"]["MNER"] == pytest.approx(
        {"correct": 2, "predicted": 5, "gold": 4, "precision": 2 / 5, "recall": 2 / 4, "f1": 4 / 9}
    )
    assert scores["all"]["GMNER"] == pytest.approx(
        {"correct": 1, "predicted": 5, "gold": 4, "precision": 1 / 5, "recall": 1 / 4, "f1": 2 / 9}
    )
    assert scores["all"]["EEG"]["correct"] == 2
    # By type: the ORG said of b meets the gold ORG c alone.
    assert list(scores)[:4] == ["all", "type:PER", "type:LOC", "type:ORG"]
    assert [scores["type:PER"]["MNER"][key] for key in ("correct", "predicted", "gold")] == [2, 4, 2]
    assert [scores["type:LOC"]["EEG"][key] for key in ("correct", "predicted", "gold")] == [0, 0, 1]
    assert [scores["type:ORG"]["EEG"][key] for key in ("correct", "predicted", "gold")] == [0, 1, 1]


def test_repeated_mentions_are_a_multiset():
    twice = [said(span=(0, 1)), said(span=(3, 4))]
    assert counts(twice, [said(), said(), said()], "MNER") == (2, 3, 2)
    assert counts(twice, [said()], "MNER") == (1, 1, 2)
    assert counts(twice, [said(span=(3, 4)), said(span=(3, 4))], "MNER") == (1, 2, 2)


def test_repeated_mentions_with_boxes_need_more_than_first_come():
    # The first prediction agrees with both gold entities, the second with the first gold entity alone.
    golds = [said(boxes=[SQUARE, FAR]), said(boxes=[SQUARE])]
    predicted = [said(boxes=[MORE]), said(boxes=[FAR])]
    assert counts(golds, predicted, "GMNER") == (2, 2, 2)
    assert counts(golds[::-1], predicted[::-1], "EEG") == (2, 2, 2)


@pytest.mark.parametrize(
    ("gold", "predicted", "correct"),
    [
        pytest.param([], [], 1, id="no mask on either side"),
        pytest.param([], [rectangle(4, 4)], 0, id="mask where the gold has none"),
        pytest.param([rectangle(4, 4)], [], 0, id="no mask where the gold has one"),
        pytest.param([rectangle(10, 10)], [rectangle(10, 6)], 1, id="pixel IoU 0.6"),
        pytest.param([rectangle(10, 10)], [rectangle(10, 5)], 0, id="pixel IoU of exactly 0.5"),
        pytest.param([rectangle(1, 1), rectangle(10, 10)], [rectangle(10, 9)], 1, id="any of the gold masks"),
        pytest.param([rectangle(10, 10)], [rectangle(1, 1), rectangle(10, 10)], 0, id="the first mask counts"),
    ],
)
def test_masks(gold, predicted, correct):
    # The second entity holds the masks that make the tasks come; boxes play no part.
    other = said("z", masks=[rectangle(3, 3)])
    golds = [said(masks=gold, boxes=[SQUARE]), other]
    answers = [said(masks=predicted, boxes=[FAR]), other]
    assert counts(golds, answers, "SMNER") == (correct + 1, 2, 2)
    assert counts(golds, answers, "GMNER") == (1, 2, 2)
    assert counts(golds, [replace(answers[0], type="ORG"), other], "EES") == (correct + 1, 2, 2)


def test_the_mask_of_an_entity_said_invisible_is_none():
    # a has a gold mask and loses it, b has none and is right.
    golds = [said("a", masks=[rectangle(5, 5)]), said("b")]
    answers = [replace(entity, visible=False, masks=(rectangle(5, 5),)) for entity in golds]
    assert counts(golds, answers, "SMNER") == counts(golds, answers, "EES") == (1, 2, 2)
    assert counts(golds[1:] + golds[:1], [answers[1], replace(answers[0], visible=None)], "SMNER") == (2, 2, 2)


def test_mask_tasks_need_masks_on_both_sides():
    masked, plain = said(masks=[rectangle(5, 5)]), said()
    for golds, predicted, there in (([masked], [plain], False), ([plain], [masked], False), ([masked], [masked], True)):
        result = evaluate([Sample("1", TOKENS, entities=tuple(golds))], [Prediction("1", entities=tuple(predicted))])
        assert ("SMNER" in result["strict"]["all"]) == ("EES" in result["strict"]["all"]) == there


def test_a_mask_that_does_not_fit_names_its_post():
    gold = [Sample("p7", TOKENS, size=(20, 20), entities=(said(masks=[rectangle(5, 5)]),))]
    broken = said(masks=[Mask((20, 20), "04")])
    with pytest.raises(UserError, match="p7"):
        evaluate(gold, [Prediction("p7", entities=(broken,))])
    empty = replace(gold[0], entities=(said(masks=[rectangle(0, 0)]),))
    with pytest.raises(UserError, match="no area"):
        evaluate([empty], [Prediction("p7", entities=gold[0].entities)])


@st.composite
def samples(draw):
    entities = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 8))
        end = draw(st.integers(start + 1, 10))
        x, y = draw(st.floats(0, 500)), draw(st.floats(0, 500))
        sides = draw(st.lists(st.floats(1, 400), max_size=3))
        boxes = tuple(Box(x, y, x + side, y + side) for side in sides)
        masks = tuple(rectangle(1 + int(side) % 20, 7) for side in sides)
        entity = said("".join(TOKENS[start:end]), draw(st.sampled_from(TYPES)), (start, end), boxes, bool(boxes), masks)
        entities += [entity] * draw(st.integers(1, 2))
    return Sample("", TOKENS, entities=tuple(entities), subset=draw(st.sampled_from(("", "seen", "unseen"))))


@given(st.lists(samples(), max_size=4), st.booleans())
def test_the_gold_as_prediction_is_right_everywhere(posts, with_spans):
    gold = [replace(sample, id=str(index)) for index, sample in enumerate(posts)]
    answers = [
        Prediction(
            sample.id,
            entities=sample.entities if with_spans else tuple(replace(entity, span=None) for entity in sample.entities),
        )
        for sample in gold
    ]
    result = evaluate(gold, answers)
    for by_task in result["strict"].values():
        for row in by_task.values():
            there = 1.0 if row["gold"] else 0.0
            assert (row["precision"], row["recall"], row["f1"]) == (there, there, there)
    for stages in result["stages"].values():
        assert stages["entailment"]["correct"] == stages["entailment"]["total"]
        assert stages["grounding"]["correct"] == stages["grounding"]["total"]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        ([], []),
        ([Sample("1", TOKENS)], []),
        ([Sample("1", TOKENS)], [Prediction("1")]),
        ([Sample("1", TOKENS)], [Prediction("1", entities=(said(),))]),
        ([Sample("1", TOKENS, entities=(said(),))], [Prediction("1")]),
    ],
)
def test_nothing_to_divide_by_is_zero(gold, answers):
    result = evaluate(gold, answers)
    for row in result["strict"]["all"].values():
        assert [row[key] for key in ("precision", "recall", "f1")] == [0, 0, 0]
    json.dumps(result, allow_nan=False)
    Console(quiet=True).print(format_scores(result))


def test_subsets_of_posts():
    gold = [
        Sample("1", TOKENS, entities=(said(),), subset="seen"),
        Sample("2", TOKENS, entities=(said(), said("b")), subset="unseen"),
        Sample("3", TOKENS, entities=(said(),)),
    ]
    scores = evaluate(gold, [Prediction("1", entities=(said(),)), Prediction("2", entities=(said("b"),))])["strict"]
    got = {name: [scores[name]["MNER"][key] for key in ("correct", "predicted", "gold")] for name in scores}
    assert got == {
        "all": [2, 2, 4],
        "seen": [1, 1, 1],
        "unseen": [1, 1, 2],
        "type:PER": [2, 2, 4],
        "entities:1": [1, 1, 2],
        "entities:2": [1, 1, 2],
        "box:none": [2, 2, 4],
        "mention:once": [2, 2, 4],
    }


def test_sorts_of_entities_by_hand():
    small, medium, large = Box(0, 0, 31, 31), Box(0, 0, 32, 32), Box(0, 0, 96, 96)
    golds = (
        said("a", span=(0, 1), boxes=[small]),
        said("a", span=(3, 4), boxes=[medium]),
        said("b", span=(1, 2), boxes=[large]),
        said("c", span=(2, 3)),
    )
    answers = (
        said("a", span=(0, 1), boxes=[Box(0, 0, 34, 31)]),  # right: counts as its small gold
        said("a", span=(3, 4), boxes=[large]),  # IoU 1/9: its own size counts
        said("b", span=(1, 2)),
    )
    scores = evaluate([Sample("1", TOKENS, entities=golds)], [Prediction("1", entities=answers)])["strict"]
    got = {name: [scores[name]["GMNER"][key] for key in ("correct", "predicted", "gold")] for name in scores}
    assert got == {
        "all": [1, 3, 4],
        "type:PER": [1, 3, 4],
        "entities:3+": [1, 3, 4],
        "box:none": [0, 1, 1],
        "box:small": [1, 1, 1],
        "box:medium": [0, 0, 1],
        "box:large": [0, 1, 1],
        "mention:once": [0, 1, 2],
        "mention:repeated": [1, 2, 2],
    }
    assert [scores["mention:repeated"]["MNER"][key] for key in ("correct", "predicted", "gold")] == [2, 2, 2]


def test_a_subset_may_not_take_a_name_of_the_scores():
    with pytest.raises(UserError, match="'all'"):
        evaluate([Sample("1", TOKENS, subset="all")], [])


def test_missing_and_unreadable_answers_are_counted_and_listed():
    gold = [Sample(name, TOKENS, entities=(said(),)) for name in "123"]
    result = evaluate(gold, [Prediction("2", entities=(said(),), errors=("no closing bracket",))])
    assert result["missing_predictions"] == {"count": 2, "ids": ["1", "3"]}
    assert result["unreadable_answers"] == {"count": 1, "ids": ["2"]}
    assert result["strict"]["all"]["MNER"]["recall"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("gold_ids", "ids", "protocols", "message"),
    [
        ("1", "2", ("strict",), "'2' is not in the gold"),
        ("1", "11", ("strict",), "'1' comes twice"),
        ("11", "1", ("strict",), "'1' comes twice"),
        ("1", "1", ("lenient",), "'lenient'.*strict"),
    ],
)
def test_mistakes_are_named(gold_ids, ids, protocols, message):
    with pytest.raises(UserError, match=message):
        evaluate([Sample(i, TOKENS) for i in gold_ids], [Prediction(i) for i in ids], Criteria(protocols))


def test_stages_judge_what_is_named_rightly():
    golds = (
        said("a", boxes=[SQUARE], visible=True),  # said visible, IoU 0.6
        said("b", boxes=[SQUARE], visible=True),  # said visible, IoU 0
        said("c", boxes=[SQUARE], visible=True),  # said invisible
        said("d", visible=False),  # said invisible
        said("e", visible=False),  # boxed
        said("f", boxes=[SQUARE], visible=True),  # type wrong: not judged
        said("g", boxes=[SQUARE], visible=True),  # visible, but no box: IoU 0
    )
    answers = (
        said("a", boxes=[MORE], visible=True),
        said("b", boxes=[FAR]),
        said("c", visible=False),
        said("d"),
        said("e", boxes=[FAR]),
        said("f", "ORG", boxes=[SQUARE]),
        said("g", visible=True),
    )
    stages = evaluate([Sample("1", TOKENS, entities=golds)], [Prediction("1", entities=answers)])["stages"]
    seen, boxed = stages["all"]["entailment"], stages["all"]["grounding"]
    assert [seen[key] for key in ("correct", "total", "accuracy", "unmatched")] == [4, 6, pytest.approx(4 / 6), 1]
    assert boxed == pytest.approx(
        {"correct": 1, "total": 3, "precision": 1 / 3, "mean_iou": 0.6 / 3, "said_invisible": 1, "unmatched": 1}
    )
    assert stages["type:ORG"]["entailment"]["total"] == 0


def test_stages_leave_out_gold_without_a_decision():
    result = evaluate([Sample("1", TOKENS, entities=(said(),))], [Prediction("1", entities=(said(),))])
    assert result["stages"]["all"]["entailment"]["total"] == 0


def test_mner_is_what_scikit_learn_gives():
    rng = random.Random(3)
    gold_spans = [_random_spans(rng) for _ in range(300)]
    said_spans = [
        {span for span in own if rng.random() < 0.8} | {span for span in _random_spans(rng) if rng.random() < 0.2}
        for own in gold_spans
    ]
    gold = [Sample(str(i), TOKENS, entities=_entities(own)) for i, own in enumerate(gold_spans)]
    answers = [Prediction(str(i), entities=_entities(own)) for i, own in enumerate(said_spans)]
    scores = evaluate(gold, answers)["strict"]
    assert 0.2 < scores["all"]["MNER"]["f1"] < 0.9
    for subset, types in {"all": TYPES, **{f"type:{kind}": (kind,) for kind in TYPES}}.items():
        true = {(i, *span) for i, own in enumerate(gold_spans) for span in own if span[2] in types}
        found = {(i, *span) for i, own in enumerate(said_spans) for span in own if span[2] in types}
        either = sorted(true | found)
        *expected, _ = precision_recall_fscore_support(
            [span in true for span in either], [span in found for span in either], average="binary"
        )
        row = scores[subset]["MNER"]
        assert row["gold"] == len(true)
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(expected, abs=1e-12)


def _random_spans(rng: random.Random) -> set[tuple[int, int, str]]:
    """Spans of TOKENS that do not overlap, with their types."""
    edges = sorted(rng.sample(range(len(TOKENS) + 1), rng.randint(2, 6)))
    return {(start, end, rng.choice(TYPES)) for start, end in zip(edges[::2], edges[1::2], strict=False)}


def _entities(spans: set[tuple[int, int, str]]) -> tuple[Entity, ...]:
    return tuple(Entity(" ".join(TOKENS[start:end]), kind, (start, end)) for start, end, kind in sorted(spans))


def test_the_table_has_percents_with_two_decimals_and_takes_names_as_they_are():
    gold = [Sample("1", TOKENS, entities=(said(), said("b"), said("c", "[red]X")), subset="[bold]")]
    result = evaluate(gold, [Prediction("1", entities=(said(), said("b")))])
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(format_scores(result, subsets=True))
    text = console.export_text()
    assert "66.67" in text  # recall 2 / 3
    assert "80.00" in text  # F1 of P 1, R 2 / 3
    assert "[bold]" in text
    assert "type:[red]X" in text


def test_the_protocols_are_offered_by_name():
    assert list(PROTOCOLS) == ["strict", "riveg", "e2e", "hindex", "mqspn"]
