"""The recipes of recipes/distill: their teachers and sets are what they claim."""

import pytest
from recipe_files import ROOT, commands, overrides, recipes

from rivegs_mllm.config.reading.yaml_loader import read_yaml
from rivegs_mllm.distill.config import read_distill
from rivegs_mllm.distill.pseudo_labels import is_pseudo_label_recipe, read_pseudo_label_recipe
from rivegs_mllm.llm.client import VLLMChat
from rivegs_mllm.types import UserError

RECIPES = recipes("distill")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_command_of_a_recipe_has_a_teacher_or_a_cascade(path):
    for said in (overrides(path, words) for words in commands(path)):
        if is_pseudo_label_recipe(read_yaml(path)):
            assert read_pseudo_label_recipe(path, said).cascade is not None
            continue
        recipe = read_distill(path, said)
        assert recipe.teacher.identity["teacher"]
        examples = getattr(recipe.task, "examples", None)
        if examples and examples.file.is_relative_to("recipes"):
            assert (ROOT / examples.file).is_file()


def test_there_are_recipes():
    assert len(RECIPES) >= 5


def test_vllm_without_vllm_says_what_to_do():
    try:
        import vllm  # noqa: F401
    except ImportError:
        recipe = read_distill(ROOT / "recipes" / "distill" / "captions_vllm.yaml")
        assert isinstance(recipe.teacher, VLLMChat)
        with pytest.raises(UserError, match="pip install vllm"):
            recipe.teacher.open(recipe.sampling)


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("--task.examples.choose=nearest", "choose"),
        ("--task.examples.features=null", "features"),
        ("--task.examples.count=0", "count"),
        ("--limits.max_concurrency=0", "max_concurrency"),
        ("--limits.max_cost=1", "prices"),
        ("--teacher.type=oracle", "oracle"),
        ("surprise", "written --key=value"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(override, fault):
    with pytest.raises(UserError, match=fault):
        read_distill(ROOT / "recipes" / "distill" / "emblems_smollm2.yaml", [override])
