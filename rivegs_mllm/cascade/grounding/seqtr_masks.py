"""A segmenter whose queries are referring expressions, and which needs no box."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rivegs_mllm.cascade.base import referring_expression, without_picture
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.data.masks import encode
from rivegs_mllm.types import Prediction, Sample

SegmentExpressions = Callable[[Image.Image, Sequence[str]], tuple[Sequence[np.ndarray], Sequence[tuple[str, ...]]]]
"""From an upright picture and referring expressions to a mask for each, bool (height, width), and notes on each."""


class ExpressionSegmentingStage:
    """Fills ``masks`` of the entities that are visible or of which that is undecided, whether they have boxes or not:
    the expression's mask for each box, or once where there is none.

    ``kind`` is the ``type:`` of the segmenter, ``query_fields`` the parts of the referring expression, ``folder`` what
    pictures are relative to, ``num_parameters`` the size of the model.
    """

    def __init__(
        self, kind: str, outline: SegmentExpressions, query_fields: Sequence[str], folder: Path, num_parameters: int
    ):
        self.where = f"segmenter ({kind})"
        self.outline = outline
        self.query_fields = tuple(query_fields)
        self.folder = folder
        self.num_parameters = num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [self._fill(sample, partial) for sample, partial in zip(samples, partials, strict=True)]

    def _fill(self, sample: Sample, partial: Prediction) -> Prediction:
        indices = [index for index, entity in enumerate(partial.entities) if entity.visible is not False]
        if not indices or not sample.image:
            return partial
        entities, notes, path = list(partial.entities), [], self.folder / sample.image
        texts = [referring_expression(entities[index], self.query_fields) or entities[index].text for index in indices]
        try:
            image = open_for_model(path)
            with processed(path, image.size):
                masks, notes_of = self.outline(image, texts)
        except PictureError as error:
            return without_picture(partial, self.where, error)
        for index, text, mask, own in zip(indices, texts, masks, notes_of, strict=True):
            entity = entities[index]
            entities[index] = dataclasses.replace(entity, masks=(encode(mask),) * max(1, len(entity.boxes)))
            notes += [f"{text!r}: {note}" for note in (*own, *(() if mask.any() else ("no mask",)))]
        errors = (*partial.errors, *(f"{self.where}: {note}" for note in notes))
        return dataclasses.replace(partial, entities=tuple(entities), errors=errors)
