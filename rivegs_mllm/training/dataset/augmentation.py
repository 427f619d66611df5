"""Augmentation, which differs from epoch to epoch: a post's knowledge text, its names, and boxes moved a little."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from eval.matching import box_iou
from rivegs_mllm.config.augmentation import Augmentation
from rivegs_mllm.training.dataset.name_augmentation import rename, replacement_names
from rivegs_mllm.types import Box, Sample


def augment_sample(sample: Sample, augmentation: Augmentation, words: Sequence[str], seed: int, epoch: int) -> Sample:
    """``sample`` as it is trained with in ``epoch``, with one knowledge text at most.

    Boxes stay in pixels of the upright picture. Made-up names are composed of ``words``, as ``name_words`` gives them.
    """
    rng = random.Random(f"{seed}/{epoch}/{sample.id}")  # of a text: the same in every process, unlike its hash()
    if len(sample.knowledge) > 1:
        text = rng.choice(sample.knowledge) if augmentation.knowledge == "draw" else sample.knowledge[0]
        sample = dataclasses.replace(sample, knowledge=(text,))
    if augmentation.box_jitter and sample.size is not None:
        size = sample.size
        entities = tuple(
            dataclasses.replace(entity, boxes=tuple(jitter(rng, box, size, augmentation) for box in entity.boxes))
            for entity in sample.entities
        )
        sample = dataclasses.replace(sample, entities=entities)
    if augmentation.name_augmentation and rng.random() < augmentation.name_augmentation:
        sample = _renamed(sample, words, rng)
    return sample


def _renamed(sample: Sample, words: Sequence[str], rng: random.Random) -> Sample:
    new = replacement_names([entity.text for entity in sample.entities], words, rng)
    return dataclasses.replace(
        sample,
        tokens=tuple(rename(token, new) for token in sample.tokens),
        entities=tuple(dataclasses.replace(entity, text=rename(entity.text, new)) for entity in sample.entities),
        knowledge=tuple(rename(text, new) for text in sample.knowledge),
    )


def jitter(rng: random.Random, box: Box, size: tuple[int, int], augmentation: Augmentation) -> Box:
    """``box``, in pixels, with its edges moved within a picture of ``size`` = (width, height).

    After ten draws whose IoU with the box is too low, the box unchanged.
    """
    width, height = box.xmax - box.xmin, box.ymax - box.ymin
    for _ in range(10):
        moved = Box(
            *(
                min(max(edge + _truncated(rng) * augmentation.box_jitter * side, 0.0), float(limit))
                for edge, side, limit in zip(
                    (box.xmin, box.ymin, box.xmax, box.ymax), (width, height) * 2, size * 2, strict=True
                )
            )
        )
        if moved.xmin < moved.xmax and moved.ymin < moved.ymax and box_iou(box, moved) >= augmentation.box_jitter_iou:
            return moved
    return box


def _truncated(rng: random.Random) -> float:
    """A standard normal number within two deviations."""
    while abs(value := rng.gauss(0, 1)) > 2:
        pass
    return value
