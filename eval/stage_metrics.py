"""Each stage evaluated by itself: spans, visibility, boxes, masks, and what a proposer of boxes finds.

Every function takes gold samples and predictions in any order, joined by id. The stages after the spans are evaluated
on the entities whose mention and type are right (`align`); how many gold entities that leaves out is always given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval.matching import Pair, best_box_iou, maximum_matching
from eval.protocols import BOX, GMNER, MASK, MNER, STRICT, RegionKind, Task, is_visible, same_span_or_text
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError


@dataclass(frozen=True, slots=True)
class GoldMatch:
    """A gold entity of ``sample`` and the predicted one with its mention and type, None where there is none."""

    sample: Sample
    gold: Entity
    predicted: Entity | None


def stage_scores(samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float = 0.5) -> dict:
    """All figures of this file but the proposer's: ``{"span", "entailment", "grounding", "segmentation"}``.

    ``segmentation`` is None where the gold has no mask. Raises UserError for ids that are unknown or come twice.
    """
    found = find(samples, predictions)
    masked = any(pair.gold.masks for pair in found)
    return {
        "span": span_scores(samples, predictions),
        "entailment": figures_of(DecisionCounts(), found),
        "grounding": figures_of(RegionCounts(BOX, iou), found),
        "segmentation": figures_of(RegionCounts(MASK, iou), found) if masked else None,
    }


def entailment_scores(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict:
    """How often visibility is decided as in the gold: ``{"accuracy", "correct", "total", "confusion", "unmatched"}``.

    ``confusion`` is ``{gold: {predicted: count}}`` over "visible" and "invisible". A prediction without a decision says
    visible when it has a box. Gold without a decision or a box is left out.
    """
    return figures_of(DecisionCounts(), find(samples, predictions))


def grounding_scores(samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float = 0.5) -> dict:
    """How well the boxes of gold entities that have some are found: ``{"precision", "mean_iou", ...}``.

    ``precision`` is Prec@``iou``: the share whose first box has an IoU above it with one of the gold boxes. No box is
    an IoU of 0. Counts: ``correct``, ``total``, ``said_invisible`` (left out: there was nothing to ground) and
    ``unmatched`` (left out: the mention or its type was not found).
    """
    return figures_of(RegionCounts(BOX, iou), find(samples, predictions))


def segmentation_scores(samples: Sequence[Sample], predictions: Sequence[Prediction], iou: float = 0.5) -> dict:
    """As `grounding_scores`, with masks and their pixel IoU: ``mean_iou`` is the mIoU. Masks must have been checked."""
    return figures_of(RegionCounts(MASK, iou), find(samples, predictions))


def span_scores(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict:
    """Mentions found, whatever their type: ``{"correct", "predicted", "gold", "precision", "recall", "f1"}``."""
    answers = by_id(samples, predictions)
    correct = predicted = gold = 0
    for sample in samples:
        answered = answers[sample.id].entities if sample.id in answers else ()
        candidate_pairs = [
            (index, place)
            for place, entity in enumerate(answered)
            for index, wanted in enumerate(sample.entities)
            if same_span_or_text(wanted, entity)
        ]
        correct += len(maximum_matching(candidate_pairs)) if candidate_pairs else 0
        predicted += len(answered)
        gold += len(sample.entities)
    return precision_recall_f1(correct, predicted, gold)


def proposal_scores(
    samples: Sequence[Sample], proposals: Mapping[str, Sequence[Box]], tops: Sequence[int], iou: float = 0.5
) -> dict:
    """Top-N-Prec@``iou`` of a box proposer (RiVEG, Table II): ``{"total", "top": {N: {"correct", "precision"}}}``.

    ``proposals`` gives the boxes for each post's picture, best first, in original pixels. A gold entity with boxes is
    found when one of the first N overlaps one of them by more than ``iou``. Raises UserError for a post without entry.
    """
    missing = [sample.id for sample in samples if sample.id not in proposals]
    if missing:
        raise UserError(f"proposals: nothing for {len(missing)} posts, the first is {missing[0]!r}; give () for none")
    ranks = [
        next((rank for rank, box in enumerate(proposals[sample.id]) if best_box_iou(box, entity.boxes) > iou), math.inf)
        for sample in samples
        for entity in sample.entities
        if entity.boxes
    ]
    top = {}
    for limit in tops:
        correct = sum(rank < limit for rank in ranks)
        top[limit] = {"correct": correct, "precision": share(correct, len(ranks))}
    return {"total": len(ranks), "top": top}


def find(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[GoldMatch]:
    """Every gold entity, in order, with the predicted one of the same mention and type."""
    answers = by_id(samples, predictions)
    return [
        pair
        for sample in samples
        for pair in find_in_post(sample, answers[sample.id].entities if sample.id in answers else ())
    ]


def find_in_post(sample: Sample, predicted: Sequence[Entity]) -> list[GoldMatch]:
    """`find` for one post."""
    return gold_matches(sample, predicted, align(sample.entities, predicted) if sample.entities and predicted else ())


def gold_matches(sample: Sample, predicted: Sequence[Entity], pairs: Iterable[Pair]) -> list[GoldMatch]:
    """Every gold entity with the predicted one that ``pairs`` gives it."""
    partner = dict(pairs)
    return [
        GoldMatch(sample, gold, predicted[partner[index]] if index in partner else None)
        for index, gold in enumerate(sample.entities)
    ]


def align(
    gold_entities: Sequence[Entity], predicted: Sequence[Entity], tasks: Sequence[Task] = (GMNER, MNER)
) -> list[Pair]:
    """One-to-one pairs of gold and predicted entities of a post: those that are correct (strict) in the first task,
    then of what is left over those that are correct in the next."""
    pairs: list[Pair] = []
    left, open_ = list(range(len(gold_entities))), list(range(len(predicted)))
    for task in tasks:
        found = STRICT.correct([gold_entities[i] for i in left], [predicted[j] for j in open_], task)
        pairs += [(left[i], open_[j]) for i, j in found]
        left = [i for i in left if all(i != gold for gold, _ in pairs)]
        open_ = [j for j in open_ if all(j != place for _, place in pairs)]
    return pairs


class DecisionCounts:
    """Adds up visibility decisions. Gold without a decision or a box, where nothing can be compared, is left out."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[bool, bool]] = Counter()
        self.unmatched = 0

    def add(self, pair: GoldMatch) -> None:
        """Counts an entity in."""
        if pair.gold.visible is None and not pair.gold.boxes:
            return
        if pair.predicted is None:
            self.unmatched += 1
        else:
            self.counts[is_visible(pair.gold), is_visible(pair.predicted)] += 1

    def merge(self, other: DecisionCounts) -> None:
        """Adds what another one has added up."""
        self.counts += other.counts
        self.unmatched += other.unmatched

    def figures(self) -> dict:
        """As `entailment_scores` gives them."""
        words = {True: "visible", False: "invisible"}
        correct, total = self.counts[True, True] + self.counts[False, False], self.counts.total()
        return {
            "correct": correct,
            "total": total,
            "accuracy": share(correct, total),
            "confusion": {words[a]: {words[b]: self.counts[a, b] for b in words} for a in words},
            "unmatched": self.unmatched,
        }


class RegionCounts:
    """Adds up how well the regions of a kind are found."""

    def __init__(self, kind: RegionKind, iou: float = 0.5):
        self.kind = kind
        self.iou = iou
        self.correct = self.total = self.said_invisible = self.unmatched = 0
        self.reached = 0.0

    def add(self, pair: GoldMatch) -> None:
        """Counts an entity in, where its gold has a region."""
        wanted = self.kind.of(pair.gold)
        if not wanted:
            return
        if pair.predicted is None:
            self.unmatched += 1
        elif pair.predicted.visible is False:
            self.said_invisible += 1
        else:
            given = self.kind.of(pair.predicted)
            value = self.kind.best_iou(given[0], wanted) if given else 0.0
            self.total += 1
            self.reached += value
            self.correct += value > self.iou

    def merge(self, other: RegionCounts) -> None:
        """Adds what another one has added up."""
        self.correct += other.correct
        self.total += other.total
        self.reached += other.reached
        self.said_invisible += other.said_invisible
        self.unmatched += other.unmatched

    def figures(self) -> dict:
        """As `grounding_scores` gives them."""
        return {
            "correct": self.correct,
            "total": self.total,
            "precision": share(self.correct, self.total),
            "mean_iou": share(self.reached, self.total),
            "said_invisible": self.said_invisible,
            "unmatched": self.unmatched,
        }


def figures_of(tally: DecisionCounts | RegionCounts, found: Iterable[GoldMatch]) -> dict:
    """The figures once all of ``found`` have been counted in."""
    for pair in found:
        tally.add(pair)
    return tally.figures()


def by_id(gold: Iterable[Sample], predictions: Iterable[Prediction]) -> dict[str, Prediction]:
    """The predictions by their id. Raises UserError for ids that come twice and predictions that are of no post."""
    known: set[str] = set()
    for sample in gold:
        if sample.id in known:
            raise UserError(f"gold: the id {sample.id!r} comes twice")
        known.add(sample.id)
    answers: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.id not in known:
            raise UserError(f"predictions: the id {prediction.id!r} is not in the gold; is it another split?")
        if prediction.id in answers:
            raise UserError(f"predictions: the id {prediction.id!r} comes twice")
        answers[prediction.id] = prediction
    return answers


def subset_names(samples: Iterable[Sample]) -> list[str]:
    """The subsets that posts are marked as, in order of name."""
    return sorted({sample.subset for sample in samples} - {""})


def by_subset(
    samples: Sequence[Sample], predictions: Sequence[Prediction]
) -> dict[str, tuple[list[Sample], list[Prediction]]]:
    """The samples of each subset that posts are marked as, and their predictions."""
    subset_of = {sample.id: sample.subset for sample in samples}
    return {
        name: (
            [sample for sample in samples if sample.subset == name],
            [prediction for prediction in predictions if subset_of[prediction.id] == name],
        )
        for name in subset_names(samples)
    }


def precision_recall_f1(correct: int, predicted: int, gold: int) -> dict:
    """The three counts and the micro figures of them, fractions; 0 where there is nothing to divide by."""
    return {
        "correct": correct,
        "predicted": predicted,
        "gold": gold,
        "precision": share(correct, predicted),
        "recall": share(correct, gold),
        "f1": share(2 * correct, predicted + gold),
    }


def share(part: float, whole: float) -> float:
    """``part / whole``, 0 where there is no whole."""
    return part / whole if whole else 0.0


def with_nulls(figures: object) -> object:
    """Figures for JSON, with None for a share of nothing: the precision of no prediction, the recall of no gold."""
    if not isinstance(figures, dict):
        return figures
    made = {key: with_nulls(own) for key, own in figures.items()}
    if {"predicted", "gold", "precision", "recall", "f1"} <= figures.keys():
        wholes = {
            "precision": figures["predicted"],
            "recall": figures["gold"],
            "f1": figures["predicted"] + figures["gold"],
        }
        made |= {key: None for key, whole in wholes.items() if not whole}
    return made
