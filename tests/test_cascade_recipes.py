"""Every recipe of a cascade parses, is known as one, has what its stages need, and says its own command."""

import shlex
from pathlib import Path

import pytest

from rivegs_mllm.cascade.run import is_cascade, read_cascade

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "cascade").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_says_its_command(path):
    assert is_cascade(path)
    assert read_cascade(path).stages()
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    assert words[:2] in (["rivegs", "predict"], ["rivegs", "compare"])
    assert path.relative_to(ROOT).as_posix() in words
