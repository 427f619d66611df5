"""The systems of a comparison: variants of a file, one cascade with a type in each slot, and a choice among them."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.cascade.base import SLOTS
from rivegs_mllm.cascade.config import CascadeRecipe, type_name_of, type_names_of
from rivegs_mllm.cli.main import main
from rivegs_mllm.compare.run import compare
from rivegs_mllm.compare.systems import read_systems
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.types import UserError

GOLD = {slot: {"type": "gold"} for slot in SLOTS[1:]}


def write(folder: Path, name: str, content: dict) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def types(system) -> dict[str, str]:
    return {slot: type_name_of(choice) for slot, choice in system.recipe.stages().items()}


@pytest.fixture
def boxes(tmp_path) -> Path:
    """A cascade of perfect stages, but for its expressions and masks."""
    return write(tmp_path, "boxes", {**GOLD, "expander": {"type": "none"}, "segmenter": {"type": "box"}})


# Variants


def test_each_variant_is_a_system_of_its_own_name(boxes, tmp_path):
    path = write(
        tmp_path,
        "many",
        {
            "variants": {
                "perfect": {"base": "boxes.yaml", "segmenter": {"type": "gold"}},
                "unmasked": {"base": "boxes.yaml", "segmenter": None},
                "alone": {"tagger": {"type": "gold"}},
            }
        },
    )
    systems = read_systems([boxes, path])
    assert list(systems) == ["boxes", "perfect", "unmasked", "alone"]
    assert types(systems["perfect"]) == {**types(systems["boxes"]), "segmenter": "gold"}
    assert "segmenter" not in types(systems["unmasked"])
    assert types(systems["alone"]) == {"tagger": "gold"}
    assert systems["perfect"].files == (path, boxes)
    assert systems["perfect"].where == f"{path}: variants.perfect"


def test_variants_of_a_single_model_are_run_with_its_adapter(trained, tmp_path):
    short = {"base": str(trained.recipe), "predict": {"max_new_tokens": 8}}
    path = write(tmp_path, "many", {"variants": {"short": short, "same": {"base": str(trained.recipe)}}})
    systems = read_systems([trained.recipe, path])
    assert all(isinstance(system.recipe, Answering) for system in systems.values())
    assert len({system.weights for system in systems.values()}) == 1
    result = compare([trained.recipe, path], trained.data, "dev", tmp_path / "out")["systems"]
    assert result["same"]["scores"] == result[trained.recipe.stem]["scores"]
    said = {name: [own.raw for own in read_predictions(tmp_path / "out" / f"{name}.jsonl")] for name in result}
    assert said["short"] != said["same"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"base": "boxes.yaml", "tagger": {"type": "guess"}}, "variants.x: tagger.type: 'guess' is none of"),
        ({"base": "boxes.yaml", "grounder": None}, r"variants.x: segmenter \(box\): needs what the slot 'grounder'"),
        ({"base": "boxes.yaml", "surprise": 1}, "variants.x: surprise: no such key"),
        ({"base": "gone.yaml"}, "variants.x.base: .*gone.yaml: no such recipe"),
    ],
)
def test_a_variant_that_is_wrong_is_told_before_anything_is_run(boxes, emblems, tmp_path, content, says):
    path = write(tmp_path, "many", {"variants": {"x": content}})
    with pytest.raises(UserError, match=f"^{path}: {says}") as caught:
        compare([boxes, path], emblems, "test", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_name_is_given_once(boxes, tmp_path):
    path = write(tmp_path, "many", {"variants": {"boxes": {"base": "boxes.yaml"}}})
    with pytest.raises(UserError, match=f"^{boxes} and {path}: variants.boxes have the same name, boxes; rename one"):
        read_systems([boxes, path])


# A type in each slot


def test_gold_is_swept_over_every_slot_that_can_be_perfect(boxes):
    systems = read_systems([boxes], "gold")
    assert list(systems) == ["boxes", "boxes_gold_expander", "boxes_gold_segmenter"], "the others are perfect already"
    plain = types(systems["boxes"])
    assert types(systems["boxes_gold_expander"]) == {**plain, "expander": "gold"}
    assert types(systems["boxes_gold_segmenter"]) == {**plain, "segmenter": "gold"}
    assert systems["boxes_gold_expander"].where == f"{boxes} --expander.type=gold"


def test_a_slot_that_is_empty_is_filled_where_its_needs_are(tmp_path):
    path = write(tmp_path, "bare", {"tagger": {"type": "gold"}})
    assert list(read_systems([path], "gold")) == ["bare", "bare_gold_expander", "bare_gold_entailment"]


def test_none_leaves_out_what_the_rest_can_do_without(tmp_path):
    path = write(tmp_path, "all", GOLD)
    systems = read_systems([path], "none")
    assert list(systems) == ["all", "all_none_expander", "all_none_segmenter"]
    assert types(systems["all_none_expander"])["expander"] == "none"
    assert "segmenter" not in types(systems["all_none_segmenter"])


def test_a_sweep_is_run(boxes, emblems, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", str(boxes), "--sweep", "gold", "--data", str(emblems), "--out", str(out)]
    assert main([*command, "--only", "boxes_gold_segmenter", "boxes"]) == 0
    systems = json.loads((out / "compare.json").read_text())["systems"]
    assert list(systems) == ["boxes_gold_segmenter", "boxes"]
    masks = [systems[name]["stages"]["all"]["segmentation"]["mean_iou"] for name in systems]
    assert masks[0] == 1 > masks[1]


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("guess", r"--sweep guess: replaces no stage of .*boxes.yaml; several slots have gold, llm, mllm, none"),
        ("mllm", r"knowledge.recipe: missing, .*a file of variants, not by --sweep"),
    ],
)
def test_a_sweep_that_cannot_be(boxes, sweep, says):
    with pytest.raises(UserError, match=says) as caught:
        read_systems([boxes], sweep)
    assert "\n" not in str(caught.value)


def test_a_sweep_is_of_one_cascade(boxes, trained, tmp_path):
    many = write(tmp_path, "many", {"variants": {"x": {"base": "boxes.yaml"}}})
    for recipes, says in (
        ([boxes, boxes], "--sweep gold: goes with one recipe of a cascade, and there are 2"),
        ([trained.recipe], "this recipe has none"),
        ([many], "this recipe has none"),
    ):
        with pytest.raises(UserError, match=says):
            read_systems(recipes, "gold")


def test_only_those_that_are_named_are_run_in_that_order(boxes, tmp_path):
    path = write(tmp_path, "many", {"variants": {"x": {"base": "boxes.yaml"}, "y": {"base": "boxes.yaml"}}})
    assert list(read_systems([boxes, path], only=["y", "boxes"])) == ["y", "boxes"]
    with pytest.raises(UserError, match="--only z: no such system; there are 'boxes, x, y'"):
        read_systems([boxes, path], only=["z"])


def test_the_types_of_every_slot_are_known():
    assert {"gold", "mllm", "none", "llm", "replay"} <= set(type_names_of("expander"))
    assert all("mllm" in type_names_of(slot) for slot in SLOTS[:-1])
    assert set(SLOTS) < set(CascadeRecipe.__dataclass_fields__)
