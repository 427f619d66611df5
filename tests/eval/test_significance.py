import itertools
from dataclasses import replace

import numpy as np
import pytest

from eval.analysis.significance import Resampling, bootstrap_test, compare, f1_intervals, f1_of, interval, resampled
from eval.report.tables import too_few
from eval.scores import evaluate
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

SQUARE, FAR = Box(0, 0, 10, 10), Box(50, 50, 60, 60)


def made(count: int, share_right: float, seed: int) -> tuple[list[Sample], list[Prediction]]:
    """Posts of one or two entities, each of which is predicted rightly with the probability given."""
    rng = np.random.default_rng(seed)
    gold, answers = [], []
    for index in range(count):
        entities = tuple(
            Entity("ab"[place], "PER", (place, place + 1), visible=True, boxes=(SQUARE,))
            for place in range(rng.integers(1, 3))
        )
        said = tuple(e if rng.random() < share_right else replace(e, boxes=(FAR,)) for e in entities)
        gold.append(Sample(str(index), ("a", "b"), entities=entities, subset=("seen", "unseen")[index % 2]))
        answers.append(Prediction(str(index), entities=said))
    return gold, answers


def worse(answers, share: float, seed: int = 1) -> list[Prediction]:
    """The same with that share of entities spoilt."""
    rng = np.random.default_rng(seed)
    return [
        replace(a, entities=tuple(replace(e, boxes=(FAR,)) if rng.random() < share else e for e in a.entities))
        for a in answers
    ]


def test_two_copies_of_one_system():
    gold, answers = made(100, 0.7, 0)
    row = compare(gold, [answers], [list(answers)], resampling=Resampling(200))["strict"]["GMNER"]
    assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)
    assert row["verdict"] == "no difference shown"


def test_a_clear_difference_and_which_side_it_is_on():
    gold, answers = made(300, 0.9, 0)
    spoilt = worse(answers, 0.3)
    rows = compare(gold, [spoilt], [answers], resampling=Resampling(500))["strict"]
    row = rows["GMNER"]
    assert row["verdict"] == "B is better"
    assert row["p"] < 0.01
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert row["difference"] == pytest.approx(row["b"]["f1"] - row["a"]["f1"])
    assert row["b"]["f1"] == evaluate(gold, answers)["strict"]["all"]["GMNER"]["f1"]
    assert rows["MNER"]["verdict"] == "no difference shown"  # the names are the same
    assert compare(gold, [answers], [spoilt], resampling=Resampling(500))["strict"]["GMNER"]["verdict"] == "A is better"


def test_a_difference_of_one_post_may_be_chance():
    gold, answers = made(100, 0.7, 0)
    other = [replace(answers[0], entities=()), *answers[1:]]
    row = compare(gold, [answers], [other], resampling=Resampling(500))["strict"]["GMNER"]
    assert row["p"] > 0.05
    assert row["verdict"] == "no difference shown"


def test_several_seeds():
    gold, best = made(200, 0.9, 0)
    first = [worse(best, 0.2, seed) for seed in range(3)]
    second = [worse(best, 0.02, seed) for seed in range(3, 5)]
    row = compare(gold, first, second, resampling=Resampling(500))["strict"]["GMNER"]
    scores = [evaluate(gold, run)["strict"]["all"]["GMNER"]["f1"] for run in first]
    assert row["a"]["runs"] == scores
    assert row["a"]["f1"] == pytest.approx(np.mean(scores))
    assert row["a"]["deviation"] == pytest.approx(np.std(scores, ddof=1))
    assert row["verdict"] == "B is better"
    assert compare(gold, [first[0]], second, resampling=Resampling(50))["strict"]["GMNER"]["a"]["deviation"] is None
    # Seeds are drawn too: two that differ much widen the interval beyond that of one.
    apart = compare(gold, [best], [best, worse(best, 0.5)], resampling=Resampling(500))["strict"]["GMNER"]
    assert apart["low"] < -0.3
    assert apart["high"] == pytest.approx(0, abs=0.02)


def test_the_same_seed_gives_the_same_figures():
    gold, answers = made(50, 0.7, 0)
    assert f1_intervals(gold, answers, resampling=Resampling(120)) == f1_intervals(
        gold, answers, resampling=Resampling(120)
    )
    assert f1_intervals(gold, answers, resampling=Resampling(120)) != f1_intervals(
        gold, answers, resampling=Resampling(120, 1)
    )


def test_intervals_of_every_subset_hold_its_f1():
    gold, answers = made(200, 0.7, 0)
    scores = evaluate(gold, answers)["strict"]
    intervals = f1_intervals(gold, answers, resampling=Resampling(300))["strict"]
    assert list(intervals) == list(scores)
    for name, by_task in intervals.items():
        for task, row in by_task.items():
            assert row["f1"] == pytest.approx(scores[name][task]["f1"])
            assert row["low"] is None or row["low"] <= row["f1"] <= row["high"]
    assert intervals["all"]["GMNER"]["low"] is not None
    assert intervals["all"]["MNER"] == {"f1": 1, "low": None, "high": None}  # every name is right in every draw


@pytest.mark.parametrize("count", range(1, 9))
def test_p_is_never_less_than_a_sign_flip_over_so_few_posts_can_give(count):
    gold, answers = made(count, 1.0, 0)
    nothing = worse(answers, 1.0)
    row = compare(gold, [nothing], [answers])["strict"]["GMNER"]
    assert row["p"] == pytest.approx(min(1, 2 ** (1 - count)))
    assert row["verdict"] == ("B is better" if count > 5 else "no difference shown")
    assert (row["low"], row["high"]) == (None, None)
    several = compare(gold, [nothing, nothing], [answers])["strict"]["GMNER"]
    assert several["p"] >= row["p"] - 1e-12


def test_the_exact_test_is_that_of_all_ways_to_swap():
    gold, answers = made(9, 0.5, 3)
    other = worse(answers, 0.4, 5)
    row = compare(gold, [answers], [other])["strict"]["GMNER"]
    observed, as_far, ways = abs(row["difference"]), 0, 0
    for swaps in itertools.product((False, True), repeat=9):
        sides = [[b if swap else a for a, b, swap in zip(one, two, swaps, strict=True)] for one, two in
                 ((answers, other), (other, answers))]  # fmt: skip
        f1 = [evaluate(gold, side)["strict"]["all"]["GMNER"]["f1"] for side in sides]
        as_far += abs(f1[1] - f1[0]) >= observed - 1e-9
        ways += 1
    assert row["p"] == pytest.approx(as_far / ways)


def test_no_interval_and_a_warning_for_few_posts():
    for count, few in ((5, True), (60, False)):
        gold, answers = made(count, 0.7, 1)
        row = f1_intervals(gold, answers)["strict"]["all"]["GMNER"]
        assert (row["low"] is None) == few
        notes = too_few(evaluate(gold, answers))
        assert bool(notes) == few
    assert "only 5 posts" in too_few(evaluate(*made(5, 0.7, 1)))[0]
    gold, answers = made(40, 0.7, 1)
    gold = [replace(one, subset="unseen" if number < 3 else "seen") for number, one in enumerate(gold)]
    (note,) = too_few(evaluate(gold, answers))
    assert note.startswith("unseen: only")


def test_draws_are_of_whole_posts():
    counts = np.array([[[1, 2, 3]], [[10, 20, 30]]])  # two posts, one task
    drawn = resampled(counts, Resampling(400, 0))
    assert drawn.shape == (400, 1, 3)
    assert {tuple(row[0]) for row in drawn} == {(2, 4, 6), (11, 22, 33), (20, 40, 60)}
    assert 150 < sum(row[0, 0] == 11 for row in drawn) < 250  # one draw in two


def test_intervals_cover_what_a_simulation_says():
    # 300 times a file of 150 posts, right with 0.7 each: F1 is 2 x 0.7 / (1 + 1) = 0.7 where as many are said.
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        gold = rng.integers(0, 4, 150)
        correct = rng.binomial(gold, 0.7)
        counts = np.stack([correct, gold, gold], 1)[:, None]
        low, high = interval(f1_of(resampled(counts, Resampling(400, trial))))
        covered += low[0] <= 0.7 <= high[0]
    assert 0.91 <= covered / 300 <= 0.98


def test_equal_systems_are_called_different_about_as_often_as_stated():
    # Two systems that are right equally often, but on other posts: at most about one in twenty may be called different.
    called = 0
    for trial in range(60):
        gold, best = made(80, 1, trial)
        row = compare(
            gold, [worse(best, 0.3, 2 * trial)], [worse(best, 0.3, 2 * trial + 1)], resampling=Resampling(200, trial)
        )
        called += row["strict"]["GMNER"]["verdict"] != "no difference shown"
    assert called <= 8


def test_seeds_of_equal_systems_are_called_different_no_more_often_than_stated():
    # Three runs a side, each as good as its seed makes it (deviation 3 points), of systems that are equally good.
    rng = np.random.default_rng(1)

    def runs(gold: np.ndarray) -> np.ndarray:
        correct = [rng.binomial(gold, np.clip(0.7 + rng.normal(0, 0.03), 0, 1)) for _ in range(3)]
        return np.stack([np.stack([one, gold, gold], 1)[:, None] for one in correct])

    called = covered = 0
    for trial in range(150):
        gold = rng.integers(0, 4, 200)
        row = bootstrap_test([runs(gold), runs(gold)], resampling=Resampling(200, trial))
        called += row["p"][0] < 0.05
        covered += row["low"][0] <= 0 <= row["high"][0]
    assert called <= 15
    assert covered >= 135


def test_mistakes_are_named():
    gold, answers = made(5, 0.7, 0)
    with pytest.raises(UserError, match="at least one"):
        compare(gold, [], [answers])
    with pytest.raises(UserError, match="no post"):
        f1_intervals([], [])
    with pytest.raises(UserError, match="'0' comes twice"):
        compare(gold, [answers], [[answers[0], answers[0]]])
