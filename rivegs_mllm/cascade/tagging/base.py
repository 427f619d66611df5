"""Taggers: which words of a post name an entity, and of which type.

A tagger fills ``entities`` with mention, type and token span, in the order of the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import draccus

from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.types import Entity, Prediction, Sample


class Tagger(draccus.PluginRegistry, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a tagger, chosen by ``type:``."""


@Tagger.register_subclass("gold")
@dataclass
class GoldTagger(Tagger):
    """The gold mentions and types, for oracle ablations."""

    SEES_GOLD: ClassVar[bool] = True

    def load(self, folder: Path) -> Stage:
        """The stage."""
        return _gold


def _gold(samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
    return [
        dataclasses.replace(
            draft, entities=tuple(Entity(entity.text, entity.type, entity.span) for entity in sample.entities)
        )
        for sample, draft in zip(samples, drafts, strict=True)
    ]
