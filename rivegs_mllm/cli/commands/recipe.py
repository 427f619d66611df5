"""The command that prints a recipe with its bases and overrides."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command
from rivegs_mllm.types import UserError

EXAMPLES = """\
A recipe says what differs from its `base:`; this prints one equivalent file. The comment behind a value says where it
comes from: a file, an override, or the default of the run's folder. Defaults of the code are not listed, and keys are
not checked: `rivegs preview RECIPE` does so for an end-to-end model.

examples:
  rivegs recipe                                               the recipes that come with the package
  rivegs recipe recipes/e2e/qwen2_5_vl_7b_vision.yaml
  rivegs recipe recipes/e2e/qwen2_5_vl_7b.yaml --model.quantization=nf4 --train.output_dir=runs/qlora
  rivegs recipe recipes/cascade/tiny_ablations.yaml           each of its variants
  rivegs recipe recipes/tiny/e2e.yaml > mine.yaml             to begin a recipe of one's own without a base"""


def add_recipe(commands) -> None:
    recipe = add_command(
        commands, "recipe", "a recipe with its bases and overrides, and which file sets what", _recipe, True
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
    from rivegs_mllm.config.reading.layers import read_layers
    from rivegs_mllm.config.reading.shipped import recipe_names
    from rivegs_mllm.config.reading.yaml_print import as_yaml

    if args.recipe is None:
        if overrides:
            raise UserError(f"{overrides[0]} overrides no recipe; name one: rivegs recipe RECIPE {overrides[0]}")
        print("\n".join(recipe_names()))
        return
    print(as_yaml(read_layers(args.recipe, overrides)), end="")
