"""A cascade's predictions on unlabelled posts as training data for the end-to-end model."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import draccus
import orjson

from rivegs_mllm.cascade.base import SLOTS, without_labels
from rivegs_mllm.config.bounds import Probability
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.data.jsonl import read_predictions, read_split, write_records
from rivegs_mllm.data.masks import mask_area
from rivegs_mllm.data.mentions import find_spans
from rivegs_mllm.distill.config import DistillData
from rivegs_mllm.runtime.files import check_output, write_bytes, write_text
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

FIELDS = dict(zip(SLOTS, ("knowledge", "entities", "expression", "visible", "boxes", "masks"), strict=True))
"""The field of the record that each slot of a cascade fills."""

PROVENANCE = "provenance.jsonl"
MADE_BY = "made_by.json"
LEFT_OUT = "left_out.txt"

UNREAD = "its answer could not be read"
MISSING = "not predicted"
UNSURE = "whether an entity is visible is not sure enough"
UNDECIDED = "whether an entity is visible was not decided"
UNPLACED = "an entity's place in the text is not known"
UNBOXED = "a visible entity has no box"
NOWHERE = "a box or mask has no area, or is not of the picture"


@dataclass
class PseudoLabelRecipe:
    """A cascade, or the predictions of one, that becomes training data in the folder ``out``.

    A post becomes a row only where all its entities are sure: one that is left out would teach the model to miss it.
    """

    data: DistillData
    out: Path
    cascade: Path | None = None
    predictions: Path | None = None
    """Instead of a cascade: what it, or any system, has predicted already."""
    min_confidence: Probability = 0.9
    """How probable an entity's decision, visible or not, must be; entities without a score count as sure."""
    boxes: bool = True
    """Whether a visible entity must have a box; false for cascades without a grounder."""

    def __post_init__(self) -> None:
        if (self.cascade is None) == (self.predictions is None):
            raise UserError("give either cascade, a recipe to run, or predictions, a file")
        if not 0.5 <= self.min_confidence <= 1:  # the likelier of two decisions is never below 0.5
            raise UserError(f"min_confidence: {self.min_confidence} is not between 0.5 and 1")


def is_pseudo_label_recipe(content: Mapping) -> bool:
    """Whether a recipe is of this kind: it names a cascade or predictions."""
    return "cascade" in content or "predictions" in content


def read_pseudo_label_recipe(path: Path, overrides: Sequence[str] = ()) -> PseudoLabelRecipe:
    """The recipe in a YAML file. Raises UserError that names file and key."""
    return parse_recipe(PseudoLabelRecipe, path, overrides)


def make_pseudo_labels(recipe: PseudoLabelRecipe) -> dict[str, Counter[str]]:
    """Writes ``out/<split>.jsonl``, the provenance of every field and the posts left out; gives counts by split.

    Pictures stay where they are: their paths are made relative to ``out``. Raises UserError.
    """
    check_output(recipe.out, [recipe.data.folder])
    with lock_folder(recipe.out):
        return _make_pseudo_labels(recipe)


def _make_pseudo_labels(recipe: PseudoLabelRecipe) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    sources = _sources(recipe)
    short = {name: source["source"] for name, source in sources.items()}
    provenance: list[bytes] = []
    left_out: list[str] = []
    for split in recipe.data.splits:
        samples = [without_labels(sample) for sample in read_split(recipe.data.folder, split)[: recipe.data.posts]]
        predictions = _predicted(recipe, samples, split)
        rows, reasons = select_confident(samples, predictions, recipe.min_confidence, recipe.boxes)
        counts[split] = Counter(rows=len(rows), posts=len(samples))
        counts[split].update(reasons.values())
        left_out += [f"{split} {identity}: {reason}\n" for identity, reason in reasons.items()]
        by_id = {prediction.id: prediction for prediction in predictions}
        provenance += [_provenance(split, row, by_id[row.id], short) for row in rows]
        write_records(recipe.out / f"{split}.jsonl", [_moved(row, recipe.data.folder, recipe.out) for row in rows])
    write_bytes(recipe.out / MADE_BY, orjson.dumps(sources, option=orjson.OPT_INDENT_2))
    write_bytes(recipe.out / PROVENANCE, b"".join(provenance))
    write_text(recipe.out / LEFT_OUT, "".join(left_out))
    return counts


def select_confident(
    samples: Sequence[Sample], predictions: Sequence[Prediction], min_confidence: float, boxes: bool = True
) -> tuple[list[Sample], dict[str, str]]:
    """The posts whose predictions are sure, labelled with them, and why each other post is left out, by its id."""
    by_id = {prediction.id: prediction for prediction in predictions}
    rows, reasons = [], {}
    for sample in samples:
        prediction = by_id.get(sample.id)
        reason = _doubt(sample, prediction, min_confidence, boxes)
        if reason:
            reasons[sample.id] = reason
            continue
        entities = sorted((_labelled(sample, entity) for entity in prediction.entities), key=lambda entity: entity.span)
        knowledge = (prediction.knowledge,) if prediction.knowledge else ()
        rows.append(replace(sample, entities=tuple(entities), knowledge=knowledge))
    return rows, reasons


def _sources(recipe: PseudoLabelRecipe) -> dict[str, dict]:
    """What fills each field: its ``source`` in short, and what is needed to reproduce it."""
    if recipe.predictions is not None:
        digest = hashlib.sha256(recipe.predictions.read_bytes()).hexdigest() if recipe.predictions.is_file() else ""
        return {name: {"source": str(recipe.predictions), "sha256": digest} for name in FIELDS.values()}
    from rivegs_mllm.cascade.config import read_cascade, type_name_of  # here, since it imports torch

    sources = {}
    for slot, choice in read_cascade(recipe.cascade).stages().items():
        if choice.SEES_GOLD:
            raise UserError(
                f"{recipe.cascade}: {slot} is gold, which unlabelled posts do not have; choose another type"
            )
        kind = f"{slot}: {type_name_of(choice)}"
        sources[FIELDS[slot]] = {"source": kind, "recipe": str(recipe.cascade), "settings": draccus.encode(choice)}
    return sources


def _predicted(recipe: PseudoLabelRecipe, samples: Sequence[Sample], split: str) -> list[Prediction]:
    if recipe.predictions is not None:
        return read_predictions(recipe.predictions)
    from rivegs_mllm.cascade.config import read_cascade, run_cascade  # loads every slot; not needed for predictions

    return run_cascade(read_cascade(recipe.cascade), samples, recipe.data.folder, recipe.out / "work" / split)[0]


def _doubt(sample: Sample, prediction: Prediction | None, min_confidence: float, boxes: bool) -> str:
    """Why a post cannot be a row, "" where it can."""
    if prediction is None:
        return MISSING
    if prediction.errors:
        return UNREAD
    for entity in prediction.entities:
        if _place(sample, entity) is None:
            return UNPLACED
        if entity.visible is None and sample.image:
            return UNDECIDED
        score = entity.visible_score
        if score is not None and max(score, 1 - score) < min_confidence:
            return UNSURE
        if boxes and entity.visible and not entity.boxes:
            return UNBOXED
        if entity.visible and not _is_placed(entity, sample.size):
            return NOWHERE
    return ""


def _is_placed(entity: Entity, size: tuple[int, int] | None) -> bool:
    """Whether gold can have the entity's regions; ``size`` (width, height) is the picture's, None where unknown."""
    for box in entity.boxes:
        if not (box.xmin < box.xmax and box.ymin < box.ymax):
            return False
        if size and (min(box.xmin, box.ymin) < 0 or box.xmax > size[0] or box.ymax > size[1]):
            return False
    shape = size and (size[1], size[0])
    return all(mask.size == (shape or mask.size) and mask_area(mask, entity.text) for mask in entity.masks)


def _place(sample: Sample, entity: Entity) -> tuple[int, int] | None:
    """The entity's span, looked up where it has none and its words stand in the text once."""
    if entity.span is not None:
        start, end = entity.span
        return entity.span if " ".join(sample.tokens[start:end]) == entity.text else None
    places = find_spans(sample.tokens, entity.text.split())
    return places[0] if len(places) == 1 else None


def _labelled(sample: Sample, entity: Entity) -> Entity:
    """The entity as gold: its place known, its score left to the provenance, no region where it is not visible."""
    regions = {} if entity.visible else {"boxes": (), "masks": ()}
    return replace(entity, span=_place(sample, entity), visible_score=None, **regions)


def _moved(sample: Sample, old: Path, new: Path) -> Sample:
    if not sample.image:
        return sample
    return replace(sample, image=os.path.relpath(old / sample.image, new))


def _provenance(split: str, row: Sample, prediction: Prediction, sources: Mapping[str, str]) -> bytes:
    scores = [
        {"text": entity.text, "span": _place(row, entity), "visible_score": entity.visible_score}
        for entity in prediction.entities
    ]
    made = {"split": split, "id": row.id, "made_by": sources, "entities": scores}
    return orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE)
