"""Error analysis: correct, or one type of error, for every predicted and gold entity, and the F1 without that type.

The protocol is ``strict``. As in TIDE (Bolya et al., 2020) an error has one cause, the first that applies, and its
weight is the F1 that correcting it alone would give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eval.coordinates import locate_mentions
from eval.matching import Pair, best_box_iou, greedy_matching
from eval.protocols import (
    EEG,
    EES,
    GMNER,
    MASK,
    MNER,
    SPAN,
    STRICT,
    Task,
    boxes_of,
    is_visible,
    masks_of,
    same_span_or_text,
)
from eval.stage_metrics import by_id, precision_recall_f1, share
from rivegs_mllm.types import Entity, Prediction, Sample

CORRECT = "correct"
OUTCOMES = {
    CORRECT: "correct",
    "parse_error": "gold entity not found, in an answer that could not be parsed completely",
    "missed": "gold entity not found",
    "spurious": "no gold entity there",
    "duplicate": "predicted once more",
    "boundary_longer": "the mention is longer than the gold one",
    "boundary_shorter": "the mention is shorter than the gold one",
    "boundary_overlap": "the mention overlaps the gold one",
    "type_error": "mention right, type wrong",
    "missed_grounding": "visible, but predicted invisible or without a box",
    "spurious_grounding": "not visible, but predicted with a box",
    "localisation": "box on the object, with too low an IoU",
    "confused_entity": "box on another entity's object",
    "background": "box on no entity's object",
    "mask_error": "box right, mask wrong",
}
""""Correct" and the types of error with what each means, in the order in which they are looked for and reported."""

TOUCHES = 0.1
"""The IoU from which on a wrong box is a localisation error and no background error: TIDE's bound."""

_GOLD_ALONE = ("parse_error", "missed")
_PREDICTED_ALONE = ("spurious", "duplicate")


@dataclass(frozen=True, slots=True)
class Requirement:
    """The agreement that a correct entity needs with its gold one. ``task`` is GMNER, or SMNER: masks beside boxes."""

    task: Task = GMNER
    iou: float = 0.5

    @property
    def masked(self) -> bool:
        """Whether masks must agree."""
        return self.task.region is MASK

    @property
    def untyped(self) -> Task:
        """The task without types."""
        return EES if self.masked else EEG

    def correct(self, gold_entities: Sequence[Entity], predicted: Sequence[Entity]) -> list[Pair]:
        """The pairs of a post's entities that agree."""
        return STRICT.correct(gold_entities, predicted, self.task, self.iou)


GROUNDED = Requirement()


@dataclass(frozen=True, slots=True)
class Outcome:
    """`CORRECT` or a type of error. ``partner`` is the index of the entity on the other side it is compared with."""

    name: str
    partner: int | None = None


@dataclass(frozen=True, slots=True)
class PostOutcomes:
    """The outcomes of a post's entities, in their order. Two that are compared with each other have the same one."""

    id: str
    gold: tuple[Outcome, ...]
    predicted: tuple[Outcome, ...]


def outcomes_of(sample: Sample, prediction: Prediction | None, required: Requirement = GROUNDED) -> PostOutcomes:
    """The outcome of every entity of a post."""
    predicted = prediction.entities if prediction else ()
    gold_entities = sample.entities
    gold_outcomes: list[Outcome | None] = [None] * len(gold_entities)
    predicted_outcomes: list[Outcome | None] = [None] * len(predicted)

    def settle(pairs: Sequence[Pair], name: str | None = None) -> None:
        for gold, place in pairs:
            found = name or _cause(gold_entities, gold, predicted[place], required)
            gold_outcomes[gold], predicted_outcomes[place] = Outcome(found, place), Outcome(found, gold)

    def open_pairs(of: Task) -> list[Pair]:
        left = [index for index, outcome in enumerate(gold_outcomes) if outcome is None]
        free = [place for place, outcome in enumerate(predicted_outcomes) if outcome is None]
        found = STRICT.correct(
            [gold_entities[index] for index in left], [predicted[place] for place in free], of, required.iou
        )
        return [(left[index], free[place]) for index, place in found]

    # From the whole agreement to the mention alone, so that an entity is compared with the one it agrees with most.
    settle(open_pairs(required.task), CORRECT)
    settle(open_pairs(GMNER))
    settle(open_pairs(MNER))
    settle(open_pairs(required.untyped), "type_error")
    settle(open_pairs(SPAN), "type_error")
    if None in gold_outcomes and None in predicted_outcomes:
        for pair, name in _overlapping(sample, predicted, gold_outcomes, predicted_outcomes):
            settle([pair], name)
    for place, outcome in enumerate(predicted_outcomes):
        if outcome is None:
            predicted_outcomes[place] = _unmatched(place, gold_entities, predicted)
    lost = "parse_error" if prediction and prediction.errors else "missed"
    return PostOutcomes(
        sample.id, tuple(outcome or Outcome(lost) for outcome in gold_outcomes), tuple(filter(None, predicted_outcomes))
    )


def error_budget(
    samples: Sequence[Sample], predictions: Sequence[Prediction], required: Requirement = GROUNDED
) -> dict:
    """The outcomes counted and weighed.

    ``{"task", "iou", "f1", "predicted": {outcome: count}, "gold": {outcome: count}, "corrected": {outcome: {"f1",
    "gain"}}, "oracle": {stage: {"f1", "estimated"}}}``. The counts add up to the predicted and the gold entities.
    ``corrected`` is the F1 with the error corrected, and nothing else; ``oracle`` as `oracle_stages`.
    """
    answers = by_id(samples, predictions)
    predicted: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    won: Counter[str] = Counter()
    more: Counter[str] = Counter()
    for sample in samples:
        prediction = answers.get(sample.id)
        outcomes = outcomes_of(sample, prediction, required)
        predicted.update(outcome.name for outcome in outcomes.predicted)
        gold.update(outcome.name for outcome in outcomes.gold)
        before = prediction.entities if prediction else ()
        for name in {outcome.name for outcome in (*outcomes.gold, *outcomes.predicted)} - {CORRECT}:
            after = correct_errors(sample, before, outcomes, name, required)
            won[name] += len(required.correct(sample.entities, after)) - count_correct(outcomes)
            more[name] += len(after) - len(before)
    correct, n_predicted, n_gold = gold[CORRECT], predicted.total(), gold.total()
    now = precision_recall_f1(correct, n_predicted, n_gold)["f1"]
    corrected = {
        name: precision_recall_f1(correct + won[name], n_predicted + more[name], n_gold)["f1"]
        for name in OUTCOMES
        if name != CORRECT
    }
    return {
        "task": required.task.name,
        "iou": required.iou,
        "f1": now,
        "predicted": {name: predicted[name] for name in OUTCOMES if name not in _GOLD_ALONE},
        "gold": {name: gold[name] for name in OUTCOMES if name not in _PREDICTED_ALONE},
        "corrected": {name: {"f1": f1, "gain": f1 - now} for name, f1 in corrected.items()},
        "oracle": oracle_stages(samples, answers, required),
    }


def count_correct(outcomes: PostOutcomes) -> int:
    """The number of correct entities of the post."""
    return sum(outcome.name == CORRECT for outcome in outcomes.gold)


def correct_errors(
    sample: Sample, predicted: Sequence[Entity], outcomes: PostOutcomes, name: str, required: Requirement = GROUNDED
) -> tuple[Entity, ...]:
    """The predicted entities with the error ``name`` corrected, and nothing else."""
    if name in _GOLD_ALONE:
        lost = [gold for gold, outcome in zip(sample.entities, outcomes.gold, strict=True) if outcome.name == name]
        return (*predicted, *lost)
    corrected = []
    for entity, outcome in zip(predicted, outcomes.predicted, strict=True):
        if outcome.name != name:
            corrected.append(entity)
        elif outcome.partner is not None:
            corrected.append(_corrected(entity, sample.entities[outcome.partner], name, required))
    return tuple(corrected)


def oracle_stages(
    samples: Sequence[Sample], answers: Mapping[str, Prediction], required: Requirement = GROUNDED
) -> dict:
    """The F1 with one stage replaced by an oracle: ``{"mentions" | "visibility" | "regions": {"f1", "estimated"}}``.

    Where the later stages never saw what the gold would have given them (a mention that was missed, an entity that
    was never grounded), they are taken to be right as often as where they did; ``estimated`` counts those entities.
    Running the cascade with the stage ``gold`` in its slot needs no such estimate.
    """
    kind = required.task.region
    named = found = found_right = decided = grounded = grounded_right = unseen = absent = n_predicted = n_gold = 0
    for sample in samples:
        predicted = answers[sample.id].entities if sample.id in answers else ()
        n_predicted += len(predicted)
        n_gold += len(sample.entities)
        found += len(STRICT.correct(sample.entities, predicted, SPAN))
        found_right += len(STRICT.correct(sample.entities, predicted, required.untyped, required.iou))
        # Pairs of the same mention and type, those that are right in the task first.
        right, named_right = (
            required.correct(sample.entities, predicted),
            STRICT.correct(sample.entities, predicted, MNER),
        )
        for index, place in greedy_matching([*right, *named_right]):
            gold, entity = sample.entities[index], predicted[place]
            wanted, given = kind.of(gold), kind.of(replace(entity, visible=None))
            named += 1
            decided += bool(wanted) == bool(kind.of(entity))
            absent += not wanted
            unseen += bool(wanted) and not given
            grounded += bool(wanted and given)
            grounded_right += bool(wanted and given) and kind.best_iou(given[0], wanted) > required.iou
    with_mentions = found_right + (n_gold - found) * share(found_right, found)
    with_visibility = absent + grounded_right + unseen * share(grounded_right, grounded)
    return {
        "mentions": {"f1": share(with_mentions, n_gold), "estimated": n_gold - found},
        "visibility": {"f1": share(2 * with_visibility, n_predicted + n_gold), "estimated": unseen},
        "regions": {"f1": share(2 * decided, n_predicted + n_gold), "estimated": 0},
    }


def _cause(gold_entities: Sequence[Entity], index: int, predicted: Entity, required: Requirement) -> str:
    """Why a pair of the same mention and type is not right."""
    gold = gold_entities[index]
    wanted, given = boxes_of(gold), boxes_of(predicted)
    if wanted and given:
        reached = best_box_iou(given[0], wanted)
        if reached <= required.iou:
            others = [box for place, other in enumerate(gold_entities) if place != index for box in boxes_of(other)]
            if best_box_iou(given[0], others) > required.iou:
                return "confused_entity"
            return "localisation" if reached >= TOUCHES else "background"
    elif wanted or given:
        return "missed_grounding" if wanted else "spurious_grounding"
    if not required.masked:
        return CORRECT
    if wanted or (masks_of(gold) and masks_of(predicted)):
        return "mask_error"
    return "missed_grounding" if masks_of(gold) else "spurious_grounding"


def _overlapping(
    sample: Sample,
    predicted: Sequence[Entity],
    gold_outcomes: Sequence[Outcome | None],
    predicted_outcomes: Sequence[Outcome | None],
) -> list[tuple[Pair, str]]:
    """Open entities whose spans overlap, those with the most common tokens first, and the type of error."""
    gold_entities, predicted = (
        locate_mentions(sample.tokens, sample.entities),
        locate_mentions(sample.tokens, predicted),
    )
    shared = []
    for place, entity in enumerate(predicted):
        for index, gold in enumerate(gold_entities):
            if gold_outcomes[index] or predicted_outcomes[place] or not (gold.span and entity.span):
                continue
            common = min(gold.span[1], entity.span[1]) - max(gold.span[0], entity.span[0])
            if common > 0:
                shared.append((-common, (index, place)))
    taken = greedy_matching(pair for _, pair in sorted(shared))
    return [
        ((index, place), _boundary_error(gold_entities[index].span, predicted[place].span)) for index, place in taken
    ]


def _boundary_error(gold: tuple[int, int], predicted: tuple[int, int]) -> str:
    if predicted[0] <= gold[0] and gold[1] <= predicted[1]:
        return "boundary_longer"
    return "boundary_shorter" if gold[0] <= predicted[0] and predicted[1] <= gold[1] else "boundary_overlap"


def _unmatched(place: int, gold_entities: Sequence[Entity], predicted: Sequence[Entity]) -> Outcome:
    """The outcome of a prediction that no gold entity is left for."""
    again = any(same_span_or_text(other, predicted[place]) for other in (*gold_entities, *predicted[:place]))
    return Outcome("duplicate" if again else "spurious")


def _corrected(entity: Entity, gold: Entity, name: str, required: Requirement) -> Entity:
    if name.startswith("boundary"):
        return replace(entity, text=gold.text, span=gold.span)
    if name == "type_error":
        return replace(entity, type=gold.type)
    if name == "spurious_grounding":
        return replace(entity, visible=False, boxes=(), masks=())
    masks = gold.masks if required.masked else entity.masks
    if name == "mask_error":
        return replace(entity, masks=masks)
    return replace(entity, visible=is_visible(gold), boxes=gold.boxes, masks=masks)
