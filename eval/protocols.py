"""The five tasks, and the protocols by which the literature decides what is correct.

A protocol defines which entities of a post enter, when two mentions are the same, how well regions agree and which of
the agreeing pairs count. docs/evaluation.md describes each in words.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.coordinates import in_resized_pixels, locate_mentions
from eval.matching import Pair, best_box_iou, best_mask_iou, greedy_matching, maximum_matching
from rivegs_mllm.types import Box, Entity, Mask, Sample, UserError


@dataclass(frozen=True, slots=True, eq=False)
class RegionKind:
    """A kind of region. ``of`` gives an entity's regions, ``best_iou`` the highest IoU of one with several."""

    of: Callable[[Entity], tuple[Any, ...]]
    best_iou: Callable[[Any, Sequence[Any]], float]


@dataclass(frozen=True, slots=True)
class Task:
    """What must agree in a task beside the mention: the type where ``typed``, the region where ``region`` is a kind."""

    name: str
    typed: bool
    region: RegionKind | None


def boxes_of(entity: Entity) -> tuple[Box, ...]:
    """The boxes that count, in pixels of the original picture: none of an entity that is marked as not visible."""
    return () if entity.visible is False else entity.boxes


def masks_of(entity: Entity) -> tuple[Mask, ...]:
    """The masks that count: none of an entity that is marked as not visible."""
    return () if entity.visible is False else entity.masks


def is_visible(entity: Entity) -> bool:
    """The visibility decision where there is one, else whether there is a box."""
    return bool(entity.boxes) if entity.visible is None else entity.visible


BOX = RegionKind(boxes_of, best_box_iou)
MASK = RegionKind(masks_of, best_mask_iou)

MNER = Task("MNER", True, None)
GMNER = Task("GMNER", True, BOX)
EEG = Task("EEG", False, BOX)
SMNER = Task("SMNER", True, MASK)
EES = Task("EES", False, MASK)
TASKS = (MNER, GMNER, EEG, SMNER, EES)
SPAN = Task("span", False, None)
"""The mention alone."""


NO_REGION = math.inf
"""The agreement of two entities whose regions are not compared, since the task or neither of them has any."""


@dataclass(frozen=True, slots=True)
class Post:
    """A gold post and what is predicted for it. ``candidates`` are a detector's boxes, None where there are none."""

    sample: Sample
    predicted: tuple[Entity, ...] = ()
    candidates: tuple[Box, ...] | None = None


@dataclass(frozen=True, slots=True)
class TaskMatches:
    """The entities that count for a task, and the pairs (gold, predicted) that agree but for the region, with IoUs."""

    gold_entities: Sequence[Entity]
    predicted: Sequence[Entity]
    candidate_pairs: list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to decide what is correct.

    ``enter`` gives the gold and the predicted entities that count for a task, None stands for all of them as they are.
    ``same_mention(gold, predicted, typed)`` compares mentions; types are compared beside it. ``given(kind, predicted)``
    are the regions of a prediction, and ``agreement(post, kind, wanted, given)`` is their IoU with those of a gold
    entity where both have some; ``reaches(iou, threshold)`` tells whether it is enough. ``match`` chooses one-to-one
    pairs among the agreeing ones, which come in the order of the predictions, then of the gold.
    """

    name: str
    enter: Callable[[Post, Task], tuple[Sequence[Entity], Sequence[Entity]]] | None
    same_mention: Callable[[Entity, Entity, bool], bool]
    given: Callable[[RegionKind, Entity], tuple[Any, ...]]
    agreement: Callable[[Post, RegionKind, tuple[Any, ...], tuple[Any, ...]], float]
    reaches: Callable[[float, float], bool]
    match: Callable[[Sequence[Pair]], list[Pair]]

    def evaluate_post(self, post: Post, tasks: Sequence[Task]) -> list[TaskMatches]:
        """The pairs of the post that agree in each task, before a threshold is applied."""
        if self.enter is not None:
            return [self._matches(post, *self.enter(post, task), (task,))[0] for task in tasks]
        return self._matches(post, post.sample.entities, post.predicted, tasks)

    def pairs(self, matches: TaskMatches, iou: float = 0.5) -> list[Pair]:
        """The correct predictions, each with the gold entity it is correct for, as places in what entered."""
        agreeing = [(gold, place) for gold, place, reached in matches.candidate_pairs if self.reaches(reached, iou)]
        return self.match(agreeing) if len(agreeing) > 1 else agreeing

    def correct(
        self, gold_entities: Sequence[Entity], predicted: Sequence[Entity], task: Task, iou: float = 0.5
    ) -> list[Pair]:
        """The correct pairs of a post of which nothing but the entities is known."""
        return self.pairs(
            self.evaluate_post(Post(Sample("", (), entities=tuple(gold_entities)), tuple(predicted)), (task,))[0], iou
        )

    def _matches(
        self, post: Post, gold_entities: Sequence[Entity], predicted: Sequence[Entity], tasks: Sequence[Task]
    ) -> list[TaskMatches]:
        matches = [TaskMatches(gold_entities, predicted, []) for _ in tasks]
        for place, entity in enumerate(predicted):
            for index, gold in enumerate(gold_entities):
                if not self.same_mention(gold, entity, False):
                    continue
                typed = gold.type == entity.type and self.same_mention(gold, entity, True)
                ious: dict[RegionKind | None, float] = {}
                for task, result in zip(tasks, matches, strict=True):
                    if typed or not task.typed:
                        kind = task.region
                        if kind not in ious:
                            ious[kind] = self._iou(post, kind, gold, entity)
                        if ious[kind]:
                            result.candidate_pairs.append((index, place, ious[kind]))
        return matches

    def _iou(self, post: Post, kind: RegionKind | None, gold: Entity, entity: Entity) -> float:
        """The regions' IoU, 0 where one side alone has a region."""
        if kind is None:
            return NO_REGION
        wanted, given = kind.of(gold), self.given(kind, entity)
        if wanted and given:
            return self.agreement(post, kind, wanted, given)
        return 0.0 if wanted or given else NO_REGION


def regions_of(kind: RegionKind, predicted: Entity) -> tuple[Any, ...]:
    """The regions that a prediction has."""
    return kind.of(predicted)


def same_span_or_text(gold: Entity, predicted: Entity, typed: bool = True) -> bool:
    """Equal token spans where both sides have one, else equal strings."""
    if gold.span is not None and predicted.span is not None:
        return gold.span == predicted.span
    return gold.text == predicted.text


def same_text(gold: Entity, predicted: Entity, typed: bool) -> bool:
    """Equal strings, wherever they stand."""
    return gold.text == predicted.text


def first_with_any(post: Post, kind: RegionKind, wanted: tuple[Any, ...], given: tuple[Any, ...]) -> float:
    """The IoU of the first predicted region with the gold region that it agrees with best."""
    return kind.best_iou(given[0], wanted)


STRICT = Protocol("strict", None, same_span_or_text, regions_of, first_with_any, operator.gt, maximum_matching)


def _rows_regions(kind: RegionKind, predicted: Entity) -> tuple[Any, ...]:
    """As in RiVEG's rows: what is predicted visible always has a box, [0, 0, 0, 0] where none was predicted."""
    return kind.of(predicted) or ((Box(0, 0, 0, 0),) if kind is BOX and predicted.visible else ())


def _same_key(gold: Entity, predicted: Entity, typed: bool) -> bool:
    """Equal keys ``mention(TYPE)``; without the type all from the first bracket on is cut off."""
    return gold.text == predicted.text if typed else gold.text.split("(")[0] == predicted.text.split("(")[0]


RIVEG = Protocol("riveg", None, _same_key, _rows_regions, first_with_any, operator.ge, greedy_matching)


def _any_with_any_resized(post: Post, kind: RegionKind, wanted: tuple[Any, ...], given: tuple[Any, ...]) -> float:
    """The best IoU of all predicted with all gold regions; boxes in whole pixels of the resized picture."""
    if kind is BOX and post.sample.size is not None:
        wanted, given = ([in_resized_pixels(box, post.sample.size) for box in boxes] for boxes in (wanted, given))
    return max(kind.best_iou(region, wanted) for region in given)


E2E = Protocol("e2e", None, same_text, regions_of, _any_with_any_resized, operator.ge, maximum_matching)


def _last_of_each_position(post: Post, task: Task) -> tuple[Sequence[Entity], Sequence[Entity]]:
    """One entity a position, the last prediction for it. A prediction whose words are not in the post is dropped."""
    tokens = post.sample.tokens
    predicted = locate_mentions(tokens, post.predicted)
    if tokens:
        predicted = [entity for entity in predicted if entity.span is not None and entity.span[1] <= len(tokens)]
    return _unique(locate_mentions(tokens, post.sample.entities), _position), _unique(predicted, _position)


def _same_position(gold: Entity, predicted: Entity, typed: bool) -> bool:
    return _position(gold) == _position(predicted)


def _best_candidate_with_any(post: Post, kind: RegionKind, wanted: tuple[Any, ...], given: tuple[Any, ...]) -> float:
    """The IoU with the gold of the detector's candidate that the first predicted box overlaps most."""
    if kind is not BOX or post.candidates is None:
        return kind.best_iou(given[0], wanted)
    overlaps = [best_box_iou(given[0], (candidate,)) for candidate in post.candidates]
    most = max(overlaps, default=0.0)
    return best_box_iou(post.candidates[overlaps.index(most)], wanted) if most else 0.0


HINDEX = Protocol(
    "hindex", _last_of_each_position, _same_position, regions_of, _best_candidate_with_any, operator.gt, greedy_matching
)


def _set_of_triples(post: Post, task: Task) -> tuple[Sequence[Entity], Sequence[Entity]]:
    """Gold and predictions as sets of (position, type, region), as much of it as the task looks at.

    An entity with several regions is in its set once for each of them.
    """

    def key(entity: Entity) -> Hashable:
        return _position(entity), task.typed and entity.type, task.region and task.region.of(entity)

    both = (locate_mentions(post.sample.tokens, entities) for entities in (post.sample.entities, post.predicted))
    gold_entities, predicted = (
        _unique((one for entity in side for one in _one_per_region(entity, task.region)), key) for side in both
    )
    return gold_entities, predicted


MQSPN = Protocol("mqspn", _set_of_triples, _same_position, regions_of, first_with_any, operator.ge, maximum_matching)

PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, RIVEG, E2E, HINDEX, MQSPN)}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UserError with the names there are."""
    if name not in PROTOCOLS:
        raise UserError(f"no protocol '{name}'; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


@dataclass(frozen=True, slots=True)
class Criteria:
    """The criteria of scores: protocols by name, the IoU threshold of regions, a detector's boxes by post.

    ``candidates`` are for ``hindex``. Raises UserError for an unknown protocol and a threshold outside (0, 1].
    """

    protocols: Sequence[str] = ("strict",)
    iou: float = 0.5
    candidates: Mapping[str, Sequence[Box]] | None = None

    def __post_init__(self) -> None:
        for name in self.protocols:
            protocol_named(name)
        if not 0 < self.iou <= 1:
            raise UserError(f"IoU threshold {self.iou}: it must be above 0 and at most 1")


DEFAULT = Criteria()


def _position(entity: Entity) -> Hashable:
    """The mention's span; its string where that is not known."""
    return entity.text if entity.span is None else entity.span


def _unique(entities: Iterable[Entity], key: Callable[[Entity], Hashable]) -> list[Entity]:
    """The last entity of each key, in the order in which the keys come first."""
    return list({key(entity): entity for entity in entities}.values())


def _one_per_region(entity: Entity, kind: RegionKind | None) -> list[Entity]:
    if kind is None or len(kind.of(entity)) < 2:
        return [entity]
    if kind is BOX:
        return [replace(entity, boxes=(box,)) for box in entity.boxes]
    return [replace(entity, masks=(mask,)) for mask in entity.masks]
