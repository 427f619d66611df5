"""Entailment: whether the picture shows an entity.

An entailment stage fills ``visible`` and ``visible_score``, the probability of it. Its queries are the referring
expressions ``mention (type) - expression``, or parts of it. Where there is nothing to look at, a post
without picture or one that cannot be opened, no entity is visible, with a probability of 0, and ``errors`` says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus

from eval.stage_metrics import by_subset, entailment_scores, precision_recall_f1
from rivegs_mllm.cascade.base import Stage, StageError, referring_expression, without_labels
from rivegs_mllm.cascade.referring import matching_gold
from rivegs_mllm.config.bounds import PositiveFloat, Probability
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

BATCH_SIZE = 32
"""Posts in a batch where a stage is evaluated."""


class Entailment(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of an entailment stage, chosen by ``type:``."""


@dataclass
class DecisionRule:
    """How a logit becomes a probability, and the probability from which on an entity is visible.

    ``temperature`` divides the logit (arXiv 1706.04599): above 1 for an overconfident model.
    """

    threshold: Probability = 0.5
    temperature: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"decision.threshold: {self.threshold} is not a probability")
        if self.temperature <= 0:
            raise UserError(f"decision.temperature: {self.temperature} is not above 0")

    def decided(self, entity: Entity, logit: float) -> Entity:
        """The entity with its decision; ``logit`` is that of yes against no."""
        score = (1 + math.tanh(logit / self.temperature / 2)) / 2  # a sigmoid that cannot overflow
        return dataclasses.replace(entity, visible=score >= self.threshold, visible_score=score)


def with_decisions(
    partial: Prediction, decision: DecisionRule, logits: Sequence[float], notes: Sequence[str] = ()
) -> Prediction:
    """The partial prediction with a logit of yes against no for each entity decided on, ``notes`` after its errors."""
    entities = tuple(decision.decided(entity, logit) for entity, logit in zip(partial.entities, logits, strict=True))
    return dataclasses.replace(partial, entities=entities, errors=(*partial.errors, *notes))


def with_nothing_visible(partial: Prediction, note: str) -> Prediction:
    """The partial prediction of a post that shows nothing, with the reason after its errors."""
    entities = tuple(dataclasses.replace(entity, visible=False, visible_score=0.0) for entity in partial.entities)
    return dataclasses.replace(partial, entities=entities, errors=(*partial.errors, note))


def query_texts(entities: Sequence[Entity], parts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The query about each entity: the parts of its referring expression, or its mention where it has none.

    The second list has a note on each entity for which the mention was taken.
    """
    texts, notes = [referring_expression(entity, parts) for entity in entities], []
    for index, entity in enumerate(entities):
        if not texts[index]:
            texts[index] = entity.text
            notes.append(f"{entity.text!r} has no {' or '.join(parts)}: scored by its mention")
    return texts, notes


def entailment_metrics(stage: Stage, samples: Sequence[Sample]) -> dict[str, float]:
    """Accuracy and the F1 of yes of a stage that is given the gold entities; accuracy also of the posts' own subsets.

    ``majority`` is the accuracy of always deciding for the more frequent of yes and no.
    """
    partials = []
    for sample in samples:
        bare = [
            dataclasses.replace(entity, visible=None, visible_score=None, boxes=(), masks=())
            for entity in sample.entities
        ]
        partials.append(Prediction(sample.id, entities=tuple(bare)))
    decided: list[Prediction] = []
    for batch in batches(range(len(samples)), BATCH_SIZE):
        decided += stage([without_labels(samples[index]) for index in batch], [partials[index] for index in batch])
    scores = entailment_scores(samples, decided)
    confusion = scores["confusion"]
    right, missed = confusion["visible"]["visible"], confusion["visible"]["invisible"]
    predicted = right + confusion["invisible"]["visible"]
    figures = {
        "accuracy": scores["accuracy"],
        "f1": precision_recall_f1(right, predicted, right + missed)["f1"],
        "majority": max(right + missed, scores["total"] - right - missed) / max(1, scores["total"]),
    }
    for subset, own in by_subset(samples, decided).items():
        figures[f"accuracy_{subset}"] = entailment_scores(*own)["accuracy"]
    return figures


@Entailment.register_subclass("always")
@dataclass
class AlwaysEntailment(Entailment):
    """Every entity is visible in a post with a picture: the trivial baseline of systems that ground all entities."""

    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _always


def _always(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    filled = []
    for sample, partial in zip(samples, partials, strict=True):
        shown = bool(sample.image)
        entities = [
            dataclasses.replace(entity, visible=shown, visible_score=float(shown)) for entity in partial.entities
        ]
        filled.append(dataclasses.replace(partial, entities=tuple(entities)))
    return filled


@Entailment.register_subclass("gold")
@dataclass
class GoldEntailment(Entailment):
    """The gold decisions, for oracle ablations. An entity that the gold does not have is not visible."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    return [
        dataclasses.replace(partial, entities=tuple(_as_gold(sample, entity) for entity in partial.entities))
        for sample, partial in zip(samples, partials, strict=True)
    ]


def _as_gold(sample: Sample, entity: Entity) -> Entity:
    twin = matching_gold(sample, entity)
    if twin is not None and twin.visible is None and not twin.boxes:
        raise StageError(
            f"entailment (gold): post {sample.id!r}: the gold does not say whether the picture shows {twin.text!r}; "
            "use data with regions, such as Twitter-GMNER, or another entailment"
        )
    visible = twin is not None and (bool(twin.boxes) if twin.visible is None else twin.visible)
    return dataclasses.replace(entity, visible=visible, visible_score=float(visible))
