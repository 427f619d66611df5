"""Writes the table of all recipes' keys: ``python -m rivegs_mllm.cli.write_key_table``, where one has changed."""

from __future__ import annotations

import rivegs_mllm.cascade.stage_types  # noqa: F401  whose modules register the types of stages
from rivegs_mllm.cascade.config import CascadeRecipe
from rivegs_mllm.cascade.regions.base import ProposalRecipe
from rivegs_mllm.cascade.training import StageTraining
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.config.key_table import PATH, as_table, write_table
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.distill.config import DistillRecipe
from rivegs_mllm.distill.pseudo_labels import PseudoLabelRecipe

RECIPES = (Recipe, Answering, StageTraining, CascadeRecipe, DistillRecipe, PseudoLabelRecipe, ProposalRecipe)

if __name__ == "__main__":
    write_table(as_table(RECIPES))
    print(f"wrote {PATH}")
