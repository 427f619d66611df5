"""Counts of what is correct, predicted and gold, post by post, under every subset that scores are given for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eval.protocols import EEG, EES, GMNER, SMNER, TASKS, Judged, Post, Protocol, Task, boxes_of
from eval.stage_metrics import precision_recall_f1
from rivegs_mllm.types import TYPES, Entity, Sample, UserError

SMALL, MEDIUM = 32 * 32, 96 * 96
"""COCO's bounds of area, in pixels of the original picture."""

Sort = tuple[str, str, str]
"""What an entity is: "type:PER", "box:small", "mention:once"."""

_BITS = 40
_UNITS = [[1 << _BITS * (3 * column + figure) for figure in range(3)] for column in range(len(TASKS))]
KINDS = ("type:", "entities:", "box:", "mention:")
"""How the names of subsets begin that the scores make themselves."""

_TYPED = {EEG: GMNER, EES: SMNER}


class Counts(NamedTuple):
    """The counts of a post: as a whole under ``names``, and of its entities by sort.

    All counts of all tasks are packed into one integer, 40 bits each, so that adding them up is one addition: correct,
    predicted and gold of the first task, then of the next. `unpacked` takes it apart.
    """

    names: tuple[str, ...]
    whole: int
    by_sort: Mapping[Sort, int]


class Tally:
    """Adds up posts."""

    def __init__(self, protocol: Protocol, tasks: Sequence[Task], iou: float = 0.5):
        self.protocol = protocol
        self.tasks = tasks
        self.iou = iou
        self.whole: Counter[tuple[str, ...]] = Counter({("all",): 0})
        self.by_sort: Counter[Sort] = Counter()

    def add(self, post: Post, judged: Sequence[Judged], sorts: Sorts) -> None:
        """Counts a post in, as this protocol has judged it."""
        counts = count_post(self.protocol, post, self.iou, judged, sorts)
        self.whole[counts.names] += counts.whole
        for sort, packed in counts.by_sort.items():
            self.by_sort[sort] += packed

    def scores(self) -> dict:
        """``{subset: {task: {"correct", "predicted", "gold", "precision", "recall", "f1"}}}``."""
        totals: Counter[str] = Counter()
        for names, packed in (*self.whole.items(), *self.by_sort.items()):
            for name in names:
                totals[name] += packed
        return {
            name: {
                task.name: precision_recall_f1(*row)
                for task, row in zip(self.tasks, unpacked(name, totals[name], self.tasks), strict=True)
            }
            for name in in_order(totals)
        }


def per_post(
    protocol: Protocol, posts: Sequence[Post], tasks: Sequence[Task], iou: float = 0.5
) -> dict[str, np.ndarray]:
    """``{subset: counts}``, each an integer array of (posts, tasks, 3): correct, predicted, gold."""
    arrays: dict[str, np.ndarray] = {}
    for index, post in enumerate(posts):
        counts = count_post(protocol, post, iou, protocol.judge(post, tasks), Sorts(post))
        totals: Counter[str] = Counter(dict.fromkeys(counts.names, counts.whole))
        for sort, packed in counts.by_sort.items():
            for name in sort:
                totals[name] += packed
        for name, packed in totals.items():
            if name not in arrays:
                arrays[name] = np.zeros((len(posts), len(tasks), 3), np.int32)
            arrays[name][index] = unpacked(name, packed, tasks)
    return {name: arrays[name] for name in in_order(arrays)}


def count_post(protocol: Protocol, post: Post, iou: float, judged: Sequence[Judged], sorts: Sorts) -> Counts:
    """The counts of one post.

    "all", the post's own subset and "entities:2" (so many gold ones) count the whole post, "type:PER", "box:small" and
    "mention:repeated" entities: a correct prediction is of its gold entity's sort, any other and the gold are of their
    own, so that the sorts of a kind add up to "all".
    """
    by_sort: dict[Sort, int] = defaultdict(int)
    before = None
    for entered, (correct, predicted, gold) in zip(judged, _UNITS, strict=False):
        partner = {place: index for index, place in protocol.pairs(entered, iou)}
        if before is None or entered.golds is not before.golds or entered.said is not before.said:
            before = entered
            gold_sorts, said_sorts = list(map(sorts.of, entered.golds)), list(map(sorts.of, entered.said))
        for sort in gold_sorts:
            by_sort[sort] += gold
        for place, sort in enumerate(said_sorts):
            if place in partner:
                by_sort[gold_sorts[partner[place]]] += correct + predicted
            else:
                by_sort[sort] += predicted
    return Counts(post_names(post.sample), sum(by_sort.values()), by_sort)


def unpacked(name: str, packed: int, tasks: Sequence[Task]) -> list[tuple[int, int, int]]:
    """Correct, predicted and gold of each task. By type EEG counts as GMNER does, EES as SMNER."""
    mask = (1 << _BITS) - 1
    rows = []
    for task in tasks:
        if name.startswith("type:"):
            task = _TYPED.get(task, task)
        part = packed >> 3 * _BITS * tasks.index(task)
        rows.append((part & mask, part >> _BITS & mask, part >> 2 * _BITS & mask))
    return rows


def post_names(sample: Sample) -> tuple[str, ...]:
    """The subsets that a post is in as a whole."""
    many = f"entities:{len(sample.entities)}" if len(sample.entities) < 3 else "entities:3+"
    return ("all", sample.subset, many) if sample.subset else ("all", many)


def in_order(names: Iterable[str]) -> list[str]:
    """Subsets as they are reported: "all", the posts' own, then the sorts, kind by kind."""

    def place(name: str) -> tuple:
        kind = next((index for index, prefix in enumerate(KINDS, 2) if name.startswith(prefix)), 1)
        return (0 if name == "all" else kind), _PLACES.get(name, len(_PLACES)), name

    return sorted(names, key=place)


def check_subset(name: str) -> None:
    """Raises UserError for a name that the scores use themselves."""
    if name == "all" or name.startswith(KINDS):
        raise UserError(f"gold: posts are marked as subset {name!r}, a name that the scores use themselves")


class Sorts:
    """The sorts of a post's entities: type, size of the largest box, whether the gold has the mention once or more."""

    def __init__(self, post: Post):
        texts = [entity.text for entity in post.sample.entities]
        self.repeated = {text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else ()
        self.known: dict[int, tuple[Entity, Sort]] = {}

    def of(self, entity: Entity) -> Sort:
        """The entity's sort."""
        found = self.known.get(id(entity))
        if found is None:
            often = "mention:repeated" if entity.text in self.repeated else "mention:once"
            found = entity, (f"type:{entity.type}", _size(entity), often)
            self.known[id(entity)] = found  # holds the entity too, or its id would be another's soon
        return found[1]


_SIZES = ("box:none", "box:small", "box:medium", "box:large")
_PLACES = {name: place for place, name in enumerate((*(f"type:{name}" for name in TYPES), *_SIZES))}


def _size(entity: Entity) -> str:
    boxes = boxes_of(entity)
    if not boxes:
        return "box:none"
    area = max((box.xmax - box.xmin) * (box.ymax - box.ymin) for box in boxes)
    return "box:small" if area < SMALL else "box:medium" if area < MEDIUM else "box:large"
