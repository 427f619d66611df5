"""Statistical significance: a paired bootstrap over posts, on the counts of each post.

Posts are drawn with replacement, the same draws for every system (Berg-Kirkpatrick et al., 2012), and precision, recall
and F1 are computed again from the summed counts. Several seeds of one system are drawn beside the posts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.counts import per_post
from eval.protocols import DEFAULT, Criteria, Task, protocol_named
from eval.sample_size import FEWEST
from eval.scores import join, tasks_of
from rivegs_mllm.types import Prediction, Sample, UserError

LEVEL = 0.95
_MOST_EXACT = 12
"""The most posts that differ for which all ways to swap them are tried, 4,096."""
_BLOCK = 50  # draws at a time: over 10,000 posts 4 MB of weights


@dataclass(frozen=True, slots=True)
class Resampling:
    """The number of draws, and their seed."""

    draws: int = 2000
    seed: int = 0


USUAL = Resampling()
"""So many draws that the ends of an interval over 1,500 posts differ by 0.05 points of F1 between seeds (deviation)."""


def f1_intervals(
    gold: Sequence[Sample],
    predictions: Sequence[Prediction],
    criteria: Criteria = DEFAULT,
    resampling: Resampling = USUAL,
) -> dict:
    """The percentiles between which 95 % of the drawn F1 lie: ``{protocol: {subset: {task: {"f1", "low", "high"}}}}``.

    ``low`` and ``high`` are None where fewer than FEWEST posts have anything to count, and where all draws are alike.

    Raises UserError as `eval.scores.evaluate` does, and for a gold without posts.
    """
    _check(gold)
    tasks = tasks_of(gold, predictions)
    posts = join(gold, predictions, criteria.candidates)
    return {
        name: _intervals(per_post(protocol_named(name), posts, tasks, criteria.iou), tasks, resampling)
        for name in criteria.protocols
    }


def _intervals(by_subset: Mapping[str, np.ndarray], tasks: Sequence[Task], resampling: Resampling) -> dict:
    names = list(by_subset)
    counts = np.stack([by_subset[name] for name in names])  # subsets, posts, tasks, 3
    drawn = f1_of(resampled(counts, resampling))
    low, high = interval(drawn)
    whole = f1_of(counts.sum(1))
    unsure = ((counts.sum(-1) > 0).sum(1) < FEWEST) | (low == high)  # subsets, tasks
    return {
        name: {
            task.name: {"f1": float(whole[i, j]), **_bounds(low[i, j], high[i, j], unsure[i, j])}
            for j, task in enumerate(tasks)
        }
        for i, name in enumerate(names)
    }


def _bounds(low: float, high: float, unsure: bool) -> dict[str, float | None]:
    return {"low": None, "high": None} if unsure else {"low": float(low), "high": float(high)}


def compare(
    gold: Sequence[Sample],
    first: Sequence[Sequence[Prediction]],
    second: Sequence[Sequence[Prediction]],
    criteria: Criteria = DEFAULT,
    resampling: Resampling = USUAL,
) -> dict:
    """System B, ``second``, against system A, ``first``, over all posts; each is one run or several seeds of it.

    ``{protocol: {task: {"a", "b", "difference", "low", "high", "p", "verdict"}}}``. ``a`` and ``b`` are ``{"f1": mean
    over the seeds, "deviation", "runs": F1 of each}``, ``deviation`` the sample's, None of one run. ``difference`` is
    b - a in F1, ``low`` to ``high`` its 95 % interval, None where fewer than FEWEST posts can tell. ``p`` is two-sided:
    how often a difference at least as far from the observed one as that is from 0 comes by the draw of posts, and of
    seeds where a side has several. Where few posts differ it is that of the exact test that swaps the systems post by
    post, or no less than the least that such a test can give. ``verdict`` is "B is better", "A is better" or "no
    difference shown". Raises UserError where a side has no run.
    """
    _check(gold)
    if not first or not second:
        raise UserError("compare: each of the two systems needs at least one file of predictions")
    tasks = _common_tasks(gold, (*first, *second))
    sides = [_by_protocol(gold, runs, tasks, criteria) for runs in (first, second)]
    return {name: _comparison([side[name] for side in sides], tasks, resampling) for name in criteria.protocols}


def _comparison(sides: Sequence[np.ndarray], tasks: Sequence[Task], resampling: Resampling) -> dict:
    runs = [f1_of(side.sum(1)) for side in sides]
    found = bootstrap_test(sides, resampling)
    rows = {}
    for j, task in enumerate(tasks):
        figures = {name: float(values[j]) for name, values in found.items()}
        posts = sum(side[..., j, :].sum((0, 2)) for side in sides) > 0
        alike = figures["low"] == figures["high"] and figures["difference"] != 0
        figures |= _bounds(figures["low"], figures["high"], alike or posts.sum() < FEWEST)
        concluded = verdict(figures["difference"], figures["p"])
        rows[task.name] = {"a": _side(runs[0][:, j]), "b": _side(runs[1][:, j]), **figures, "verdict": concluded}
    return rows


def bootstrap_test(sides: Sequence[np.ndarray], resampling: Resampling = USUAL) -> dict[str, np.ndarray]:
    """`compare` on counts, (runs, posts, tasks, 3) a side: "difference", "low", "high" and "p", each (tasks,)."""
    first, second = (f1_of(side.sum(1)).mean(0) for side in sides)
    drawn = _differences(sides, resampling)
    low, high = interval(drawn)
    differing = _differing(sides).sum(0)
    # No p is below 2 of all ways to swap the systems post by post, the least that a two-sided test can give.
    p = np.maximum(p_value(drawn, second - first), np.minimum(1.0, 2.0 ** (1 - differing)))
    if all(len(side) == 1 for side in sides):
        p = np.where(differing <= _MOST_EXACT, _exact_p(sides[0][0], sides[1][0]), p)
    return {"difference": second - first, "low": low, "high": high, "p": p}


def _differing(sides: Sequence[np.ndarray]) -> np.ndarray:
    """The posts on which the two sides, or the seeds of one, have other counts: (posts, tasks)."""
    runs = np.concatenate(list(sides))
    return (runs != runs[:1]).any((0, 3))


def _exact_p(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of all ways to swap the systems' counts, (posts, tasks, 3), post by post that give as great a
    difference of F1 (Fisher's randomisation test), by task; 1 where too many posts differ to try them all."""
    change = second - first
    p = np.ones(change.shape[1])
    for task in range(change.shape[1]):
        moved = change[:, task][change[:, task].any(1)]  # posts that differ, 3
        if len(moved) > _MOST_EXACT:
            continue
        ways = (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1
        shift = ways @ moved
        given = f1_of(second[:, task].sum(0) - shift) - f1_of(first[:, task].sum(0) + shift)
        # The margin is for rounding: a way that gives the same difference must count.
        p[task] = (np.abs(given) >= abs(given[0]) - 1e-12).mean()
    return p


def seeds(gold: Sequence[Sample], runs: Sequence[Sequence[Prediction]], criteria: Criteria = DEFAULT) -> dict:
    """Runs of one system: ``{protocol: {task: {"f1": mean, "deviation": the sample's, "runs": F1 of each}}}``."""
    tasks = _common_tasks(gold, runs)
    return {
        name: {task.name: _side(f1_of(counts[:, :, j].sum(1))) for j, task in enumerate(tasks)}
        for name, counts in _by_protocol(gold, runs, tasks, criteria).items()
    }


def verdict(difference: float, p: float) -> str:
    """Which system is better, in words, at the level of 95 %."""
    if p >= 1 - LEVEL:
        return "no difference shown"
    return "B is better" if difference > 0 else "A is better"


def resampled(counts: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Sums over posts drawn with replacement: (..., posts, tasks, 3) to (draws, ..., tasks, 3), in blocks of draws."""
    posts = counts.shape[-3]
    rows = np.moveaxis(counts, -3, 0).reshape(posts, -1).astype(np.float64)  # products are fast in floats, and exact
    sums = [weights @ rows for weights in _weights(posts, resampling)]
    shape = (resampling.draws, *counts.shape[:-3], *counts.shape[-2:])
    return np.concatenate(sums).reshape(shape)


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 of (..., 3) counts correct, predicted, gold; 0 where there is nothing to divide by."""
    whole = counts[..., 1] + counts[..., 2]
    return np.divide(2 * counts[..., 0], whole, out=np.zeros(whole.shape), where=whole > 0)


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentiles between which 95 % of the draws lie: of (draws, ...), each (...)."""
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
    return low, high


def p_value(drawn: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Two-sided: the share of draws (draws, tasks), shifted to a mean difference of 0, that are as far from 0 as the
    observed difference (tasks,)."""
    far = np.abs(drawn - observed) >= np.abs(observed) - 1e-12  # ties that rounding separates count as ties
    return (far.sum(0) + 1) / (len(drawn) + 1)  # the observed difference counts as a draw, so that p is never 0


def _differences(sides: Sequence[np.ndarray], resampling: Resampling) -> np.ndarray:
    """Mean F1 of the second side less that of the first, (draws, tasks): the same posts for both sides."""
    rng = np.random.default_rng((resampling.seed, 1))  # another stream than that of the posts, which `_weights` has
    means = []
    for side in sides:
        f1 = f1_of(resampled(side, resampling))  # draws, runs, tasks
        runs = f1.shape[1]
        taken = rng.integers(runs, size=(resampling.draws, runs))
        means.append(np.take_along_axis(f1, taken[:, :, None], axis=1).mean(1))
    return means[1] - means[0]


def _weights(posts: int, resampling: Resampling) -> Iterator[np.ndarray]:
    """How often each post is drawn, in blocks of (draws, posts), so that memory does not grow with the draws."""
    rng = np.random.default_rng((resampling.seed, 0))
    for start in range(0, resampling.draws, _BLOCK):
        block = min(_BLOCK, resampling.draws - start)
        taken = rng.integers(posts, size=(block, posts))
        taken += np.arange(block)[:, None] * posts
        yield np.bincount(taken.ravel(), minlength=block * posts).reshape(block, posts).astype(np.float64)


def _by_protocol(
    gold: Sequence[Sample], runs: Sequence[Sequence[Prediction]], tasks: Sequence[Task], criteria: Criteria
) -> dict[str, np.ndarray]:
    """The counts of all posts by protocol, each (runs, posts, tasks, 3)."""
    joined = [join(gold, run, criteria.candidates) for run in runs]
    return {
        name: np.stack([per_post(protocol_named(name), posts, tasks, criteria.iou)["all"] for posts in joined])
        for name in criteria.protocols
    }


def _common_tasks(gold: Sequence[Sample], runs: Sequence[Sequence[Prediction]]) -> tuple[Task, ...]:
    """The tasks that every run can be scored in."""
    each = [tasks_of(gold, run) for run in runs]
    return min(each, key=len)


def _check(gold: Sequence[Sample]) -> None:
    if not gold:
        raise UserError("gold: there is no post to draw")


def _side(f1: np.ndarray) -> dict:
    deviation = float(f1.std(ddof=1)) if len(f1) > 1 else None
    return {"f1": float(f1.mean()), "deviation": deviation, "runs": [float(value) for value in f1]}
