import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from eval.stage_metrics import (
    entailment_scores,
    grounding_scores,
    proposal_scores,
    segmentation_scores,
    span_scores,
    stage_scores,
)
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

SQUARE = Box(0, 0, 10, 10)
HALF = Box(0, 0, 10, 5)  # IoU with SQUARE is exactly 0.5
MORE = Box(0, 0, 10, 6)  # 0.6
FAR = Box(50, 50, 60, 60)
TOKENS = tuple("abcdefghij")


def rectangle(width: int, height: int) -> Mask:
    pixels = np.zeros((20, 20), np.uint8, order="F")
    pixels[:height, :width] = 1
    return Mask((20, 20), coco.encode(pixels)["counts"].decode())


GOLD = [
    Sample(
        "1",
        TOKENS,
        entities=(
            Entity("a", "PER", (0, 1), visible=True, boxes=(SQUARE,), masks=(rectangle(10, 10),)),
            Entity("b", "LOC", (1, 2), visible=False),
            Entity("c", "ORG", (2, 3), visible=True, boxes=(FAR, SQUARE), masks=(rectangle(4, 4),)),
        ),
    ),
    Sample("2", TOKENS, entities=(Entity("d", "PER", (3, 4), visible=True, boxes=(SQUARE,)),)),
    Sample("3", TOKENS, entities=(Entity("e", "PER", (4, 5), visible=False), Entity("f", "PER", (5, 6)))),
]
SAID = [
    Prediction(
        "1",
        entities=(
            Entity("a", "PER", (0, 1), visible=True, boxes=(MORE,), masks=(rectangle(10, 8),)),  # IoU 0.6, mask 0.8
            Entity("b", "LOC", (1, 2), visible=True, boxes=(FAR,)),  # boxed, but not visible
            Entity("c", "ORG", (2, 3), visible=False),  # visible, but said not
        ),
    ),
    Prediction("2", entities=(Entity("d", "ORG", (3, 4), visible=True, boxes=(SQUARE,)),)),  # type wrong
    Prediction("3", entities=(Entity("e", "PER", (4, 5)), Entity("f", "PER", (5, 6)))),  # no decision, no box
]


def test_entailment_by_hand():
    assert entailment_scores(GOLD, SAID) == {
        "correct": 2,  # a visible, e invisible
        "total": 4,  # d has another type, f no gold decision
        "accuracy": 0.5,
        "confusion": {"visible": {"visible": 1, "invisible": 1}, "invisible": {"visible": 1, "invisible": 1}},
        "unmatched": 1,
    }


def test_grounding_by_hand():
    figures = grounding_scores(GOLD, SAID)
    assert figures == {
        "correct": 1,
        "total": 1,
        "precision": 1,
        "mean_iou": pytest.approx(0.6),
        "said_invisible": 1,
        "unmatched": 1,
    }
    assert grounding_scores(GOLD, SAID, iou=0.6)["correct"] == 0


def test_a_grounder_behind_gold_spans_is_judged_on_every_visible_entity():
    boxes = iter(([HALF], [SQUARE], []))  # exactly 0.5; the second gold box; nothing found
    drafts = [
        Prediction(
            sample.id,
            entities=tuple(
                replace(entity, boxes=tuple(next(boxes)) if entity.visible else ()) for entity in sample.entities
            ),
        )
        for sample in GOLD
    ]
    figures = grounding_scores(GOLD, drafts)
    assert (figures["correct"], figures["total"]) == (1, 3)
    assert figures["mean_iou"] == pytest.approx(0.5)


def test_masks_by_hand():
    figures = segmentation_scores(GOLD, SAID)
    assert (figures["total"], figures["mean_iou"], figures["said_invisible"]) == (1, pytest.approx(0.8), 1)


def test_spans_leave_the_type_out():
    figures = span_scores(GOLD, SAID[:2])
    assert (figures["correct"], figures["predicted"], figures["gold"]) == (4, 4, 6)
    twice = [Prediction("2", entities=SAID[1].entities * 2)]
    assert (span_scores(GOLD, twice)["correct"], span_scores(GOLD, twice)["predicted"]) == (1, 2)


def test_a_proposer_by_hand():
    proposals = {"1": (FAR, SQUARE), "2": (FAR, HALF, FAR, MORE), "3": ()}
    # a is met by the second box, c by the first, d by the fourth: the box before it reaches 0.5 and not more.
    assert proposal_scores(GOLD, proposals, (1, 2, 3, 4)) == {
        "total": 3,
        "top": {
            1: {"correct": 1, "precision": pytest.approx(1 / 3)},
            2: {"correct": 2, "precision": pytest.approx(2 / 3)},
            3: {"correct": 2, "precision": pytest.approx(2 / 3)},
            4: {"correct": 3, "precision": 1},
        },
    }
    with pytest.raises(UserError, match="'3'"):
        proposal_scores(GOLD, {"1": (), "2": ()}, (1,))


def test_the_gold_as_prediction_is_right_at_every_stage():
    figures = stage_scores(GOLD, [Prediction(sample.id, entities=sample.entities) for sample in GOLD])
    assert figures["span"]["f1"] == figures["entailment"]["accuracy"] == 1
    assert figures["grounding"]["precision"] == figures["grounding"]["mean_iou"] == 1
    assert figures["segmentation"]["mean_iou"] == 1
    assert stage_scores(GOLD[1:], SAID[1:])["segmentation"] is None
    json.dumps(stage_scores(GOLD, []), allow_nan=False)


def test_ids_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="'9' is not in the gold"):
        stage_scores(GOLD, [Prediction("9")])
    with pytest.raises(UserError, match="'1' comes twice"):
        entailment_scores(GOLD, [SAID[0], SAID[0]])
