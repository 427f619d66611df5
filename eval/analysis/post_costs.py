"""What each post costs: the F1 that is lost on it alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.analysis.significance import f1_of
from eval.counts import GOLD, per_post
from eval.protocols import STRICT, Task
from eval.scores import join
from rivegs_mllm.types import Prediction, Sample


def post_costs(gold: Sequence[Sample], predictions: Sequence[Prediction], task: Task) -> np.ndarray:
    """By how much F1 over all posts, a fraction, would rise were one post alone answered as in the gold: (posts,).

    Protocol ``strict``. Raises UserError as `eval.scores.evaluate` does.
    """
    counts = per_post(STRICT, join(gold, predictions), (task,))["all"][:, 0]  # posts, 3
    total = counts.sum(0)
    return f1_of(total - counts + counts[:, [GOLD, GOLD, GOLD]]) - f1_of(total)
