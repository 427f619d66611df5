"""The recipes of cascades hold what their names say; a line swaps a stage."""

import difflib

import pytest
from recipe_files import ROOT

from rivegs_mllm.cascade.base import REQUIRED_SLOTS, SLOTS, RequiresOnly
from rivegs_mllm.cascade.config import as_cascade, is_cascade
from rivegs_mllm.compare.run import compare
from rivegs_mllm.compare.systems import read_systems
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.yaml_text import plain
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.types import UserError

FOLDER = ROOT / "recipes" / "cascade"
WHOLE = ("riveg", "tiny", "mllm")
FILES = ("riveg_ablations", "tiny_ablations")
SINGLE = {"type": "mllm", "recipe": "recipes/tiny/e2e.yaml"}
GOLD = "".join(f"{slot}: {{type: gold}}\n" for slot in SLOTS[1:])


def systems() -> dict:
    """All cascades of the folder, by name."""
    own = {name: read_layers(FOLDER / f"{name}.yaml") for name in WHOLE}
    for name in FILES:
        own |= read_layers(FOLDER / f"{name}.yaml").variants()
    return own


SYSTEMS = systems()


def slots(name: str) -> dict:
    content = plain(SYSTEMS[name].content)
    return {slot: content[slot] for slot in SLOTS if slot in content}


def changed(name: str, base: str) -> set[str]:
    """The slots in which a system is not as another."""
    own, other = slots(name), slots(base)
    return {slot for slot in SLOTS if own.get(slot) != other.get(slot)}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_stage_has_what_it_needs(name):
    stages = as_cascade(SYSTEMS[name]).stages()
    for slot, choice in stages.items():
        own = choice.requires_only() if isinstance(choice, RequiresOnly) else REQUIRED_SLOTS[slot]
        assert set(own) <= stages.keys()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_cascade_has_one_line_a_slot_so_that_a_stage_is_swapped_by_editing_one(name):
    assert is_cascade(FOLDER / f"{name}.yaml")
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.partition(":")[0] for line in text.splitlines() if not line.startswith(("#", "batch_size:"))]
    assert lines == list(slots(name))


def test_a_variant_says_in_its_name_what_it_changes():
    for name in SYSTEMS.keys() - set(WHOLE):
        family = "riveg" if name.startswith("riveg") else "tiny"
        for slot in SLOTS:
            if slot in name.split("_"):
                assert slot in changed(name, family), name
            if f"no_{slot}" in name:
                assert slot not in slots(name), name
            if f"mllm_{slot}" in name:
                assert slots(name)[slot]["type"] == "mllm"
                assert changed(name, family) == {slot}
    for slot in SLOTS[:-1]:
        assert f"tiny_mllm_{slot}" in SYSTEMS


@pytest.mark.parametrize("name", WHOLE)
def test_gold_is_swept_over_every_slot_that_can_be_perfect(name, monkeypatch):
    monkeypatch.setattr("rivegs_mllm.compare.systems.missing_requirement", lambda recipe: "")  # reads what is trained
    monkeypatch.setattr("rivegs_mllm.compare.systems.check_requirements", lambda recipe: None)
    found = read_systems([FOLDER / f"{name}.yaml"], "gold")
    assert list(found) == [name, *(f"{name}_gold_{slot}" for slot in SLOTS[1:])]


def test_the_cascade_s_fields_are_forced_on_the_single_model():
    told = slots("mllm_given_fields")
    assert {slot for slot in told if told[slot] == SINGLE} == {"entailment", "grounder"}
    assert changed("mllm_given_fields", "tiny") == {"entailment", "grounder"}
    assert slots("mllm_given_expressions") == {**slots("mllm"), "expander": slots("tiny")["expander"]}
    assert slots("mllm") == dict.fromkeys(SLOTS[:-1], SINGLE)
    assert read_recipe(ROOT / SINGLE["recipe"]).answer.segments == [
        "knowledge", "entities", "expressions", "visible", "boxes",
    ]  # fmt: skip


def test_gold_is_perfect_in_every_slot_that_can_be():
    assert plain(SYSTEMS["gold"].content) == {slot: {"type": "gold"} for slot in SLOTS[1:]}


# Swapped by editing one line


def test_a_stage_is_swapped_by_editing_one_line(emblems, tmp_path):
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(GOLD, encoding="utf-8")
    after.write_text(GOLD.replace("entailment: {type: gold}", "entailment: {type: always}"), encoding="utf-8")
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
    path = tmp_path / "edited.yaml"
    path.write_text(GOLD.replace("entailment: {type: gold}", line), encoding="utf-8")
    with pytest.raises(UserError, match=said) as error:
        compare([path], emblems, "test", tmp_path / "out")
    assert str(path) in str(error.value)
