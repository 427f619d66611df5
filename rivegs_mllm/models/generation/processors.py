"""Generation step by step: the probability of being visible, and where to stop."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

from rivegs_mllm.answer.format import SEGMENTS
from rivegs_mllm.answer.serialization import line_start

_BEFORE_DECISION = re.compile(r"visible ([0-9]+):$")
_LABEL_TOKENS = 8
"""Tokens before a decision in which its label is looked for, more than ``visible 12:`` has."""


class VisibleScores(LogitsProcessor):
    """Records for each row and step the probability of yes against no, the sigmoid of their logits' difference."""

    def __init__(self, yes: int, no: int):
        self.decision = yes, no
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        yes, no = self.decision
        self.steps.append((scores[:, yes] - scores[:, no]).float().sigmoid())
        return scores

    def probabilities(self) -> list[list[float]]:
        """The probability of yes at each step, row by row."""
        return torch.stack(self.steps, 1).tolist()


def visible_scores(
    tokens: Sequence[int],
    probabilities: Sequence[float],
    decision: tuple[int, int],
    tokenizer: PreTrainedTokenizerBase,
) -> dict[int, float]:
    """The probability of yes by the number of the entity that it was decided for.

    ``probabilities`` has one value a token, ``decision`` is the token ids of yes and no.
    """
    scores: dict[int, float] = {}
    for step, token in enumerate(tokens):
        if token in decision:
            before = tokenizer.decode(tokens[max(0, step - _LABEL_TOKENS) : step])
            if match := _BEFORE_DECISION.search(before):
                scores.setdefault(int(match[1]), probabilities[step])  # of lines that repeat, the first counts in parse
    return scores


class SegmentStoppingCriteria(StoppingCriteria):
    """Stops a row as soon as it begins a line of another segment than ``segments``; ``prompt`` columns come before."""

    WINDOW = 16
    """Tokens, from the end, in which the beginning of a line is looked for: more than its label can have."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, segments: Collection[str], prompt: int):
        self.tokenizer = tokenizer
        self.pattern = other_segment_pattern(segments)
        self.prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        start = max(self.prompt, input_ids.shape[1] - self.WINDOW)
        before = "" if start == self.prompt else " "  # what is looked at does not begin a line then
        texts = self.tokenizer.batch_decode(input_ids[:, start:], clean_up_tokenization_spaces=False)
        ended = [self.pattern.search(before + text) is not None for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def other_segment_pattern(segments: Collection[str]) -> re.Pattern[str]:
    """Finds where a text begins a line of another segment than ``segments``."""
    labels = [line_start(other).rstrip(":") for other in SEGMENTS if other not in segments]
    return re.compile(rf"^(?:{'|'.join(labels)})", re.MULTILINE)
