"""Grounded multimodal named entity recognition, end to end or as a cascade.

from rivegs_mllm import load

system = load("runs/demo/model")
post = system("Zarvik Molen scores", "match.jpg")
for entity in post.entities:
    print(entity.text, entity.type, entity.visible, entity.boxes)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

if TYPE_CHECKING:
    from rivegs_mllm.pipeline import Pipeline, Post, load

__all__ = ["Box", "Entity", "Mask", "Pipeline", "Post", "Prediction", "Sample", "UserError", "load"]


def __getattr__(name: str) -> object:
    """Imports what needs torch only when it is used."""
    if name in ("Pipeline", "Post", "load"):
        return getattr(importlib.import_module("rivegs_mllm.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
