import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from eval.analysis.calibration import (
    FILE_NAME,
    Calibration,
    best_threshold,
    calibrate,
    fit_temperature,
    read_calibration,
    reliability,
    write_calibration,
)
from eval.scores import evaluate
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

SQUARE, FAR = Box(0, 0, 10, 10), Box(50, 50, 60, 60)


def posts(rows) -> tuple[list[Sample], list[Prediction]]:
    """One post an entity, of (gold visible, score, said boxes)."""
    gold, answers = [], []
    for index, (visible, score, boxes) in enumerate(rows):
        entity = Entity("a", "PER", (0, 1), visible=visible, boxes=(SQUARE,) if visible else ())
        said = replace(entity, visible=None if score is None else score >= 0.5, visible_score=score, boxes=boxes)
        gold.append(Sample(str(index), ("a",), entities=(entity,)))
        answers.append(Prediction(str(index), entities=(said,)))
    return gold, answers


def test_reliability_by_hand():
    gold, answers = posts(
        [(True, 0.9, ()), (False, 0.95, ()), (True, 1.0, ()), (False, 0.1, ()), (False, 0.15, ()), (True, None, ())]
    )
    curve = reliability(gold, answers)
    bins = curve["bins"]
    assert [row["count"] for row in bins] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins[1] == pytest.approx({"low": 0.1, "high": 0.2, "count": 2, "score": 0.125, "visible": 0})
    assert bins[9] == pytest.approx({"low": 0.9, "high": 1, "count": 3, "score": 0.95, "visible": 2 / 3})
    assert curve["ece"] == pytest.approx((2 * 0.125 + 3 * (0.95 - 2 / 3)) / 5)
    assert curve["brier"] == pytest.approx((0.01 + 0.95**2 + 0 + 0.01 + 0.15**2) / 5)
    assert (curve["total"], curve["without_score"]) == (5, 1)


def test_entities_named_wrongly_are_not_judged():
    gold, answers = posts([(True, 0.9, ())])
    wrong = [replace(answers[0], entities=(replace(answers[0].entities[0], type="ORG"),))]
    assert reliability(gold, wrong)["total"] == 0
    assert reliability([], [])["ece"] == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_scores_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    visible = (rng.random(20_000) < 1 / (1 + np.exp(-logits))).astype(float)
    spoilt = 1 / (1 + np.exp(-logits * temperature))
    assert fit_temperature(spoilt, visible) == pytest.approx(temperature, rel=0.05)


def test_the_threshold_by_hand():
    # Said visible from 0.6 on: the two boxes with 0.5 and 0.55 are of entities that are not visible.
    rows = [
        (True, 0.9, (SQUARE,)),
        (True, 0.7, (SQUARE,)),
        (False, 0.55, (FAR,)),
        (False, 0.5, (FAR,)),
        (False, 0.1, ()),
    ]
    gold, answers = posts(rows)
    assert best_threshold(gold, answers) == pytest.approx((0.55 + 0.7) / 2)
    # A box that is wrong anyway moves nothing; what has no box cannot be gained.
    gold, answers = posts([(True, 0.9, (FAR,)), (True, 0.2, ())])
    assert best_threshold(gold, answers) == 0.5
    # A box that was not used, although it is right: the threshold goes below it.
    gold, answers = posts([(True, 0.3, (SQUARE,)), (False, 0.2, (FAR,))])
    assert best_threshold(gold, answers) == pytest.approx(0.25)
    assert best_threshold([], []) == 0.5


def test_the_threshold_is_the_best_of_all_tried():
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(200):
        visible = bool(rng.random() < 0.5)
        score = float(np.clip(rng.normal(0.6 if visible else 0.45, 0.2), 0, 1))
        rows.append((visible, score, (SQUARE if rng.random() < 0.8 else FAR,)))
    gold, answers = posts(rows)

    def f1(threshold: float) -> float:
        decided = [Calibration(1.0, threshold).apply(answer) for answer in answers]
        return evaluate(gold, decided)["strict"]["all"]["GMNER"]["f1"]

    scores = sorted(row[1] for row in rows)
    tried = [0.0, *((a + b) / 2 for a, b in pairwise(scores)), 1.0]
    assert f1(best_threshold(gold, answers)) == max(map(f1, tried))


def test_calibrating_lowers_the_error_and_never_the_score():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, 600)
    visible = rng.random(600) < 1 / (1 + np.exp(-logits + 0.7))
    scores = 1 / (1 + np.exp(-logits * 3))
    gold, answers = posts(list(zip(visible.tolist(), scores.tolist(), [(SQUARE,)] * 600, strict=True)))
    calibration, figures = calibrate(gold, answers)
    assert calibration.temperature > 1.5
    assert calibration.threshold > 0.5
    assert figures["ece"][1] < figures["ece"][0]
    assert figures["gmner_f1"][1] > figures["gmner_f1"][0]
    assert figures["entities"] == figures["posts"] == 600


def test_a_temperature_that_does_not_help_is_not_taken():
    # Well calibrated but for one score of almost 1 that is wrong: likelihood alone would cool all of them down.
    rows = [(True, 0.9, (SQUARE,))] * 90 + [(False, 0.9, ())] * 10 + [(False, 0.1, ())] * 90 + [(True, 0.1, ())] * 10
    calibration, figures = calibrate(*posts([*rows, (False, 1.0, ())]))
    assert calibration.temperature == 1
    assert figures["ece"][1] == pytest.approx(figures["ece"][0], abs=1e-6)


def test_a_decision_that_comes_too_late_is_not_made():
    calibration = Calibration(threshold=0.2)
    said = Entity("a", "PER", visible=False, visible_score=0.3)
    (after,) = calibration.apply(Prediction("1", entities=(said,))).entities
    assert after.visible is False
    (boxed,) = calibration.apply(Prediction("1", entities=(replace(said, boxes=(SQUARE,)),))).entities
    assert boxed.visible is True
    untouched = Prediction("1", entities=(Entity("a", "PER", boxes=(SQUARE,)),))
    assert calibration.apply(untouched) == untouched


def test_probability_keeps_the_ends_and_the_order():
    warm = Calibration(temperature=2.0)
    assert warm.probability(0.5) == 0.5
    assert 0 < warm.probability(0) < warm.probability(0.3) < 0.5 < warm.probability(0.9) < 0.9
    assert warm.probability(1) < 1
    assert Calibration().probability(0.3) == pytest.approx(0.3)


def test_the_file(tmp_path):
    assert read_calibration(tmp_path) is None
    path = write_calibration(tmp_path, Calibration(1.7, 0.4), {"posts": 3})
    assert path.name == FILE_NAME
    assert read_calibration(tmp_path) == Calibration(1.7, 0.4)
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]
    with pytest.raises(UserError, match="delete it"):
        write_calibration(tmp_path, Calibration(), {})
    with pytest.raises(UserError, match="no such folder"):
        write_calibration(tmp_path / "none", Calibration(), {})
    raw = json.loads(path.read_text())
    for broken in ("{", "[]", "{}", json.dumps({**raw, "version": 9}), json.dumps({**raw, "temperature": 0})):
        path.write_text(broken)
        with pytest.raises(UserError, match=FILE_NAME):
            read_calibration(tmp_path)


def test_nothing_to_fit_on_is_named():
    gold, answers = posts([(True, None, (SQUARE,)), (False, None, ())])
    with pytest.raises(UserError, match="visible_score"):
        calibrate(gold, answers)
    gold, answers = posts([(True, 0.5, (SQUARE,)), (True, 0.7, ())])
    with pytest.raises(UserError, match="2 visible of 2"):
        calibrate(gold, answers)
