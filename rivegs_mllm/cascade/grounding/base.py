"""Grounders: where in the picture each visible entity is.

A grounder fills ``boxes``, best first, in pixels of the original picture, of the entities that are visible or of
which that is undecided. Its queries are the referring expressions ``mention (type) - expression``, or parts
of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus
from PIL import Image

from eval.stage_metrics import by_subset, grounding_scores
from rivegs_mllm.cascade.base import Stage, referring_expression, without_labels, without_picture
from rivegs_mllm.cascade.referring import clip_boxes, matching_gold
from rivegs_mllm.cascade.rows import GroundingRow, grounding_rows
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.types import Box, Prediction, Sample, UserError

DUMMY_BOX = Box(0, 0, 1, 1)
"""The oracle grounder's box for an entity that is not in the picture."""


class Grounder(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a grounder, chosen by ``type:``."""


@dataclass(frozen=True)
class Localization:
    """The boxes that fit one referring expression, best first, in pixels of the picture; and what went wrong."""

    boxes: tuple[Box, ...]
    notes: tuple[str, ...] = ()


Locate = Callable[[Image.Image, Sequence[str]], Sequence[Localization]]
"""From an upright picture and the referring expressions to be found in it, to one ``Localization`` for each."""


class GroundingStage:
    """A grounder that takes one picture at a time, opened once for all expressions to be located in it.

    ``kind`` is the ``type:`` of the grounder, ``query_fields`` the parts of the referring expression, ``folder`` what
    pictures are relative to, ``num_parameters`` the size of the model.
    """

    def __init__(self, kind: str, locate: Locate, query_fields: Sequence[str], folder: Path, num_parameters: int):
        self.where = f"grounder ({kind})"
        self.locate = locate
        self.query_fields = tuple(query_fields)
        self.folder = folder
        self.num_parameters = num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [self._ground(sample, partial) for sample, partial in zip(samples, partials, strict=True)]

    def _ground(self, sample: Sample, partial: Prediction) -> Prediction:
        indices = [index for index, entity in enumerate(partial.entities) if entity.visible is not False]
        if not indices or not sample.image:
            return partial
        entities, notes = list(partial.entities), []
        texts = [referring_expression(entities[index], self.query_fields) for index in indices]
        for number, index in enumerate(indices):
            if not texts[number]:
                texts[number] = entities[index].text
                notes.append(f"{texts[number]!r} has no {' or '.join(self.query_fields)}: located by its mention")
        path = self.folder / sample.image
        try:
            image = open_for_model(path)
            with processed(path, image.size):
                located = self.locate(image, texts)
        except PictureError as error:
            return without_picture(partial, self.where, error)
        for index, text, found in zip(indices, texts, located, strict=True):
            boxes = clip_boxes(found.boxes, image.size, self.where, sample.id)
            entities[index] = dataclasses.replace(entities[index], boxes=boxes)
            notes += [f"{text!r:.200}: {note}" for note in (*found.notes, *(() if boxes else ("no box",)))]
        errors = (*partial.errors, *(f"{self.where}: {note}" for note in notes))
        return dataclasses.replace(partial, entities=tuple(entities), errors=errors)


def pictured_rows(samples: Sequence[Sample], folder: Path) -> list[GroundingRow]:
    """A row a visible entity of the posts with a picture. Raises UserError, which names ``folder``, where none is."""
    rows = [row for row in grounding_rows(samples) if row.image]
    if not rows:
        raise UserError(f"{folder}: no entity is visible in a picture, so there is nothing to train grounding on")
    return rows


def grounding_metrics(stage: Stage, samples: Sequence[Sample]) -> dict[str, float]:
    """Prec@0.5 and mean IoU of a grounder that is given the gold entities; Prec@0.5 also of the posts' own subsets."""
    partials = []
    for sample in samples:
        bare = [
            dataclasses.replace(entity, boxes=(), masks=(), visible=bool(entity.boxes)) for entity in sample.entities
        ]
        partials.append(Prediction(sample.id, entities=tuple(bare)))
    grounded = stage([without_labels(sample) for sample in samples], partials)
    scores = grounding_scores(samples, grounded)
    figures = {"precision": scores["precision"], "mean_iou": scores["mean_iou"]}
    for subset, own in by_subset(samples, grounded).items():
        figures[f"precision_{subset}"] = grounding_scores(*own)["precision"]
    return figures


@Grounder.register_subclass("gold")
@dataclass
class GoldGrounder(Grounder):
    """The gold boxes, for oracle ablations. It corrects boxes alone: an entity that is predicted visible and is not
    gets DUMMY_BOX, since any grounder would give it a box."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    filled = []
    for sample, partial in zip(samples, partials, strict=True):
        entities = []
        for entity in partial.entities:
            twin = None if entity.visible is False else matching_gold(sample, entity)
            if twin is not None:
                entity = dataclasses.replace(entity, boxes=twin.boxes or (DUMMY_BOX,) * bool(entity.visible))
            entities.append(entity)
        filled.append(dataclasses.replace(partial, entities=tuple(entities)))
    return filled
