"""Taggers: which words of a post name an entity, and of which type.

A tagger fills ``entities`` with mention, type and token span, in the order of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus

from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.types import Entity, Prediction, Sample

Tagged = tuple[tuple[Entity, ...], tuple[str, ...]]
"""The entities of a post, in the order of the text, and notes for its ``errors``."""


class Tagger(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a tagger, chosen by ``type:``."""


class TaggingStage:
    """Fills ``entities`` with what ``tag`` finds in posts. ``num_parameters`` is the size of the model."""

    def __init__(self, tag: Callable[[Sequence[Sample]], Sequence[Tagged]], num_parameters: int):
        self.tag = tag
        self.num_parameters = num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        return [
            dataclasses.replace(partial, entities=found, errors=partial.errors + notes)
            for partial, (found, notes) in zip(partials, self.tag(samples), strict=True)
        ]


@Tagger.register_subclass("gold")
@dataclass
class GoldTagger(Tagger):
    """The gold mentions and types, for oracle ablations."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
    return [
        dataclasses.replace(
            partial, entities=tuple(Entity(entity.text, entity.type, entity.span) for entity in sample.entities)
        )
        for sample, partial in zip(samples, partials, strict=True)
    ]
