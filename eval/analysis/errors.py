"""Where the points are lost: one verdict for every predicted and every gold entity, and what mending it would give.

The protocol is ``strict``. As in TIDE (Bolya et al., 2020) an error has one cause, the first that applies, and its
weight is the F1 that mending it alone would give.
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
VERDICTS = {
    CORRECT: "correct",
    "unreadable": "gold entity not found, in an answer that could not be read wholly",
    "missed": "gold entity not found",
    "invented": "no gold entity there",
    "duplicate": "said once more",
    "span_longer": "the mention is longer than the gold one",
    "span_shorter": "the mention is shorter than the gold one",
    "span_overlapping": "the mention overlaps the gold one",
    "type_wrong": "mention right, type wrong",
    "said_invisible": "visible, but said invisible or not boxed",
    "boxed_invisible": "not visible, but boxed",
    "box_off": "box on the object, but not well enough",
    "box_on_another": "box on another entity's object",
    "box_on_nothing": "box on no entity's object",
    "mask_wrong": "box right, mask wrong",
}
"""Each verdict and what it means, in the order in which they are looked for and reported."""

TOUCHES = 0.1
"""A box with at least this IoU lies on its object, although not well enough."""

_GOLD_ALONE = ("unreadable", "missed")
_SAID_ALONE = ("invented", "duplicate")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a correct entity agrees with its gold one in. ``task`` is GMNER, or SMNER: masks beside boxes."""

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
class Verdict:
    """What is said of an entity. ``partner`` is the place of the entity on the other side that it is compared with."""

    name: str
    partner: int | None = None


@dataclass(frozen=True, slots=True)
class PostVerdicts:
    """The verdicts of a post's entities, in their order. Two that are compared with each other have the same one."""

    id: str
    gold: tuple[Verdict, ...]
    predicted: tuple[Verdict, ...]


def verdicts_of(sample: Sample, prediction: Prediction | None, required: Requirement = GROUNDED) -> PostVerdicts:
    """One verdict for every entity of a post."""
    predicted = prediction.entities if prediction else ()
    gold_entities = sample.entities
    gold_verdicts: list[Verdict | None] = [None] * len(gold_entities)
    said_verdicts: list[Verdict | None] = [None] * len(predicted)

    def settle(pairs: Sequence[Pair], name: str | None = None) -> None:
        for gold, place in pairs:
            found = name or _cause(gold_entities, gold, predicted[place], required)
            gold_verdicts[gold], said_verdicts[place] = Verdict(found, place), Verdict(found, gold)

    def open_pairs(of: Task) -> list[Pair]:
        left = [index for index, verdict in enumerate(gold_verdicts) if verdict is None]
        free = [place for place, verdict in enumerate(said_verdicts) if verdict is None]
        found = STRICT.correct(
            [gold_entities[index] for index in left], [predicted[place] for place in free], of, required.iou
        )
        return [(left[index], free[place]) for index, place in found]

    settle(open_pairs(required.task), CORRECT)
    settle(open_pairs(GMNER))
    settle(open_pairs(MNER))
    settle(open_pairs(required.untyped), "type_wrong")
    settle(open_pairs(SPAN), "type_wrong")
    if None in gold_verdicts and None in said_verdicts:
        for pair, name in _overlapping(sample, predicted, gold_verdicts, said_verdicts):
            settle([pair], name)
    for place, verdict in enumerate(said_verdicts):
        if verdict is None:
            said_verdicts[place] = _alone(place, gold_entities, predicted)
    lost = "unreadable" if prediction and prediction.errors else "missed"
    return PostVerdicts(
        sample.id, tuple(verdict or Verdict(lost) for verdict in gold_verdicts), tuple(filter(None, said_verdicts))
    )


def error_budget(
    samples: Sequence[Sample], predictions: Sequence[Prediction], required: Requirement = GROUNDED
) -> dict:
    """The verdicts counted and weighed.

    ``{"task", "iou", "f1", "predicted": {verdict: count}, "gold": {verdict: count}, "mended": {verdict: {"f1",
    "gain"}}, "replaced": {stage: {"f1", "estimated"}}}``. The counts add up to the predicted and the gold entities.
    ``mended`` is the F1 with what the verdict blames, and nothing else, set right; ``replaced`` as `replaced_stages`.
    """
    answers = by_id(samples, predictions)
    predicted: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    won: Counter[str] = Counter()
    more: Counter[str] = Counter()
    for sample in samples:
        prediction = answers.get(sample.id)
        verdicts = verdicts_of(sample, prediction, required)
        predicted.update(verdict.name for verdict in verdicts.predicted)
        gold.update(verdict.name for verdict in verdicts.gold)
        before = prediction.entities if prediction else ()
        for name in {verdict.name for verdict in (*verdicts.gold, *verdicts.predicted)} - {CORRECT}:
            after = mend(sample, before, verdicts, name, required)
            won[name] += len(required.correct(sample.entities, after)) - gold_correct(verdicts)
            more[name] += len(after) - len(before)
    correct, n_said, n_gold = gold[CORRECT], predicted.total(), gold.total()
    now = precision_recall_f1(correct, n_said, n_gold)["f1"]
    mended = {
        name: precision_recall_f1(correct + won[name], n_said + more[name], n_gold)["f1"]
        for name in VERDICTS
        if name != CORRECT
    }
    return {
        "task": required.task.name,
        "iou": required.iou,
        "f1": now,
        "predicted": {name: predicted[name] for name in VERDICTS if name not in _GOLD_ALONE},
        "gold": {name: gold[name] for name in VERDICTS if name not in _SAID_ALONE},
        "mended": {name: {"f1": f1, "gain": f1 - now} for name, f1 in mended.items()},
        "replaced": replaced_stages(samples, answers, required),
    }


def gold_correct(verdicts: PostVerdicts) -> int:
    """How many entities of the post are right."""
    return sum(verdict.name == CORRECT for verdict in verdicts.gold)


def mend(
    sample: Sample, predicted: Sequence[Entity], verdicts: PostVerdicts, name: str, required: Requirement = GROUNDED
) -> tuple[Entity, ...]:
    """The predicted entities with what the verdict ``name`` blames set right, and nothing else."""
    if name in _GOLD_ALONE:
        lost = [gold for gold, verdict in zip(sample.entities, verdicts.gold, strict=True) if verdict.name == name]
        return (*predicted, *lost)
    mended = []
    for entity, verdict in zip(predicted, verdicts.predicted, strict=True):
        if verdict.name != name:
            mended.append(entity)
        elif verdict.partner is not None:
            mended.append(_mended(entity, sample.entities[verdict.partner], name, required))
    return tuple(mended)


def replaced_stages(
    samples: Sequence[Sample], answers: Mapping[str, Prediction], required: Requirement = GROUNDED
) -> dict:
    """The F1 with one stage replaced by the gold: ``{"mentions" | "visibility" | "regions": {"f1", "estimated"}}``.

    Where the later stages never saw what the gold would have given them (a mention that was missed, an entity that
    was never grounded), they are taken to be right as often as where they did; ``estimated`` counts those entities.
    Running the cascade with the stage ``gold`` in its slot needs no such estimate.
    """
    kind = required.task.region
    named = found = found_right = decided = grounded = grounded_right = unseen = absent = n_said = n_gold = 0
    for sample in samples:
        predicted = answers[sample.id].entities if sample.id in answers else ()
        n_said += len(predicted)
        n_gold += len(sample.entities)
        found += len(STRICT.correct(sample.entities, predicted, SPAN))
        found_right += len(STRICT.correct(sample.entities, predicted, required.untyped, required.iou))
        for index, place in _named(sample.entities, predicted, required):
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
        "visibility": {"f1": share(2 * with_visibility, n_said + n_gold), "estimated": unseen},
        "regions": {"f1": share(2 * decided, n_said + n_gold), "estimated": 0},
    }


def _named(gold_entities: Sequence[Entity], predicted: Sequence[Entity], required: Requirement) -> list[Pair]:
    """Pairs of the same mention and type, those that are right in the task first."""
    return greedy_matching(
        [*required.correct(gold_entities, predicted), *STRICT.correct(gold_entities, predicted, MNER)]
    )


def _cause(gold_entities: Sequence[Entity], index: int, predicted: Entity, required: Requirement) -> str:
    """Why a pair of the same mention and type is not right."""
    gold = gold_entities[index]
    wanted, given = boxes_of(gold), boxes_of(predicted)
    if wanted and given:
        reached = best_box_iou(given[0], wanted)
        if reached <= required.iou:
            others = [box for place, other in enumerate(gold_entities) if place != index for box in boxes_of(other)]
            if best_box_iou(given[0], others) > required.iou:
                return "box_on_another"
            return "box_off" if reached >= TOUCHES else "box_on_nothing"
    elif wanted or given:
        return "said_invisible" if wanted else "boxed_invisible"
    if not required.masked:
        return CORRECT
    if wanted or (masks_of(gold) and masks_of(predicted)):
        return "mask_wrong"
    return "said_invisible" if masks_of(gold) else "boxed_invisible"


def _overlapping(
    sample: Sample,
    predicted: Sequence[Entity],
    gold_verdicts: Sequence[Verdict | None],
    said_verdicts: Sequence[Verdict | None],
) -> list[tuple[Pair, str]]:
    """Open entities whose spans overlap, those with the most common tokens first, and how the said one is wrong."""
    gold_entities, predicted = (
        locate_mentions(sample.tokens, sample.entities),
        locate_mentions(sample.tokens, predicted),
    )
    shared = []
    for place, entity in enumerate(predicted):
        for index, gold in enumerate(gold_entities):
            if gold_verdicts[index] or said_verdicts[place] or not (gold.span and entity.span):
                continue
            common = min(gold.span[1], entity.span[1]) - max(gold.span[0], entity.span[0])
            if common > 0:
                shared.append((-common, (index, place)))
    taken = greedy_matching(pair for _, pair in sorted(shared))
    return [((index, place), _span_fault(gold_entities[index].span, predicted[place].span)) for index, place in taken]


def _span_fault(gold: tuple[int, int], predicted: tuple[int, int]) -> str:
    if predicted[0] <= gold[0] and gold[1] <= predicted[1]:
        return "span_longer"
    return "span_shorter" if gold[0] <= predicted[0] and predicted[1] <= gold[1] else "span_overlapping"


def _alone(place: int, gold_entities: Sequence[Entity], predicted: Sequence[Entity]) -> Verdict:
    """The verdict of a prediction that no gold entity is left for."""
    again = any(same_span_or_text(other, predicted[place]) for other in (*gold_entities, *predicted[:place]))
    return Verdict("duplicate" if again else "invented")


def _mended(entity: Entity, gold: Entity, name: str, required: Requirement) -> Entity:
    if name.startswith("span"):
        return replace(entity, text=gold.text, span=gold.span)
    if name == "type_wrong":
        return replace(entity, type=gold.type)
    if name == "boxed_invisible":
        return replace(entity, visible=False, boxes=(), masks=())
    masks = gold.masks if required.masked else entity.masks
    if name == "mask_wrong":
        return replace(entity, masks=masks)
    return replace(entity, visible=is_visible(gold), boxes=gold.boxes, masks=masks)
