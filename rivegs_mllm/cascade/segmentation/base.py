"""Segmenters: which pixels of its boxes an entity covers.

A segmenter fills ``masks``, one a box and in their order, as COCO run-length codes in the size of the original picture,
upright.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus
import numpy as np
from PIL import Image

from eval.matching import best_box_iou
from rivegs_mllm.cascade.base import Stage, without_picture
from rivegs_mllm.cascade.referring import clip_boxes, matching_gold
from rivegs_mllm.data.images import PictureError, open_for_model, processed, with_size
from rivegs_mllm.data.masks import encode, filled
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample

MIN_IOU = 0.5
"""The least IoU at which the oracle takes a box for the gold one."""


class Segmenter(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a segmenter, chosen by ``type:``."""


Segment = Callable[[Image.Image, Sequence[Box]], Sequence[np.ndarray]]
"""From an upright picture and boxes in its pixels to a mask for each, bool (height, width)."""


class SegmentingStage:
    """A segmenter that takes one picture at a time, opened and embedded once for all boxes of its post.

    ``kind`` is the ``type:`` of the segmenter, ``folder`` what pictures are relative to, ``num_parameters`` the size of
    the model.
    """

    def __init__(self, kind: str, segment: Segment, folder: Path, num_parameters: int):
        self.where = f"segmenter ({kind})"
        self.segment = segment
        self.folder = folder
        self.num_parameters = num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [self._fill(sample, partial) for sample, partial in zip(samples, partials, strict=True)]

    def _fill(self, sample: Sample, partial: Prediction) -> Prediction:
        boxes = [box for entity in partial.entities for box in entity.boxes]
        if not boxes or not sample.image:
            return partial
        path = self.folder / sample.image
        try:
            image = open_for_model(path)
            with processed(path, image.size):
                masks = self.segment(image, clip_boxes(boxes, image.size, self.where, sample.id))
        except PictureError as error:
            return without_picture(partial, self.where, error)
        return with_masks(partial, [encode(mask) for mask in masks])


def with_masks(partial: Prediction, masks: Sequence[Mask]) -> Prediction:
    """The partial prediction with one mask a box, ``masks`` in the order of entities and of their boxes."""
    rest = iter(masks)
    entities = tuple(
        dataclasses.replace(entity, masks=tuple(next(rest) for _ in entity.boxes)) for entity in partial.entities
    )
    return dataclasses.replace(partial, entities=entities)


@Segmenter.register_subclass("box")
@dataclass
class BoxSegmenter(Segmenter):
    """The filled box: what any segmenter should be better than."""

    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return BoxStage("box", folder, gold=False)


@Segmenter.register_subclass("gold")
@dataclass
class GoldSegmenter(Segmenter):
    """The gold masks where the box is right, for oracle ablations; the filled box where it is wrong."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return BoxStage("gold", folder, gold=True)


class BoxStage:
    """Fills each box; with ``gold``, entities whose box is right get the masks of their gold instead."""

    num_parameters = 0

    def __init__(self, kind: str, folder: Path, gold: bool):
        self.where = f"segmenter ({kind})"
        self.folder = folder
        self.gold = gold

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [self._fill(sample, partial) for sample, partial in zip(samples, partials, strict=True)]

    def _fill(self, sample: Sample, partial: Prediction) -> Prediction:
        if not sample.image or not any(entity.boxes for entity in partial.entities):
            return partial
        try:
            sample = with_size(sample, self.folder)
        except PictureError as error:
            return without_picture(partial, self.where, error)
        entities = []
        for entity in partial.entities:
            boxes = clip_boxes(entity.boxes, sample.size, self.where, sample.id)
            masks = _gold_masks(sample, entity) if self.gold else ()
            masks = masks or tuple(encode(filled(box, sample.size)) for box in boxes)
            entities.append(dataclasses.replace(entity, masks=masks))
        return dataclasses.replace(partial, entities=tuple(entities))


def _gold_masks(sample: Sample, entity: Entity) -> tuple[Mask, ...]:
    twin = matching_gold(sample, entity)
    right = twin and entity.boxes and twin.boxes and best_box_iou(entity.boxes[0], twin.boxes) >= MIN_IOU
    return twin.masks if right else ()
