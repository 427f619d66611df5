"""What each file of recipes/ decodes into, and the command that starts it."""

from __future__ import annotations

from pathlib import Path

from rivegs_mllm.cascade.config import as_cascade
from rivegs_mllm.cascade.regions.base import ProposalRecipe
from rivegs_mllm.cascade.training import StageTraining
from rivegs_mllm.config.reading.layers import Layered, read_layers
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.distill.config import DistillRecipe
from rivegs_mllm.distill.pseudo_labels import PseudoLabelRecipe
from rivegs_mllm.tiny.build import BaseRecipe

KINDS = {
    "e2e": (Recipe, ["accelerate", "launch"]),
    "tiny": (Recipe, ["rivegs", "train"]),
    "stages": (StageTraining, ["rivegs", "train"]),
    "cascade": (None, ["rivegs"]),
    "distill": (DistillRecipe, ["rivegs", "distill"]),
    "regions": (ProposalRecipe, ["rivegs", "propose"]),
}
OTHERS = {
    "base.yaml": (BaseRecipe, ["python", "-m", "rivegs_mllm.tiny.build"]),
    "cascade_rows.yaml": (PseudoLabelRecipe, ["rivegs", "distill"]),
}


def kind(path: Path) -> tuple[type | None, list[str]]:
    """The dataclass of a recipe, None for a cascade, and how the command begins that starts it."""
    return OTHERS.get(path.name) or KINDS[path.parent.name]


def decoded(layered: Layered, kind: type | None) -> object:
    return as_cascade(layered) if kind is None else decode(kind, layered)


def read(path: Path, *said: str) -> list[object]:
    """The recipe of a file with the overrides ``said``; of a file of variants, each."""
    own, _ = kind(path)
    on_cpu = ["--train.use_cpu=true"] if own in (Recipe, StageTraining) else []
    layered = read_layers(path, [*said, *on_cpu])
    return [decoded(one, own) for one in layered.variants().values() or [layered]]
