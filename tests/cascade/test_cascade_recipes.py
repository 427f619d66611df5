"""Every recipe of a cascade parses, says its command, and holds what its name says; a line swaps a stage."""

import difflib
import shlex
from pathlib import Path

import pytest
import yaml

from rivegs_mllm.cascade.base import NEEDS, SLOTS, Independent
from rivegs_mllm.cascade.config import is_cascade, read_cascade
from rivegs_mllm.compare.run import compare
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.types import UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "cascade"
RECIPES = sorted(FOLDER.glob("*.yaml"))
FAMILIES = {"mllm": SLOTS[1:], "tiny": SLOTS[1:], "riveg": ("tagger", *SLOTS[3:])}
"""Systems, and the slots in which each has the gold, one at a time."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_says_its_command(path):
    assert is_cascade(path)
    stages = read_cascade(path).stages()
    for slot, choice in stages.items():
        own = choice.instead() if isinstance(choice, Independent) else NEEDS[slot]
        assert set(own) <= stages.keys()
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    words = shlex.split(first.lstrip("# "))
    assert words[:3] == ["rivegs", "predict", path.relative_to(ROOT).as_posix()]
    assert Path(words[-1]).stem == path.stem
    lines = [line.partition(":")[0] for line in rest if not line.startswith(("#", "batch_size:"))]
    assert lines == list(stages), "one line a slot, so that a stage is swapped by editing one line"


def slots(name: str) -> dict:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return {slot: content[slot] for slot in SLOTS if slot in content}


@pytest.mark.parametrize(
    ("system", "slot", "kind"),
    [(system, slot, "gold") for system, own in FAMILIES.items() for slot in own]
    + [("tiny", slot, "mllm") for slot in SLOTS[:-1]]
    + [("riveg", slot, "mllm") for slot in ("tagger", "entailment", "grounder")],
)
def test_one_slot_at_a_time_is_replaced(system, slot, kind):
    whole, replaced = slots(system), slots(f"{system}_{kind}_{slot}")
    assert replaced.pop(slot)["type"] == kind
    whole.pop(slot, None)
    assert replaced == whole


def test_the_cascade_s_fields_are_forced_on_the_single_model():
    told, single = slots("mllm_told_fields"), {"type": "mllm", "recipe": "recipes/tiny/e2e.yaml"}
    assert {slot for slot in told if told[slot] == single} == {"entailment", "grounder"}
    assert {slot: told[slot] for slot in SLOTS[:3]} == {slot: slots("tiny")[slot] for slot in SLOTS[:3]}
    expressions = slots("mllm_told_expressions")
    assert expressions == {**slots("mllm"), "expander": slots("tiny")["expander"]}
    assert read_recipe(ROOT / single["recipe"]).answer.segments == [
        "knowledge", "entities", "expressions", "visible", "boxes",
    ]  # fmt: skip


def test_a_checkpoint_that_a_recipe_names_is_one_that_a_stage_s_recipe_trains():
    folders = {}
    for path in (ROOT / "recipes" / "stages").glob("*.yaml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        folders[recipe["train"]["output_dir"]] = recipe["stage"]["type"]
    for path in RECIPES:
        for slot, stage in slots(path.stem).items():
            named = str(stage.get("checkpoint", stage.get("model", "")))
            if named.startswith("runs/"):
                assert folders.get(named.removesuffix("/sam.pth")) == stage["type"], f"{path.name}: {slot}: {named}"


# Swapped by editing one line


def test_a_stage_is_swapped_by_editing_one_line(emblems, tmp_path):
    gold = (FOLDER / "gold.yaml").read_text(encoding="utf-8")
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(gold, encoding="utf-8")
    after.write_text(gold.replace("entailment: {type: gold}", "entailment: {type: always}"), encoding="utf-8")
    changes = difflib.ndiff(before.read_text().splitlines(), after.read_text().splitlines())
    assert [line for line in changes if line[0] in "+-"] == [
        "- entailment: {type: gold}",
        "+ entailment: {type: always}",
    ]
    systems = compare([before, after], emblems, "test", tmp_path / "out")["systems"]
    perfect, swapped = (systems[name]["stages"]["all"] for name in ("before", "after"))
    assert perfect["entailment"]["accuracy"] == 1
    confusion = swapped["entailment"]["confusion"]
    assert swapped["entailment"]["accuracy"] < 1
    assert (confusion["invisible"]["invisible"], confusion["visible"]["invisible"]) == (0, 0)
    assert perfect["span"] == swapped["span"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("entailment: {type: alway}", "entailment.type: 'alway' is none of always, caption, classifier, gold, mllm"),
        ("entailment: {type: classifier}", "checkpoint"),
        ("entailment: {type: always, checkpoint: x}", "checkpoint"),
        ("entailment:", "grounder .gold.: needs what the slot 'entailment' fills"),
    ],
)
def test_a_line_that_is_edited_wrongly_is_told(emblems, tmp_path, line, said):
    gold = (FOLDER / "gold.yaml").read_text(encoding="utf-8")
    path = tmp_path / "edited.yaml"
    path.write_text(gold.replace("entailment: {type: gold}", line), encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        compare([path], emblems, "test", tmp_path / "out")
    assert str(path) in str(error.value)
