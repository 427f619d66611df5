"""Constrained decoding: of the scores of a batch's next tokens, only those stay that the rows' grammars allow.

The tokens are read as soon as they are chosen, by a criterion that ``generate`` asks before it calls the model again.
What may follow them is worked out when ``generate`` has called the model: on a GPU such calls return at once, so that
this is done while the model computes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, StoppingCriteria

from rivegs_mllm.models.generation.grammar import Grammar
from rivegs_mllm.models.generation.mentions import Mentions
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.models.generation.writing import AllBut, Allowed, Room, Writing, goes_on

_ENTITY = re.compile(rb"entity [0-9]+:(.*)", re.DOTALL)
_ABOVE_ALL = 1e30
"""The score of a token that alone may follow: higher than any, and finite at any temperature."""
_ENDLESS = 10**9


class AnswerRow:
    """A row held to a grammar from beginning to end. ``allowed`` is what may come next, None once the row has ended."""

    def __init__(self, grammar: Grammar):
        self.room = grammar.room
        self.writing = grammar.writing()
        self.allowed: Allowed | None = next(self.writing)

    def consume(self, token: int) -> None:
        """Takes the token that was chosen. Raises RuntimeError for one that was not allowed."""
        if self.allowed is not None:
            self.room.left -= 1
            self.allowed = goes_on(self.writing, self.allowed, token)


class MentionsRow:
    """A row that is free but for its lines of entities. ``allowed`` is what may come next, None where it is free."""

    def __init__(self, vocabulary: Vocabulary, mentions: Mentions):
        self.vocabulary = vocabulary
        self.mentions = mentions
        self.line = b""
        self.writing: Writing[int] | None = None
        self.allowed: Allowed | None = None

    def consume(self, token: int) -> None:
        """Takes the token that was chosen. Raises RuntimeError for one that was not allowed."""
        before = self.line
        self.line = (before + self.vocabulary.bytes.get(token, b"")).rpartition(b"\n")[2]
        if self.allowed is not None:
            self.allowed = goes_on(self.writing, self.allowed, token)
            return
        begun = _ENTITY.fullmatch(self.line)
        if begun and not _ENTITY.fullmatch(before) and self.mentions.goes_on_from(begun[1]):
            self.writing = self.mentions.write(0, Room(_ENDLESS), 0, begun[1])
            self.allowed = next(self.writing)


class Constraint(LogitsProcessor):
    """Restricts scores to the tokens that may follow. Rows after ``rows`` are not constrained.

    ``greedy`` says that the token of the highest score will be chosen. Make a new one for each call of ``generate``,
    and give it ``watcher`` as a stopping criterion.
    """

    def __init__(self, rows: Sequence[AnswerRow | MentionsRow], greedy: bool):
        self.rows = rows
        self.greedy = greedy
        self.chosen: list[int] = []
        self.watcher = _Watcher(self)

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        """The ``scores`` (rows, vocabulary) of the next token, changed in place by ``_restrict``."""
        for row, token in zip(self.rows, self.chosen, strict=False):  # at the first call none has been chosen
            row.consume(token)
        self.chosen = []
        allowed = [row.allowed for row in self.rows]
        if scores.device.type == "cpu":
            _restrict(scores.numpy(), allowed, self.greedy, np.asarray)  # faster than torch on a CPU
        else:
            _restrict(scores, allowed, self.greedy, lambda index: torch.as_tensor(index, device=scores.device))
        return scores


def _restrict(scores: Any, allowed: Sequence[Allowed | None], greedy: bool, index: Callable) -> None:
    """Restricts the scores, an array or tensor (rows, vocabulary), to what each row is allowed, None for all.

    What must not follow is put to minus infinity. Where few tokens may follow and the best of them will be chosen,
    that one is put above all instead: one number is written in place of a row. ``index`` makes an array of ids one
    that ``scores`` can be indexed by.
    """
    sure: list[tuple[int, int]] = []
    texts: dict[AllBut, list[int]] = defaultdict(list)
    for row, own in enumerate(allowed):
        if isinstance(own, AllBut):
            texts[own].append(row)
        elif own is not None and len(own) == 1:
            sure.append((row, own[0]))
        elif own is not None:
            _keep(scores[row], index(own), greedy)
    for own, rows in texts.items():
        refused = index(own.tokens)
        for row in rows:
            scores[row][refused] = -np.inf
    if sure:
        rows, tokens = zip(*sure, strict=True)
        scores[index(rows), index(tokens)] = _ABOVE_ALL


def _keep(scores: Any, tokens: Any, greedy: bool) -> None:
    """Restricts the scores (vocabulary,) of a row to these tokens."""
    kept = scores[tokens]
    if greedy:
        scores[tokens[kept.argmax()]] = _ABOVE_ALL
    else:
        scores[:] = -np.inf
        scores[tokens] = kept


class _Watcher(StoppingCriteria):
    """Tells the constraint which tokens were chosen. Stops nothing."""

    def __init__(self, constraint: Constraint):
        self.constraint = constraint

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.constraint.chosen = input_ids[: len(self.constraint.rows), -1].tolist()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
