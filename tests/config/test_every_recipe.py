"""Every file of recipes/ decodes, as does each command in its opening comment, and no two train into one folder."""

from pathlib import Path

import pytest
import yaml
from recipe_files import ROOT, commands, named, overrides, recipes
from recipe_kinds import OTHERS, kind, read

from rivegs_mllm.cascade.config import as_cascade, names_slot
from rivegs_mllm.config.reading.layers import read_layers

BASES = sorted((ROOT / "recipes").rglob("_*.yaml"))


@pytest.mark.parametrize("path", recipes(), ids=named)
def test_the_recipe_and_each_command_in_its_opening_comment(path):
    own = commands(path)
    assert own, "its first line is the command that starts it"
    assert path.read_text(encoding="utf-8").startswith(f"# {' '.join(own[0][:1])} ")
    start = kind(path)[1]
    for words in own:
        assert words[: len(start)] == start
        for flag in ("--config_file", "--deepspeed_config_file"):
            assert flag not in words or (ROOT / words[words.index(flag) + 1]).is_file()
        assert read(path, *overrides(path, words))
    if not any("MINE" in word for word in own[0]):
        assert read(path)


@pytest.mark.parametrize("path", BASES, ids=named)
def test_a_base_is_one_of_some_recipe_and_says_nothing_that_all_of_them_say_otherwise(path):
    own = [file for file in recipes() if path in {one.resolve() for one in read_layers(file).files}]
    assert len(own) > 1
    for key, where in leaves(yaml.safe_load(path.read_text(encoding="utf-8"))):
        said = [_at(read_layers(file).sections, where) for file in own]
        assert any(one is not None and Path(one.source).resolve() == path for one in said), f"{path}: {key}"


def leaves(content: dict, above: tuple[str, ...] = ()):
    for name, own in content.items():
        if isinstance(own, dict):
            yield from leaves(own, (*above, name))
        elif (*above, name) != ("base",):
            yield ".".join((*above, name)), (*above, name)


def _at(sections, where):
    for name in where:
        sections = sections.get(name) if isinstance(sections, dict) else None
    return sections if not isinstance(sections, dict) else None


def test_two_recipes_train_into_two_folders():
    folders = {}
    for path in [*recipes("e2e"), *recipes("stages"), *recipes("tiny")]:
        if path.name in OTHERS:
            continue
        for said in ([], *(overrides(path, words) for words in commands(path))):
            [recipe] = read(path, *said)
            alike = {"--train.gradient_accumulation_steps=8", "--data.folder=data/twitter-gmner"}
            own = (path, set(said) - alike)
            assert folders.setdefault(recipe.train.output_dir, own) == own


def test_a_trained_folder_that_a_cascade_names_is_one_that_a_stage_s_recipe_trains():
    trained = {}
    for path in recipes("stages"):
        for said in ([], *(overrides(path, words) for words in commands(path))):
            [recipe] = read(path, *said)
            trained[recipe.train.output_dir] = type(recipe.stage).get_choice_name(type(recipe.stage))
    for path in recipes("cascade"):
        layered = read_layers(path)
        for one in layered.variants().values() or [layered]:
            assert names_slot(one)
            for slot, choice in as_cascade(one).stages().items():
                folder = str(vars(choice).get("checkpoint", vars(choice).get("model", "")))
                if folder.startswith("runs/"):
                    kinds = type(choice).get_choice_name(type(choice))
                    assert trained.get(folder.removesuffix("/sam.pth")) == kinds, f"{one.name}: {slot}: {folder}"
