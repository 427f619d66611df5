"""The posts of the page: what its gallery draws, as plain values that become JSON.

Everything that came with a post stays a string; the page's script sets it as text and never as markup.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

from eval.analysis.errors import CORRECT, OUTCOMES, Outcome, PostOutcomes, Requirement, outcomes_of
from eval.coordinates import locate_mentions
from eval.protocols import Task, boxes_of, is_visible, masks_of
from eval.report.thumbnails import Picture, outline, small_picture
from rivegs_mllm.data.images import PictureError, is_outside
from rivegs_mllm.data.written import as_written, blanks
from rivegs_mllm.types import Entity, Prediction, Sample

Answers = Mapping[str, Mapping[str, Prediction]]
"""The predictions of each system, by post."""

OutcomesByTask = dict[str, list[PostOutcomes]]
"""The outcomes of each system on a post, by task."""

Costs = Mapping[str, Sequence[float]]
"""Of a post, by task: the F1 that each system loses on it."""

_LISTED = 5


@dataclass(frozen=True, slots=True)
class PictureFault:
    """What is wrong with the picture of a post: a ``fault`` that many can have, and the ``detail`` of this one."""

    post: str
    fault: str
    detail: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.detail}"


def picture_faults_in_words(found: Sequence[PictureFault]) -> list[str]:
    """One line for each fault, however many posts have it."""
    by_fault: dict[str, list[PictureFault]] = defaultdict(list)
    for one in found:
        by_fault[one.fault].append(one)
    lines = []
    for fault, own in by_fault.items():
        if len(own) == 1:
            lines.append(f"post {own[0].post}: {own[0]}")
        else:
            ids = ", ".join(one.post for one in own[:_LISTED]) + (", ..." if len(own) > _LISTED else "")
            lines.append(f"{len(own)} posts ({ids}): {fault}; the first: {own[0].detail}")
    return lines


def outcomes_by_task(sample: Sample, answers: Answers, tasks: Sequence[Task]) -> OutcomesByTask:
    """The outcomes of every system on a post."""
    return {
        task.name: [outcomes_of(sample, predicted.get(sample.id), Requirement(task)) for predicted in answers.values()]
        for task in tasks
    }


def worst(outcomes: PostOutcomes, cost: Mapping[str, float]) -> str:
    """The outcome of a post that costs most, `CORRECT` where all is right or there is nothing."""
    found = {outcome.name for outcome in (*outcomes.gold, *outcomes.predicted)} - {CORRECT}
    order = list(OUTCOMES)
    return min(found, key=lambda name: (-cost[name], order.index(name)), default=CORRECT)


def with_picture(
    gold: Sequence[Sample],
    outcomes: Sequence[OutcomesByTask],
    type_costs: Sequence[Mapping[str, float]],
    post_costs: Sequence[float],
    limit: int,
) -> set[str]:
    """The ids of the at most ``limit`` posts whose picture the page carries.

    Half are the posts that cost most by ``post_costs``, for the page opens on them. The others come in turns from the
    groups of posts with the same worst outcomes, costliest group first, so that each is to be seen; within a group
    spread evenly over the gold. ``type_costs`` are, for each system, the F1 of correcting each type of error.
    """
    able = [place for place, sample in enumerate(gold) if sample.image]
    costly = sorted((place for place in able if post_costs[place] > 0), key=lambda place: -post_costs[place])
    first = costly[: (limit + 1) // 2]
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for place in able:
        if place not in first:
            own = next(iter(outcomes[place].values()))
            empty = not any(one.gold or one.predicted for one in own)
            groups[("",) if empty else tuple(map(worst, own, type_costs))].append(gold[place].id)
    rank = sorted(
        groups,
        key=lambda names: (-sum(cost.get(name, 0.0) for cost, name in zip(type_costs, names, strict=False)), names),
    )
    turns = zip_longest(*([names] * len(groups[names]) for names in rank))
    taken = Counter(islice((names for turn in turns for names in turn if names is not None), limit - len(first)))
    others = {name for names, count in taken.items() for name in _spread(groups[names], count)}
    return others | {gold[place].id for place in first}


def post_as_json(
    sample: Sample,
    answers: Answers,
    outcomes: OutcomesByTask,
    costs: Costs,
    picture: Picture | None,
    fault: PictureFault | None,
) -> dict:
    """A post as the page's script reads it; masks are drawn only where there is a picture.

    ``{"id", "subset", "tokens", "joined": [places of tokens without a blank before them], "size": [width, height] or
    None, "picture", "problem", "knowledge", "gold": [entity], "predicted": [{"missing", "entities", "knowledge", "raw",
    "errors"}], "costs": {task: [points of F1]}, "outcomes": {task: [{"gold", "predicted"}]}}``; an outcome is [name,
    index of the partner or None]. Boxes are [x, y, width, height] in pixels of the original.
    """
    size = (picture.width, picture.height) if picture else sample.size
    drawn = picture is not None
    return {
        "id": sample.id,
        "subset": sample.subset,
        "tokens": sample.tokens,
        "joined": [place for place, blank in enumerate(blanks(sample.tokens)) if place and not blank],
        "size": size,
        "picture": picture.uri if picture else None,
        "problem": str(fault) if fault else "",
        "knowledge": sample.knowledge,
        "gold": [_entity(entity, drawn) for entity in sample.entities],
        "predicted": [_answer(sample, predicted.get(sample.id), drawn) for predicted in answers.values()],
        "costs": {task: [round(100 * cost, 4) for cost in own] for task, own in costs.items()},
        "outcomes": {
            task: [{"gold": _pairs(outcomes.gold), "predicted": _pairs(outcomes.predicted)} for outcomes in systems]
            for task, systems in outcomes.items()
        },
    }


def picture_of(
    sample: Sample, folder: Path, image_root: Path | None = None
) -> tuple[Picture | None, PictureFault | None]:
    """The post's picture made small, and what is wrong with it.

    None for one outside ``folder`` and ``image_root``: pages are passed on.
    """
    if is_outside(sample.image, folder, image_root):
        fault = (
            "the picture lies outside the dataset's folder: not shown, unless --image-root names the folder it is in"
        )
        return None, PictureFault(sample.id, fault, f"{sample.image!r:.200}")
    path = folder / sample.image
    try:
        picture = small_picture(path)
    except PictureError as error:
        place, _, fault = str(error).partition(": ")
        return None, PictureFault(sample.id, fault, place)
    if sample.size in (None, (picture.width, picture.height)):
        return picture, None
    shown, noted = f"{picture.width} x {picture.height}", f"{sample.size[0]} x {sample.size[1]}"
    return picture, PictureFault(sample.id, "the picture is not of the size on record", f"{shown}, not {noted}")


def _answer(sample: Sample, predicted: Prediction | None, drawn: bool) -> dict:
    entities = locate_mentions(sample.tokens, predicted.entities) if predicted else []
    return {
        "missing": predicted is None,
        "entities": [_entity(entity, drawn) for entity in entities],
        "knowledge": predicted.knowledge if predicted else "",
        "raw": predicted.raw if predicted else "",
        "errors": predicted.errors if predicted else (),
    }


def _entity(entity: Entity, drawn: bool) -> dict:
    return {
        "text": as_written(entity.text),
        "type": entity.type,
        "span": entity.span,
        "expression": entity.expression,
        "visible": is_visible(entity),
        "score": entity.visible_score,
        "boxes": [
            [_short(value) for value in (box.xmin, box.ymin, max(box.xmax - box.xmin, 0), max(box.ymax - box.ymin, 0))]
            for box in boxes_of(entity)
        ],
        "masks": [outline(mask) for mask in masks_of(entity)] if drawn else [],
    }


def _pairs(outcomes: Sequence[Outcome]) -> list[tuple[str, int | None]]:
    return [(outcome.name, outcome.partner) for outcome in outcomes]


def _short(value: float) -> float:
    """A coordinate with enough digits for a screen, bounded, as predicted ones may be of any size."""
    return round(min(max(value, -1e6), 1e6), 1)


def _spread(ids: Sequence[str], count: int) -> Iterable[str]:
    return [ids[index * len(ids) // count] for index in range(count)]
