"""The five tasks, and the protocols by which the literature decides what is correct.

docs/evaluation.md says in words what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.matching import Pair, best_box_iou, best_mask_iou, maximum_matching
from rivegs_mllm.types import Box, Entity, Mask, UserError


@dataclass(frozen=True, slots=True)
class RegionKind:
    """What stands for a region. ``of`` gives an entity's regions, ``best_iou`` the agreement of one with several."""

    of: Callable[[Entity], tuple[Any, ...]]
    best_iou: Callable[[Any, Sequence[Any]], float]


@dataclass(frozen=True, slots=True)
class Task:
    """What must agree beside the mention: the type where ``typed``, the region where ``region`` names a kind."""

    name: str
    typed: bool
    region: RegionKind | None


def boxes_of(entity: Entity) -> tuple[Box, ...]:
    """The boxes that count: none of an entity that is said not to be in the picture."""
    return () if entity.visible is False else entity.boxes


def masks_of(entity: Entity) -> tuple[Mask, ...]:
    """The masks that count: none of an entity that is said not to be in the picture."""
    return () if entity.visible is False else entity.masks


def said_visible(entity: Entity) -> bool:
    """What is said of visibility: the decision where there is one, else whether there is a box."""
    return bool(entity.boxes) if entity.visible is None else entity.visible


BOX = RegionKind(boxes_of, best_box_iou)
MASK = RegionKind(masks_of, best_mask_iou)

MNER = Task("MNER", True, None)
GMNER = Task("GMNER", True, BOX)
EEG = Task("EEG", False, BOX)
SMNER = Task("SMNER", True, MASK)
EES = Task("EES", False, MASK)
TASKS = (MNER, GMNER, EEG, SMNER, EES)


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to decide what is correct.

    ``same_mention(gold, predicted)`` compares mentions; ``same_region(kind, gold, predicted)`` compares regions
    that both sides have, as tuples; ``match`` chooses one-to-one pairs among the agreeing ones,
    which come in the order of the predictions, then of the gold.
    """

    name: str
    same_mention: Callable[[Entity, Entity], bool]
    same_region: Callable[[RegionKind, tuple[Any, ...], tuple[Any, ...]], bool]
    match: Callable[[Sequence[Pair]], list[Pair]]

    def correct(self, golds: Sequence[Entity], predicted: Sequence[Entity], task: Task) -> list[Pair]:
        """The correct predictions of a post, each with the gold entity it is correct for."""
        agreeing = [
            (index, place)
            for place, entity in enumerate(predicted)
            for index, gold in enumerate(golds)
            if (gold.type == entity.type or not task.typed)
            and self.same_mention(gold, entity)
            and self._regions_agree(task.region, gold, entity)
        ]
        return self.match(agreeing) if agreeing else agreeing

    def _regions_agree(self, kind: RegionKind | None, gold: Entity, entity: Entity) -> bool:
        if kind is None:
            return True
        wanted, given = kind.of(gold), kind.of(entity)
        if wanted and given:
            return self.same_region(kind, wanted, given)
        return not wanted and not given


def same_span_or_text(gold: Entity, predicted: Entity) -> bool:
    """Equal token spans where both sides have one, else equal strings."""
    if gold.span is not None and predicted.span is not None:
        return gold.span == predicted.span
    return gold.text == predicted.text


def first_above_half(kind: RegionKind, golds: tuple[Any, ...], predicted: tuple[Any, ...]) -> bool:
    """Whether the first predicted region has an IoU of more than 0.5 with one of the gold regions."""
    return kind.best_iou(predicted[0], golds) > 0.5


STRICT = Protocol("strict", same_span_or_text, first_above_half, maximum_matching)
PROTOCOLS = {protocol.name: protocol for protocol in (STRICT,)}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name. Raises UserError with the names there are."""
    if name not in PROTOCOLS:
        raise UserError(f"no protocol '{name}'; there are: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
