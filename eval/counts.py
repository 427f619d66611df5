"""Counts of correct, predicted and gold entities, by task and by every subset that scores are given for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from eval.protocols import EEG, EES, GMNER, SMNER, Post, Protocol, Task, TaskMatches, boxes_of
from eval.stage_metrics import precision_recall_f1
from rivegs_mllm.types import TYPES, Entity, Sample, UserError

SMALL, MEDIUM = 32 * 32, 96 * 96
"""COCO's bounds of area, in pixels of the original picture."""

Stratum = tuple[str, str, str]
"""The subsets that an entity is in: "type:PER", "box:small", "mention:once"."""

Count = tuple[Stratum, int, int]
"""One entity counted once: its stratum, the index of the task, and CORRECT, PREDICTED or GOLD."""

CORRECT, PREDICTED, GOLD = range(3)

_PREFIXES = ("type:", "entities:", "box:", "mention:")
"""The prefixes of the subsets that the scores make themselves."""

_TYPED = {EEG: GMNER, EES: SMNER}
"""Within a type these two count as the other two do: entities of another type are in another subset."""


class CountAccumulator:
    """Adds up the counts of posts under one protocol."""

    def __init__(self, protocol: Protocol, tasks: Sequence[Task], iou: float = 0.5):
        self.protocol = protocol
        self.tasks = tasks
        self.iou = iou
        self.subsets = {("all",)}
        self.counts: Counter[tuple[tuple[str, ...], Count]] = Counter()

    def add(self, post: Post, matches: Sequence[TaskMatches], strata: Strata) -> None:
        """Counts a post in; ``matches`` are this protocol's, by task."""
        names = post_names(post.sample)
        self.subsets.add(names)
        self.counts.update([(names, count) for count in counts_of(self.protocol, matches, strata, self.iou)])

    def scores(self) -> dict:
        """``{subset: {task: {"correct", "predicted", "gold", "precision", "recall", "f1"}}}``."""
        totals = {name: np.zeros((len(self.tasks), 3), int) for names in self.subsets for name in names}
        for (names, (stratum, task, figure)), count in self.counts.items():
            for name in (*names, *stratum):
                totals.setdefault(name, np.zeros((len(self.tasks), 3), int))[task, figure] += count
        _share_typed(totals, self.tasks)
        return {
            name: {
                task.name: precision_recall_f1(*row)
                for task, row in zip(self.tasks, totals[name].tolist(), strict=True)
            }
            for name in in_order(totals)
        }


def per_post(
    protocol: Protocol, posts: Sequence[Post], tasks: Sequence[Task], iou: float = 0.5
) -> dict[str, np.ndarray]:
    """``{subset: counts}``, each an integer array of (posts, tasks, 3): correct, predicted, gold."""
    shape = (len(posts), len(tasks), 3)
    cells: dict[str, list[int]] = defaultdict(list)  # of each subset, the flat index of every count in its array
    for index, post in enumerate(posts):
        names = post_names(post.sample)
        for name in names:
            cells.setdefault(name, [])  # a post without entities is in its subsets too
        for stratum, task, figure in counts_of(protocol, protocol.evaluate_post(post, tasks), Strata(post), iou):
            cell = (index * len(tasks) + task) * 3 + figure
            for name in (*names, *stratum):
                cells[name].append(cell)
    size = len(posts) * len(tasks) * 3
    arrays = {name: np.bincount(cells[name], minlength=size).reshape(shape) for name in in_order(cells)}
    _share_typed(arrays, tasks)
    return arrays


def counts_of(protocol: Protocol, matches: Sequence[TaskMatches], strata: Strata, iou: float) -> list[Count]:
    """The counts of one post.

    A correct prediction is in its gold entity's stratum, any other and the gold are in their own, so that the strata
    of a kind add up to the whole post.
    """
    counts: list[Count] = []
    gold, predicted = strata.gold, strata.predicted
    for task, entered in enumerate(matches):
        if protocol.enter is not None:
            gold, predicted = list(map(strata.of, entered.gold_entities)), list(map(strata.of, entered.predicted))
        partner = {place: index for index, place in protocol.pairs(entered, iou)}
        counts += [(stratum, task, GOLD) for stratum in gold]
        for place, stratum in enumerate(predicted):
            if place in partner:
                stratum = gold[partner[place]]
                counts.append((stratum, task, CORRECT))
            counts.append((stratum, task, PREDICTED))
    return counts


def post_names(sample: Sample) -> tuple[str, ...]:
    """The subsets that a post is in as a whole."""
    many = f"entities:{len(sample.entities)}" if len(sample.entities) < 3 else "entities:3+"
    return ("all", sample.subset, many) if sample.subset else ("all", many)


def in_order(names: Iterable[str]) -> list[str]:
    """Subsets as they are reported: "all", the posts' own, then the strata, kind by kind."""

    def place(name: str) -> tuple:
        kind = next((index for index, prefix in enumerate(_PREFIXES, 2) if name.startswith(prefix)), 1)
        return (0 if name == "all" else kind), _PLACES.get(name, len(_PLACES)), name

    return sorted(names, key=place)


def without_strata(names: Iterable[str]) -> list[str]:
    """The subsets that the scores do not make themselves: "all", and those that posts are marked as."""
    return [name for name in names if not name.startswith(_PREFIXES)]


def check_subset(name: str) -> None:
    """Raises UserError for a name that the scores use themselves."""
    if name == "all" or name.startswith(_PREFIXES):
        raise UserError(f"gold: posts are marked as subset {name!r}, a name that the scores use themselves")


class Strata:
    """The strata of a post's entities: type, size of the largest box, whether the gold has the mention once or more.

    ``gold`` and ``predicted`` are those of the post's own entities, in their order.
    """

    def __init__(self, post: Post):
        texts = [entity.text for entity in post.sample.entities]
        self._repeated = {text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else ()
        self.gold = list(map(self.of, post.sample.entities))
        self.predicted = list(map(self.of, post.predicted))

    def of(self, entity: Entity) -> Stratum:
        """An entity's stratum."""
        often = "mention:repeated" if entity.text in self._repeated else "mention:once"
        return f"type:{entity.type}", _size(entity), often


_SIZES = ("box:none", "box:small", "box:medium", "box:large")
_PLACES = {name: place for place, name in enumerate((*(f"type:{name}" for name in TYPES), *_SIZES))}


def _size(entity: Entity) -> str:
    boxes = boxes_of(entity)
    if not boxes:
        return "box:none"
    area = max((box.xmax - box.xmin) * (box.ymax - box.ymin) for box in boxes)
    return "box:small" if area < SMALL else "box:medium" if area < MEDIUM else "box:large"


def _share_typed(arrays: dict[str, np.ndarray], tasks: Sequence[Task]) -> None:
    for name, counts in arrays.items():
        if name.startswith("type:"):
            for index, task in enumerate(tasks):
                counts[..., index, :] = counts[..., tasks.index(_TYPED.get(task, task)), :]
