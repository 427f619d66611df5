"""Precision, recall and F1 of predictions, by task, by subset and by type, and the stages of grounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.matching import Pair, check_mask
from eval.protocols import BOX, EES, GMNER, MNER, SMNER, STRICT, TASKS, Protocol, Task, protocol_named
from rivegs_mllm.types import TYPES, Entity, Prediction, Sample, UserError

Post = tuple[Sample, tuple[Entity, ...]]
"""A gold post and what was predicted for it."""


def evaluate(gold: Sequence[Sample], predictions: Sequence[Prediction], protocols: Sequence[str] = ("strict",)) -> dict:
    """The scores, as `rivegs evaluate --json` writes them.

    ``{protocol: {subset: {task: {"correct", "predicted", "gold", "precision", "recall", "f1"}}}}``, fractions in
    [0, 1], 0 where there is nothing to divide by. Subset "all", then the posts' own ("seen"), then "type:PER" and
    so on, over the gold and the predicted entities of that type alone. SMNER and EES are there when both the gold
    and the predictions have masks. Beside the protocols stand "posts", "stages", "missing_predictions" and
    "unreadable_answers"; docs/evaluation.md describes them.

    Raises UserError for an unknown protocol, an id that is not in the gold or comes twice, and a broken mask.
    """
    chosen = [protocol_named(name) for name in protocols]
    answers = _by_id(gold, predictions)
    posts = [(sample, answers[sample.id].entities if sample.id in answers else ()) for sample in gold]
    tasks = _tasks(posts)
    subsets = _subsets(posts)
    if SMNER in tasks:
        _check_masks(posts)
    return {
        **{protocol.name: _scores(posts, protocol, tasks, subsets) for protocol in chosen},
        "posts": len(posts),
        "stages": _stages(posts, subsets),
        "missing_predictions": _counted(sample.id for sample in gold if sample.id not in answers),
        "unreadable_answers": _counted(prediction.id for prediction in predictions if prediction.errors),
    }


def align(golds: Sequence[Entity], predicted: Sequence[Entity], tasks: Sequence[Task] = (GMNER, MNER)) -> list[Pair]:
    """One-to-one pairs of gold and predicted entities of a post: those that are correct (strict) in the first task,
    then of what is left over those that are correct in the next."""
    pairs: list[Pair] = []
    left, open_ = list(range(len(golds))), list(range(len(predicted)))
    for task in tasks:
        found = STRICT.correct([golds[i] for i in left], [predicted[j] for j in open_], task)
        pairs += [(left[i], open_[j]) for i, j in found]
        left = [i for i in left if all(i != gold for gold, _ in pairs)]
        open_ = [j for j in open_ if all(j != place for _, place in pairs)]
    return pairs


def said_visible(entity: Entity) -> bool:
    """What is said of visibility: the decision where there is one, else whether there is a box."""
    return bool(entity.boxes) if entity.visible is None else entity.visible


def format_scores(result: dict) -> RenderableType:
    """The result of `evaluate` as tables for the terminal: percent with two decimals."""
    parts: list[RenderableType] = [_table(name, result[name]) for name in result if name not in _BESIDE]
    parts.append(_stage_table(result["stages"]))
    for key, words in (("missing_predictions", "without a prediction"), ("unreadable_answers", "not wholly readable")):
        found = result[key]
        if found["count"]:
            shown = ", ".join(found["ids"][:10]) + (", ..." if found["count"] > 10 else "")
            parts.append(Text(f"{found['count']} of {result['posts']} posts {words}: {shown}"))
    return Group(*parts)


_BESIDE = ("posts", "stages", "missing_predictions", "unreadable_answers")


def _by_id(gold: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, Prediction]:
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


def _tasks(posts: Sequence[Post]) -> tuple[Task, ...]:
    in_gold = any(entity.masks for sample, _ in posts for entity in sample.entities)
    in_predictions = any(entity.masks for _, entities in posts for entity in entities)
    return TASKS if in_gold and in_predictions else tuple(task for task in TASKS if task not in (SMNER, EES))


def _subsets(posts: Sequence[Post]) -> list[str]:
    """Their names in the order in which they are reported."""
    own = {sample.subset for sample, _ in posts} - {""}
    for name in own:
        if name == "all" or name.startswith("type:"):
            raise UserError(f"gold: posts are marked as subset {name!r}, a name that the scores use themselves")
    types = {entity.type for sample, entities in posts for entity in (*sample.entities, *entities)}
    ordered = [name for name in TYPES if name in types] + sorted(types.difference(TYPES))
    return ["all", *sorted(own), *(f"type:{name}" for name in ordered)]


def _check_masks(posts: Sequence[Post]) -> None:
    for sample, predicted in posts:
        size = (sample.size[1], sample.size[0]) if sample.size else None
        for entities, whose in ((sample.entities, "gold"), (predicted, "predicted")):
            for entity in entities:
                for mask in entity.masks:
                    size = size or mask.size
                    where = f"post {sample.id!r}, {whose} entity {entity.text!r}"
                    area = check_mask(mask, size, where)
                    if area == 0 and whose == "gold":
                        raise UserError(f"{where}: the mask has no area")


def _groups(posts: Sequence[Post]) -> Iterator[tuple[list[str], Sequence[Entity], Sequence[Entity]]]:
    """The names of the subsets that count them, gold entities, predicted entities of one post.

    A post of one type comes once, under all its subsets; posts without any entity do not come.
    """
    for sample, predicted in posts:
        names = ["all", sample.subset] if sample.subset else ["all"]
        golds = sample.entities
        types = {entity.type for entity in golds} | {entity.type for entity in predicted}
        if len(types) == 1:
            yield [*names, f"type:{types.pop()}"], golds, predicted
            continue
        if types:
            yield names, golds, predicted
        for name in types:
            yield [f"type:{name}"], [e for e in golds if e.type == name], [e for e in predicted if e.type == name]


def _scores(posts: Sequence[Post], protocol: Protocol, tasks: Sequence[Task], subsets: Sequence[str]) -> dict:
    counts = {name: {task.name: [0, 0, 0] for task in tasks} for name in subsets}
    for names, golds, predicted in _groups(posts):
        for task in tasks:
            correct = len(protocol.correct(golds, predicted, task)) if golds and predicted else 0
            for name in names:
                count = counts[name][task.name]
                count[0] += correct
                count[1] += len(predicted)
                count[2] += len(golds)
    return {name: {task: _prf(*count) for task, count in by_task.items()} for name, by_task in counts.items()}


def _prf(correct: int, predicted: int, gold: int) -> dict:
    return {
        "correct": correct,
        "predicted": predicted,
        "gold": gold,
        "precision": _share(correct, predicted),
        "recall": _share(correct, gold),
        "f1": _share(2 * correct, predicted + gold),
    }


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _stages(posts: Sequence[Post], subsets: Sequence[str]) -> dict:
    """Visibility and boxes of the entities whose mention and type are right, so that a stage is judged alone."""
    decisions: dict[str, list[bool]] = {name: [] for name in subsets}
    ious: dict[str, list[float]] = {name: [] for name in subsets}
    for sample, predicted in posts:
        for index, place in align(sample.entities, predicted) if sample.entities and predicted else ():
            gold, entity = sample.entities[index], predicted[place]
            names = ("all", f"type:{gold.type}") + ((sample.subset,) if sample.subset else ())
            if gold.visible is None and not gold.boxes:
                continue
            right = said_visible(gold) == said_visible(entity)
            boxed = right and gold.boxes
            given = BOX.of(entity)
            for name in names:
                decisions[name].append(right)
                if boxed:
                    ious[name].append(BOX.best_iou(given[0], gold.boxes) if given else 0.0)
    return {name: _stage_figures(decisions[name], ious[name]) for name in subsets}


def _stage_figures(decisions: Sequence[bool], ious: Sequence[float]) -> dict:
    right, grounded = sum(decisions), sum(iou > 0.5 for iou in ious)
    return {
        "entailment": {"correct": right, "total": len(decisions), "accuracy": _share(right, len(decisions))},
        "grounding": {
            "correct": grounded,
            "total": len(ious),
            "precision": _share(grounded, len(ious)),
            "mean_iou": _share(sum(ious), len(ious)),
        },
    }


def _counted(ids: Iterable[str]) -> dict:
    found = list(ids)
    return {"count": len(found), "ids": found}


def _table(protocol: str, subsets: dict) -> Table:
    table = Table(title=f"Scores, protocol {protocol}", title_justify="left")
    for heading in ("subset", "task"):
        table.add_column(heading)
    for heading in ("P", "R", "F1", "correct", "predicted", "gold"):
        table.add_column(heading, justify="right")
    for subset, by_task in subsets.items():
        label = Text(subset)
        for task, row in by_task.items():
            percents = [f"{100 * row[key]:.2f}" for key in ("precision", "recall", "f1")]
            counts = [str(row[key]) for key in ("correct", "predicted", "gold")]
            table.add_row(label, task, *percents, *counts)
            label = Text("")
        table.add_section()
    return table


def _stage_table(stages: dict) -> Table:
    table = Table(title="Stages, of the entities named rightly", title_justify="left")
    table.add_column("subset")
    for heading in ("visibility right", "of", "boxes IoU > 0.5", "mean IoU", "of"):
        table.add_column(heading, justify="right")
    for subset, row in stages.items():
        seen, boxed = row["entailment"], row["grounding"]
        table.add_row(
            Text(subset),
            *(f"{100 * seen['accuracy']:.2f}", str(seen["total"])),
            *(f"{100 * boxed['precision']:.2f}", f"{100 * boxed['mean_iou']:.2f}", str(boxed["total"])),
        )
    return table
