"""The verb that shows what a recipe says in all."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command
from rivegs_mllm.types import UserError

EXAMPLES = """\
A recipe says what differs from the recipe that its `base:` names; here it is written out, as one file that does the
same. The comment behind a value says where it comes from: a file, an override, or the default of a run's folder.
What no file says has the default of the command that reads it, and is not listed. The keys are not checked here:
`rivegs preview RECIPE` does so for a single model.

examples:
  rivegs recipe                                               the recipes that come with the package
  rivegs recipe recipes/e2e/qwen2_5_vl_7b_vision.yaml
  rivegs recipe recipes/e2e/qwen2_5_vl_7b.yaml --model.quantization=nf4 --train.output_dir=runs/qlora
  rivegs recipe recipes/cascade/tiny_ablations.yaml           each of its variants
  rivegs recipe recipes/tiny/e2e.yaml > mine.yaml             to begin a recipe of one's own without a base"""


def add_recipe(verbs) -> None:
    recipe = add_command(
        verbs, "recipe", "what a recipe says with its bases and overrides, and which file says what", _recipe, True
    )
    recipe.formatter_class = argparse.RawDescriptionHelpFormatter
    recipe.epilog = EXAMPLES
    recipe.add_argument(
        "recipe",
        type=Path,
        nargs="?",
        help="a YAML file of any kind, --section.field=value overrides; without it, the recipes that there are",
    )


def _recipe(args: argparse.Namespace, overrides: list[str]) -> None:
    from rivegs_mllm.config.layers import read_layers
    from rivegs_mllm.config.shipped import recipe_names
    from rivegs_mllm.config.yaml_print import as_yaml

    if args.recipe is None:
        if overrides:
            raise UserError(f"{overrides[0]} overrides no recipe; name one: rivegs recipe RECIPE {overrides[0]}")
        print("\n".join(recipe_names()))
        return
    print(as_yaml(read_layers(args.recipe, overrides)), end="")
