"""MSEA against a loop that compares every pair, and what may never be chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivegs_mllm.llm import retrieval as similar
from rivegs_mllm.llm.embeddings import normalize_rows
from rivegs_mllm.llm.few_shot import FewShotExample
from rivegs_mllm.llm.retrieval import nearest, own_examples, sample_random
from rivegs_mllm.types import Sample, UserError


def by_loop(posts, examples, count, excluded):
    chosen = []
    for row, post in enumerate(posts):
        scored = []
        for index, example in enumerate(examples):
            if index not in excluded[row]:
                scored.append((-float(np.dot(post, example)), index))
        picked = [index for _, index in sorted(scored)[:count]]
        chosen.append(picked + [-1] * (count - len(picked)))
    return chosen


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 30), st.integers(1, 35), st.booleans())
def test_same_as_comparing_every_pair(seed, posts, examples, count, coarse):
    rng = np.random.default_rng(seed)
    made = [rng.integers(-2, 3, (number, 4)).astype(np.float32) for number in (posts, examples)]
    if not coarse:  # else many similarities are exactly equal, and small whole numbers keep the sums exact
        made = [normalize_rows(rng.normal(size=(number, 16))) for number in (posts, examples)]
    excluded = [
        sorted(rng.choice(examples, rng.integers(0, examples + 1), replace=False).tolist()) for _ in range(posts)
    ]
    found = nearest(*made, count, excluded)
    wanted = by_loop(*made, count, excluded)
    if coarse:
        assert found.tolist() == wanted
        return
    scores = made[0] @ made[1].T
    for row, (ours, theirs) in enumerate(zip(found.tolist(), wanted, strict=True)):
        assert [index < 0 for index in ours] == [index < 0 for index in theirs]
        assert not set(ours) & set(excluded[row])
        picked = [index for index in ours if index >= 0]
        assert len(set(picked)) == len(picked)
        np.testing.assert_allclose(scores[row, picked], scores[row, [i for i in theirs if i >= 0]], atol=1e-5)


def test_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    posts, examples = normalize_rows(rng.normal(size=(53, 8))), normalize_rows(rng.normal(size=(20, 8)))
    excluded = [[row % 20] for row in range(53)]
    whole = nearest(posts, examples, 3, excluded)
    monkeypatch.setattr(similar, "BLOCK", 7)
    assert (nearest(posts, examples, 3, excluded) == whole).all()


def test_post_is_never_its_own_example():
    examples = [FewShotExample("a", "Ann is here"), FewShotExample("b", "Bob"), FewShotExample("c", "Cem")]
    samples = [Sample("a", ("other", "words")), Sample("x", ("ann", "IS", "here")), Sample("y", ("Dan",))]
    own = own_examples(samples, examples)
    assert own == [[0], [0], []]
    for seed in range(5):
        chosen = sample_random(samples, 3, 2, seed, own).tolist()
        assert sorted(chosen[0]) == sorted(chosen[1]) == [1, 2]
    assert sample_random(samples, 3, 3, 0, own).tolist()[0][-1] == -1
    same = sample_random(samples[2:], 3, 2, 1, own[2:]).tolist()
    assert same[0] == sample_random(samples, 3, 2, 1, own).tolist()[2], "what a post draws depends on its id alone"
    assert len({tuple(sample_random(samples[2:], 3, 3, seed, [[]]).tolist()[0]) for seed in range(20)}) > 2


def test_features_that_are_no_numbers():
    with pytest.raises(UserError, match="post 1"):
        normalize_rows(np.array([[1.0, 2.0], [float("nan"), 0.0]]))
    assert normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0.0, 0.0],
    ]
