"""Precision, recall and F1 of predictions, by protocol, subset and task, and the stages of grounding."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from eval.counts import CountAccumulator, Strata, check_subset, in_order, post_names
from eval.protocols import (
    BOX,
    DEFAULT,
    EES,
    GMNER,
    MASK,
    MNER,
    SMNER,
    SPAN,
    STRICT,
    TASKS,
    Criteria,
    Post,
    Task,
    TaskMatches,
    protocol_named,
)
from eval.stage_metrics import DecisionCounts, GoldMatch, RegionCounts, align, by_id, gold_matches, precision_recall_f1
from rivegs_mllm.data.jsonl import stream_predictions, stream_samples
from rivegs_mllm.data.masks import check_mask
from rivegs_mllm.types import TYPES, Box, Prediction, Sample, UserError

Pair = tuple[Sample, Prediction | None]

SWEEP = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The IoU thresholds from 0.5 to 0.95, COCO's."""


def evaluate(gold: Sequence[Sample], predictions: Sequence[Prediction], criteria: Criteria = DEFAULT) -> dict:
    """The scores, as `rivegs evaluate --json` writes them.

    ``{protocol: {subset: {task: {"correct", "predicted", "gold", "precision", "recall", "f1"}}}}``, fractions in
    [0, 1], 0 where there is nothing to divide by; docs/evaluation.md has the subsets. SMNER and EES are there
    when both the gold and the predictions have masks. Beside the protocols stand "posts", "stages" and what was
    missing or odd; docs/evaluation.md describes them.

    Raises UserError for an id that is not in the gold or comes twice, a box that is not finite, and a broken mask.
    """
    answers = by_id(gold, predictions)
    scorer = Scorer(tasks_of(gold, predictions), criteria)
    for sample in gold:
        scorer.add(sample, answers.get(sample.id))
    return scorer.result()


def evaluate_files(gold: Path, predictions: Path, criteria: Criteria = DEFAULT) -> dict:
    """`evaluate` of two JSONL files, of which only the lines whose partner has not come yet are in memory.

    Raises RecordError for a line that is no record, and UserError as `evaluate` does.
    """
    tasks = TASKS if _has_masks(gold) and _has_masks(predictions) else _WITHOUT_MASKS
    scorer = Scorer(tasks, criteria)
    for sample, prediction in _side_by_side(stream_samples(gold), stream_predictions(predictions)):
        scorer.add(sample, prediction)
    return scorer.result()


def iou_sweep(
    gold: Sequence[Sample],
    predictions: Sequence[Prediction],
    criteria: Criteria = DEFAULT,
    thresholds: Sequence[float] = SWEEP,
) -> dict:
    """GMNER, and SMNER where there are masks, by IoU threshold (RiVEG, Fig. 9); that of ``criteria`` is not looked at.

    ``{protocol: {task: {"0.50": {"correct", "predicted", "gold", "precision", "recall", "f1"}}}}`` over all posts.
    """
    posts = join(gold, predictions, criteria.candidates)
    tasks = [task for task in tasks_of(gold, predictions) if task in (GMNER, SMNER)]
    result: dict = {}
    for protocol in map(protocol_named, criteria.protocols):
        result[protocol.name] = {}
        for task in tasks:
            matches = [protocol.evaluate_post(post, (task,))[0] for post in posts]
            predicted, gold_entities = (
                sum(len(one.predicted) for one in matches),
                sum(len(one.gold_entities) for one in matches),
            )
            result[protocol.name][task.name] = {
                f"{iou:.2f}": precision_recall_f1(
                    sum(len(protocol.pairs(one, iou)) for one in matches), predicted, gold_entities
                )
                for iou in thresholds
            }
    return result


def join(
    gold: Sequence[Sample],
    predictions: Sequence[Prediction],
    candidates: Mapping[str, Sequence[Box]] | None = None,
) -> list[Post]:
    """Every gold post with its prediction. Raises UserError for ids that do not fit and for broken regions."""
    answers = by_id(gold, predictions)
    posts = [_post(sample, answers.get(sample.id), candidates) for sample in gold]
    for post in posts:
        check_regions(post)
    return posts


def tasks_of(gold: Iterable[Sample], predictions: Iterable[Prediction]) -> tuple[Task, ...]:
    """All tasks where both sides have a mask anywhere, else those without masks."""
    in_gold = any(entity.masks for sample in gold for entity in sample.entities)
    in_predictions = any(entity.masks for prediction in predictions for entity in prediction.entities)
    return TASKS if in_gold and in_predictions else _WITHOUT_MASKS


def check_regions(post: Post) -> tuple[bool, bool]:
    """Whether a predicted box of the post has no area, and whether one reaches outside the picture.

    Raises UserError for coordinates that are not finite, gold masks without area, and masks that are broken or not
    of the picture's size.
    """
    size = post.sample.size
    where = f"post {post.sample.id!r}"
    for entity in post.sample.entities:
        for box in entity.boxes:
            _check_finite(box, f"{where}, gold entity {entity.text!r}")
    flat = outside = False
    for entity in post.predicted:
        for box in entity.boxes:
            _check_finite(box, f"{where}, predicted entity {entity.text!r}")
            flat |= box.xmax <= box.xmin or box.ymax <= box.ymin
            outside |= min(box.xmin, box.ymin) < 0 or (size is not None and (box.xmax > size[0] or box.ymax > size[1]))
    _check_masks(post, where)
    return flat, outside


class Scorer:
    """Adds up posts as they come; what it holds does not grow with them, but for the ids that it lists."""

    def __init__(self, tasks: Sequence[Task], criteria: Criteria):
        self.tasks = tasks
        self.candidates = criteria.candidates
        self.counts = [CountAccumulator(protocol_named(name), tasks, criteria.iou) for name in criteria.protocols]
        self.stages = StagesBySubset()
        self.posts = 0
        self.masked = [False, False]
        self.types: set[str] = set(TYPES)
        self.strange: dict[str, list[str]] = {}
        self.ids: dict[str, list[str]] = {key: [] for key in _LISTED}

    def add(self, sample: Sample, prediction: Prediction | None) -> None:
        """Counts a post in."""
        if sample.subset:
            check_subset(sample.subset)
        post = _post(sample, prediction, self.candidates)
        self.posts += 1
        self._note(post, prediction)
        strata = Strata(post)
        *strictly, spans = STRICT.evaluate_post(post, (*self.tasks, SPAN))
        for counts in self.counts:
            matches = strictly if counts.protocol is STRICT else counts.protocol.evaluate_post(post, self.tasks)
            counts.add(post, matches, strata)
        self.stages.add(post, strictly[self.tasks.index(MNER)], spans, strata)

    def result(self) -> dict:
        """What `evaluate` gives."""
        masked = all(self.masked)
        tasks = self.tasks if masked else [task for task in self.tasks if task in _WITHOUT_MASKS]
        kept = {task.name for task in tasks}
        scores = {counts.protocol.name: counts.scores() for counts in self.counts}
        for by_task in chain.from_iterable(subsets.values() for subsets in scores.values()):
            for name in by_task.keys() - kept:
                del by_task[name]
        unknown = {name: ids for name, ids in self.strange.items() if name not in self.types}
        self.ids["unknown_types"] = sorted(set(chain.from_iterable(unknown.values())))
        return {
            **scores,
            "posts": self.posts,
            "stages": self.stages.figures(chain(*scores.values()), masked),
            **{key: {"count": len(ids), "ids": ids} for key, ids in self.ids.items()},
        }

    def _note(self, post: Post, prediction: Prediction | None) -> None:
        """Notes what is missing or odd in the post."""
        flat, outside = check_regions(post)
        noted = (prediction is None, bool(prediction and prediction.errors), flat, outside)
        for key, found in zip(_LISTED, noted, strict=True):
            if found:
                self.ids[key].append(post.sample.id)
        for entity in post.sample.entities:
            self.types.add(entity.type)
            self.masked[0] |= bool(entity.masks)
        for entity in post.predicted:
            self.masked[1] |= bool(entity.masks)
            if entity.type not in self.types:
                self.strange.setdefault(entity.type, []).append(post.sample.id)


class StagesBySubset:
    """Adds up the stages: those after the spans for every subset, the spans for the subsets of whole posts."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, ...], _Stages] = {("all",): _Stages()}
        self.spans: dict[tuple[str, ...], list[int]] = {("all",): [0, 0, 0]}

    def add(self, post: Post, named: TaskMatches, spans: TaskMatches, strata: Strata) -> None:
        """Counts a post in. ``named`` are its matches by mention and type, ``spans`` by mention."""
        names = post_names(post.sample)
        counts = self.spans.setdefault(names, [0, 0, 0])
        for place, count in enumerate((len(STRICT.pairs(spans)), len(post.predicted), len(post.sample.entities))):
            counts[place] += count
        pairs = [(gold, place) for gold, place, _ in named.candidate_pairs]
        gold_entities, predicted = {gold for gold, _ in pairs}, {place for _, place in pairs}
        if not len(gold_entities) == len(predicted) == len(pairs):
            pairs = align(post.sample.entities, post.predicted)
        for pair, stratum in zip(gold_matches(post.sample, post.predicted, pairs), strata.gold, strict=True):
            key = (*names, *stratum)
            if key not in self.cells:
                self.cells[key] = _Stages()
            self.cells[key].add(pair)

    def figures(self, names: Iterable[str], masked: bool) -> dict:
        """``{subset: {"entailment", "grounding"}}`` of the subsets of those names and of those that were met; with
        "segmentation" where ``masked``, and with "span" where the subset is of whole posts."""
        subsets = {name: _Stages() for name in names}
        for names, cell in self.cells.items():
            for name in names:
                subsets.setdefault(name, _Stages()).merge(cell)
        spans: dict[str, list[int]] = {}
        for names, counts in self.spans.items():
            for name in names:
                spans[name] = [sum(pair) for pair in zip(spans.get(name, (0, 0, 0)), counts, strict=True)]
        return {
            name: {**({"span": precision_recall_f1(*spans[name])} if name in spans else {}), **cell.figures(masked)}
            for name, cell in ((name, subsets[name]) for name in in_order(subsets))
        }


class _Stages:
    def __init__(self) -> None:
        self.entailment, self.grounding, self.segmentation = DecisionCounts(), RegionCounts(BOX), RegionCounts(MASK)

    def add(self, pair: GoldMatch) -> None:
        self.entailment.add(pair)
        if pair.gold.boxes:
            self.grounding.add(pair)
        if pair.gold.masks:
            self.segmentation.add(pair)

    def merge(self, other: _Stages) -> None:
        self.entailment.merge(other.entailment)
        self.grounding.merge(other.grounding)
        self.segmentation.merge(other.segmentation)

    def figures(self, masked: bool) -> dict:
        figures = {"entailment": self.entailment.figures(), "grounding": self.grounding.figures()}
        return {**figures, "segmentation": self.segmentation.figures()} if masked else figures


_LISTED = ("missing_predictions", "unreadable_answers", "boxes_without_area", "boxes_outside")
_WITHOUT_MASKS = tuple(task for task in TASKS if task not in (SMNER, EES))


def _post(sample: Sample, prediction: Prediction | None, candidates: Mapping[str, Sequence[Box]] | None) -> Post:
    if candidates is None:
        return Post(sample, prediction.entities if prediction else ())
    if sample.id not in candidates:
        raise UserError(f"candidates: nothing for the post {sample.id!r}; give [] for a picture without any")
    return Post(sample, prediction.entities if prediction else (), tuple(candidates[sample.id]))


def _has_masks(path: Path) -> bool:
    """Whether the file has the field anywhere; a missing or empty file is left to its reader."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"masks"') >= 0  # faster than parsing, and tasks must be known before the first line


def _side_by_side(samples: Iterator[Sample], predictions: Iterator[Prediction]) -> Iterator[Pair]:
    """Each sample with its prediction as soon as both have been read, in the end the samples without one."""
    unanswered: dict[str, Sample] = {}
    early: dict[str, Prediction] = {}
    for sample, prediction in zip_longest(samples, predictions):
        if sample is not None:
            unanswered[sample.id] = sample
        if prediction is not None:
            early[prediction.id] = prediction
        for key in {one.id for one in (sample, prediction) if one is not None}:
            if key in unanswered and key in early:
                yield unanswered.pop(key), early.pop(key)
    if early:
        raise UserError(f"predictions: the id {next(iter(early))!r} is not in the gold; is it another split?")
    for sample in unanswered.values():
        yield sample, None


def _check_finite(box: Box, where: str) -> None:
    if not all(map(math.isfinite, (box.xmin, box.ymin, box.xmax, box.ymax))):
        raise UserError(f"{where}: the box {box} has a coordinate that is no finite number")


def _check_masks(post: Post, where: str) -> None:
    size = (post.sample.size[1], post.sample.size[0]) if post.sample.size else None
    for entities, whose in ((post.sample.entities, "gold"), (post.predicted, "predicted")):
        for entity in entities:
            for mask in entity.masks:
                size = size or mask.size
                here = f"{where}, {whose} entity {entity.text!r}"
                if check_mask(mask, size, here) == 0 and whose == "gold":
                    raise UserError(f"{here}: the mask has no area")
