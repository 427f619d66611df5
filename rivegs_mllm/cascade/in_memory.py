"""A cascade with all its stages in memory, for posts as they come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.config import CascadeRecipe, check_requirements, steps_of
from rivegs_mllm.cascade.runner import LoadedModels, apply_stage
from rivegs_mllm.types import Prediction, Sample


class LoadedCascade:
    """Called on samples, and the slots to be filled, it gives their predictions, in order.

    Raises StageError where a slot needs a field that no slot fills, and for an oracle stage.
    """

    def __init__(self, recipe: CascadeRecipe, folder: Path):
        check_requirements(recipe)
        self.types = recipe.types
        self.stages = []
        models: LoadedModels = {}  # held by the stages
        for step in steps_of(recipe, folder):
            if step.sees_gold:
                raise StageError(
                    f"{step.slot} ({step.kind}): needs posts with gold; choose another type for {step.slot}"
                )
            self.stages.append((step, step.load(models)))

    def __call__(self, samples: Sequence[Sample], slots: Collection[str]) -> list[Prediction]:
        partials = [Prediction(sample.id) for sample in samples]
        for step, stage in self.stages:
            if step.slot in slots:
                partials = apply_stage(step, stage, samples, partials, self.types)
        return partials
