"""Grounders: where in the picture each visible entity is.

A grounder fills ``boxes``, best first, in pixels of the original picture, of the entities that are visible or of
which that is undecided. What it is asked for is the referring expression ``mention (type) - expression``, or parts
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
from rivegs_mllm.cascade.base import Stage, blind, refer, without_picture
from rivegs_mllm.cascade.referring import gold_twin, inside
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.types import Box, Prediction, Sample

NOBODYS = Box(0, 0, 1, 1)
"""What the perfect grounder gives for an entity that is not in the picture."""


class Grounder(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a grounder, chosen by ``type:``."""


@dataclass(frozen=True)
class Found:
    """The boxes that fit one referring expression, best first, in pixels of the picture; and what went wrong."""

    boxes: tuple[Box, ...]
    notes: tuple[str, ...] = ()


Locate = Callable[[Image.Image, Sequence[str]], Sequence[Found]]
"""From an upright picture and the referring expressions to be found in it, to one ``Found`` for each."""


class GroundingStage:
    """A grounder that looks at one picture at a time: opened once, for all expressions that are to be found in it.

    ``kind`` is the ``type:`` of the grounder, ``refer`` the parts of the referring expression, ``folder`` what
    pictures are relative to, ``parameters`` the size of the model.
    """

    def __init__(self, kind: str, locate: Locate, refer: Sequence[str], folder: Path, parameters: int):
        self.where = f"grounder ({kind})"
        self.locate = locate
        self.refer = tuple(refer)
        self.folder = folder
        self.parameters = parameters

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        return [self._ground(sample, draft) for sample, draft in zip(samples, drafts, strict=True)]

    def _ground(self, sample: Sample, draft: Prediction) -> Prediction:
        places = [place for place, entity in enumerate(draft.entities) if entity.visible is not False]
        if not places or not sample.image:
            return draft
        entities, notes = list(draft.entities), []
        texts = [refer(entities[place], self.refer) for place in places]
        for number, place in enumerate(places):
            if not texts[number]:
                texts[number] = entities[place].text
                notes.append(f"{texts[number]!r} has no {' or '.join(self.refer)}: its mention was looked for")
        path = self.folder / sample.image
        try:
            image = open_for_model(path)
            with processed(path, image.size):
                located = self.locate(image, texts)
        except PictureError as error:
            return without_picture(draft, self.where, error)
        for place, text, found in zip(places, texts, located, strict=True):
            boxes = inside(found.boxes, image.size, self.where, sample.id)
            entities[place] = dataclasses.replace(entities[place], boxes=boxes)
            notes += [f"{text!r:.200}: {note}" for note in (*found.notes, *(() if boxes else ("no box",)))]
        errors = (*draft.errors, *(f"{self.where}: {note}" for note in notes))
        return dataclasses.replace(draft, entities=tuple(entities), errors=errors)


def grounding_figures(stage: Stage, samples: Sequence[Sample]) -> dict[str, float]:
    """Prec@0.5 and mean IoU of a grounder that is given the gold entities; Prec@0.5 also of the posts' own subsets."""
    drafts = []
    for sample in samples:
        bare = [
            dataclasses.replace(entity, boxes=(), masks=(), visible=bool(entity.boxes)) for entity in sample.entities
        ]
        drafts.append(Prediction(sample.id, entities=tuple(bare)))
    grounded = stage([blind(sample) for sample in samples], drafts)
    scores = grounding_scores(samples, grounded)
    figures = {"precision": scores["precision"], "mean_iou": scores["mean_iou"]}
    for subset, own in by_subset(samples, grounded).items():
        figures[f"precision_{subset}"] = grounding_scores(*own)["precision"]
    return figures


@Grounder.register_subclass("gold")
@dataclass
class GoldGrounder(Grounder):
    """The gold boxes, for oracle ablations. It mends boxes alone: an entity that is said to be visible and is not gets
    a box, as from any grounder that is asked, which is nobody's."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
    filled = []
    for sample, draft in zip(samples, drafts, strict=True):
        entities = []
        for entity in draft.entities:
            twin = None if entity.visible is False else gold_twin(sample, entity)
            if twin is not None:
                entity = dataclasses.replace(entity, boxes=twin.boxes or (NOBODYS,) * bool(entity.visible))
            entities.append(entity)
        filled.append(dataclasses.replace(draft, entities=tuple(entities)))
    return filled
