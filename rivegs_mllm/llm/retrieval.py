"""MSEA: the annotated examples that are most similar to a post (RiVEG section III-A, multimodal similar example
awareness). Exact cosine search, in blocks."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rivegs_mllm.llm.few_shot import FewShotExample
from rivegs_mllm.types import Sample

BLOCK = 8192
"""Posts that are compared at a time: against 1,000 examples 32 MB of similarities."""


def nearest(posts: np.ndarray, examples: np.ndarray, count: int, excluded: Sequence[Sequence[int]] = ()) -> np.ndarray:
    """Indices of the ``count`` most similar examples of each post, (posts, count), the most similar first.

    ``posts`` is (posts, d) and ``examples`` (examples, d), rows of length 1 (or 0, where there is nothing to compare).
    ``excluded`` lists for each post the examples it may not have; -1 stands where too few are left. Of equally similar
    ones the earlier comes first.
    """
    chosen = np.full((len(posts), count), -1, dtype=np.int32)
    wanted = min(count, len(examples))
    for start in range(0, len(posts), BLOCK):
        similarity = posts[start : start + BLOCK] @ examples.T
        rows = np.arange(len(similarity))[:, None]
        for row, columns in enumerate(excluded[start : start + BLOCK]):
            similarity[row, list(columns)] = -np.inf
        best = _top(similarity, wanted)
        found = np.where(np.isneginf(similarity[rows, best]), -1, best)
        chosen[start : start + BLOCK, :wanted] = found
    return chosen


def _top(similarity: np.ndarray, count: int) -> np.ndarray:
    """Columns of the ``count`` greatest values of each row, in falling order, ties by the lower column."""
    rows = np.arange(len(similarity))[:, None]
    if count == similarity.shape[1]:
        return np.argsort(-similarity, axis=1, kind="stable")
    best = np.argpartition(similarity, -count, axis=1)[:, -count:]
    best.sort(axis=1)
    tied = (similarity >= similarity[rows, best].min(1, keepdims=True)).sum(1)
    order = np.argsort(-similarity[rows, best], axis=1, kind="stable")
    best = best[rows, order]
    for row in np.flatnonzero(tied > count):  # which of the equal ones argpartition takes is left to chance
        best[row] = np.argsort(-similarity[row], kind="stable")[:count]
    return best


def sample_random(
    samples: Sequence[Sample], examples: int, count: int, seed: int, excluded: Sequence[Sequence[int]]
) -> np.ndarray:
    """Indices (posts, count) of random examples of each post, as ``nearest`` gives them: the paper's ablation.

    The draw of a post depends on ``seed`` and its id alone.
    """
    chosen = np.full((len(samples), count), -1, dtype=np.int32)
    for row, (sample, without) in enumerate(zip(samples, excluded, strict=True)):
        allowed = [index for index in range(examples) if index not in without]
        picked = random.Random(f"{seed}/{sample.id}").sample(allowed, min(count, len(allowed)))
        chosen[row, : len(picked)] = picked
    return chosen


def own_examples(samples: Sequence[Sample], examples: Sequence[FewShotExample]) -> list[list[int]]:
    """For each post the examples that are the post itself, by id or by text (a retweet): they hold its gold."""
    ids: dict[str, list[int]] = {}
    texts: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        ids.setdefault(example.id, []).append(index)
        texts.setdefault(_plain(example.text), []).append(index)
    return [sorted({*ids.get(sample.id, ()), *texts.get(_plain(sample.text), ())}) for sample in samples]


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()
