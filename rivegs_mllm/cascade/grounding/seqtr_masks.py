"""A segmenter that is asked by referring expressions, and needs no box."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rivegs_mllm.cascade.base import refer, without_picture
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.data.masks import encode
from rivegs_mllm.types import Prediction, Sample

Outline = Callable[[Image.Image, Sequence[str]], tuple[Sequence[np.ndarray], Sequence[tuple[str, ...]]]]
"""From an upright picture and referring expressions to a mask for each, bool (height, width), and notes on each."""


class ExpressionStage:
    """Fills ``masks`` of the entities that are visible or of which that is undecided, whether they have boxes or not:
    the expression's mask for each box, or once where there is none.

    ``kind`` is the ``type:`` of the segmenter, ``refer`` the parts of the referring expression, ``folder`` what
    pictures are relative to, ``parameters`` the size of the model.
    """

    def __init__(self, kind: str, outline: Outline, refer: Sequence[str], folder: Path, parameters: int):
        self.where = f"segmenter ({kind})"
        self.outline = outline
        self.refer = tuple(refer)
        self.folder = folder
        self.parameters = parameters

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        return [self._fill(sample, draft) for sample, draft in zip(samples, drafts, strict=True)]

    def _fill(self, sample: Sample, draft: Prediction) -> Prediction:
        places = [place for place, entity in enumerate(draft.entities) if entity.visible is not False]
        if not places or not sample.image:
            return draft
        entities, notes, path = list(draft.entities), [], self.folder / sample.image
        texts = [refer(entities[place], self.refer) or entities[place].text for place in places]
        try:
            image = open_for_model(path)
            with processed(path, image.size):
                masks, said = self.outline(image, texts)
        except PictureError as error:
            return without_picture(draft, self.where, error)
        for place, text, mask, own in zip(places, texts, masks, said, strict=True):
            entity = entities[place]
            entities[place] = dataclasses.replace(entity, masks=(encode(mask),) * max(1, len(entity.boxes)))
            notes += [f"{text!r}: {note}" for note in (*own, *(() if mask.any() else ("no mask",)))]
        errors = (*draft.errors, *(f"{self.where}: {note}" for note in notes))
        return dataclasses.replace(draft, entities=tuple(entities), errors=errors)
