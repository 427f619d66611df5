"""Precision, recall and F1 of predictions, by task, by subset and by type, and the stages of grounding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eval.matching import check_mask
from eval.protocols import BOX, EES, MASK, SMNER, TASKS, Protocol, Task, protocol_named, said_visible  # noqa: F401
from eval.stages import Found, align, by_id, entailment_figures, find_in_post, precision_recall_f1, region_figures  # noqa: F401
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
    answers = by_id(gold, predictions)
    posts = [(sample, answers[sample.id].entities if sample.id in answers else ()) for sample in gold]
    tasks = _tasks(posts)
    subsets = _subsets(posts)
    if SMNER in tasks:
        _check_masks(posts)
    return {
        **{protocol.name: _scores(posts, protocol, tasks, subsets) for protocol in chosen},
        "posts": len(posts),
        "stages": _stages(posts, subsets, SMNER in tasks),
        "missing_predictions": _counted(sample.id for sample in gold if sample.id not in answers),
        "unreadable_answers": _counted(prediction.id for prediction in predictions if prediction.errors),
    }


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
    return {
        name: {task: precision_recall_f1(*count) for task, count in by_task.items()} for name, by_task in counts.items()
    }


def _stages(posts: Sequence[Post], subsets: Sequence[str], masked: bool) -> dict:
    """Visibility, boxes and masks of the entities whose mention and type are right, so that a stage is judged alone."""
    found: dict[str, list[Found]] = {name: [] for name in subsets}
    for sample, predicted in posts:
        own = (sample.subset,) if sample.subset else ()
        for pair in find_in_post(sample, predicted):
            for name in ("all", f"type:{pair.gold.type}", *own):
                found[name].append(pair)
    kinds = {"grounding": BOX, "segmentation": MASK} if masked else {"grounding": BOX}
    return {
        name: {
            "entailment": entailment_figures(pairs),
            **{stage: region_figures(pairs, kind, 0.5) for stage, kind in kinds.items()},
        }
        for name, pairs in found.items()
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
