"""Grounders that others pre-trained, as tiny untrained models of the same classes: frames of boxes, texts, training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from cascade_suite import StageSuite
from PIL import Image
from safetensors.torch import save_file
from test_grounding import check_resume, train
from tiny_grounders import save_florence2, save_grounding_dino, save_owlv2

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cascade.grounding.detector import ZeroShotGrounder, ZeroShotTraining, load_detector
from rivegs_mllm.cascade.grounding.florence2 import Florence2Grounder
from rivegs_mllm.cascade.grounding.vlm import VlmGrounder, parse_boxes
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.config.schema import ModelRecipe
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import TYPES, Box, UserError

DETECTORS = {"grounding_dino": save_grounding_dino, "owlv2": save_owlv2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in DETECTORS.items()}


@pytest.fixture(scope="module")
def florence2(tmp_path_factory) -> Path:
    return save_florence2(tmp_path_factory.mktemp("florence2"))


def noise(size: tuple[int, int]) -> Image.Image:
    torch.manual_seed(0)
    return Image.fromarray(torch.randint(0, 255, (size[1], size[0], 3), dtype=torch.uint8).numpy())


class TestGroundingDino(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, folders):
        return ZeroShotGrounder(str(folders["grounding_dino"]))


class TestOwlv2(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, folders):
        return ZeroShotGrounder(str(folders["owlv2"]), query_fields=["type"])


class TestFlorence2(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, florence2):
        return Florence2Grounder(str(florence2), max_new_tokens=6)


class TestVlm(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, base):
        return VlmGrounder(ModelRecipe(str(base), dtype="float32"), max_new_tokens=6)


# Open-vocabulary detectors


@pytest.mark.parametrize("name", DETECTORS)
def test_a_box_goes_into_the_model_s_frame_and_back(folders, name):
    """Of OWLv2 that is a square over the longer side, which it pads at the bottom or on the right."""
    detector = load_detector(str(folders[name]), None)
    for size in ((80, 40), (40, 80)):
        target = detector.training_row(noise(size), "a car", Box(10, 4, 30, 36))["box"]
        whole = (max(size),) * 2 if name == "owlv2" else size
        wanted = [20 / whole[0], 20 / whole[1], 20 / whole[0], 32 / whole[1]]
        torch.testing.assert_close(target, torch.tensor(wanted))


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_lie_in_the_picture_and_each_text_has_its_own(folders, name):
    detector = load_detector(str(folders[name]), None)
    together = detector.locate(noise((70, 40)), ["a car", "a very long hat", "b"])
    alone = [detector.locate(noise((70, 40)), [text])[0] for text in ("a car", "a very long hat", "b")]
    for ours, theirs in zip(together, alone, strict=True):
        (box,) = ours.boxes
        assert dataclasses.astuple(box) == pytest.approx(dataclasses.astuple(theirs.boxes[0]), abs=1e-2)
        assert 0 <= box.xmin < box.xmax <= 70
        assert 0 <= box.ymin < box.ymax <= 40


def test_the_best_query_wins_as_in_the_processor_of_grounding_dino(folders):
    detector = load_detector(str(folders["grounding_dino"]), None)
    image = noise((70, 40))
    inputs = detector.processor(images=image, text="a car.", return_tensors="pt")
    with torch.inference_mode():
        found = detector.model(**inputs)
    (result,) = detector.processor.post_process_grounded_object_detection(
        found, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(40, 70)]
    )
    best = result["boxes"][result["scores"].argmax()]
    wanted = [min(max(edge, 0), limit) for edge, limit in zip(best.tolist(), (70, 40, 70, 40), strict=True)]
    (mine,) = detector.locate(image, ["a car"])
    assert dataclasses.astuple(mine.boxes[0]) == pytest.approx(wanted, abs=1e-3)


def test_stops_do_not_begin_another_phrase(folders):
    detector = load_detector(str(folders["grounding_dino"]), None)
    tokens, _ = detector.tokenize(["Dr. Who? (PER)", "?"])
    stops = (tokens["input_ids"] == 1012).sum(1)
    assert stops.tolist() == [1, 1]
    assert not (tokens["input_ids"] == 1029).any()


def test_a_text_that_is_cut_is_noted(folders):
    detector = load_detector(str(folders["owlv2"]), None)
    short, long = detector.locate(noise((40, 40)), ["a", "a very long text of many letters"])
    assert short.notes == ()
    assert long.notes == ("cut to 16 of 28 tokens",)


@pytest.mark.parametrize("name", DETECTORS)
def test_loss_of_a_batch_is_the_mean_of_its_rows(folders, name):
    """Not so in transformers' own loss of Grounding DINO from the third row on."""
    detector = load_detector(str(folders[name]), None)
    rows = [
        detector.training_row(noise((60, 60)), text, Box(5, 5, 40, 30)) for text in ("a car", "a long dog", "hat", "b")
    ]
    alone = torch.stack([detector([row])["loss"] for row in rows])
    torch.testing.assert_close(detector(rows)["loss"], alone.mean())


@pytest.mark.parametrize("name", DETECTORS)
def test_loss_in_bf16_as_in_the_recipes(folders, name):
    detector = load_detector(str(folders[name]), None)
    rows = [detector.training_row(noise((60, 60)), text, Box(5, 5, 40, 30)) for text in ("a car", "hat")]
    wanted = detector(rows)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = detector(rows)["loss"]
    torch.testing.assert_close(loss.float(), wanted, rtol=0.1, atol=0.1)
    loss.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in detector.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_it_learns_a_box(folders, name):
    detector = load_detector(str(folders[name]), None)
    image, wanted = noise((60, 60)), Box(6, 6, 36, 54)
    rows = [detector.training_row(image, "a car", wanted)]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(40):
        loss = detector(rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (found,) = detector.locate(image, ["a car"])
    assert dataclasses.astuple(found.boxes[0]) == pytest.approx(dataclasses.astuple(wanted), abs=6)


@pytest.mark.parametrize("name", DETECTORS)
def test_fine_tuned_through_the_trainer_and_loaded_as_a_stage(tmp_path, emblems, folders, name):
    run = train(tmp_path, emblems, "zero_shot", f"model: {folders[name]}", 2)
    before = load_detector(str(folders[name]), None).state_dict()
    after = load_detector(str(run), None).state_dict()
    assert after.keys() == before.keys()
    assert sum(not torch.equal(after[key], before[key]) for key in after) > len(after) / 2
    assert ZeroShotGrounder(str(run)).files() == (run,)


def test_cut_off_it_ends_as_if_never_cut_off(tmp_path, emblems, folders):
    check_resume(tmp_path, emblems, "zero_shot", f"model: {folders['grounding_dino']}")


def test_texts_that_are_cut_in_training_are_counted(emblems, folders, capsys):
    samples = read_split(emblems, "train")
    trainable = ZeroShotTraining(str(folders["owlv2"])).prepare(StageData(samples, [], emblems, TYPES, 0))
    texts = [text for ((_, text),) in trainable.train.variants]
    detector = load_detector(str(folders["owlv2"]), None)
    longer = [text for text in texts if len(detector.processor.tokenizer(text).input_ids) > 16]
    assert 0 < len(longer) <= len(texts)
    told = capsys.readouterr().out
    assert f"grounder (zero_shot): {len(longer)} of {len(texts)} texts are too long, such as {longer[0]!r}" in told


def test_a_model_that_is_no_detector(tmp_path, base, florence2):
    with pytest.raises(UserError, match=r"grounder \(zero_shot\).*is a florence2; known are grounding-dino"):
        load_detector(str(florence2), None)
    with pytest.raises(UserError, match="is no folder"):
        load_detector(str(tmp_path / "none"), None)
    with pytest.raises(UserError, match="is a qwen2_5_vl; known are florence2"):
        Florence2Grounder(str(base)).load(tmp_path)


def test_weights_that_are_missing(tmp_path):
    save_owlv2(tmp_path)
    state = load_detector(str(tmp_path), None).model.state_dict()
    del state["class_head.dense0.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, such as class_head\.dense0\.weight"):
        load_detector(str(tmp_path), None)


# Florence-2


def test_boxes_of_florence2_in_the_order_of_the_text(florence2, tmp_path):
    locate = Florence2Grounder(str(florence2)).load(tmp_path).locate
    answer = (
        "</s><s>a man<loc_0><loc_0><loc_499><loc_999>red hair<loc_100><loc_100><loc_200><loc_200>"
        "<loc_300><loc_300><loc_300><loc_400>the image<loc_0><loc_0><loc_999><loc_999></s>"
    )
    found = locate.parse(answer, (120, 60))
    first, second = found.boxes
    assert dataclasses.astuple(first) == pytest.approx((0.06, 0.03, 59.94, 59.97))
    assert dataclasses.astuple(second) == pytest.approx((12.06, 6.03, 24.06, 12.03))
    assert "without area" in found.notes[0]
    assert "no box" in locate.parse("</s><s>a man</s>", (120, 60)).notes[0]


# Chat models

PIXELS = {"min_pixels": 28 * 28, "max_pixels": 112 * 112, "patch_factor": 28}


@pytest.mark.parametrize(
    ("family", "answer", "wanted"),
    [
        ("qwen2_5_vl", '```json\n[{"bbox_2d": [14, 28, 56, 56], "label": "a car"}]\n```', (50, 50, 200, 100)),
        ("qwen3_vl", '{"bbox_2d": [125, 500, 500, 1000]}', (50, 50, 200, 100)),
        ("qwen2_vl", "<|box_start|>(125,500),(500,1000)<|box_end|>", (50, 50, 200, 100)),
        ("qwen3_vl", "[124.6, 499.9, 500.2, 1000.0]", (50, 50, 200, 100)),
    ],
)
def test_native_box_languages(family, answer, wanted):
    """A picture of 400 x 100 becomes one of 112 x 56 or near, as the answer format says."""
    answer_format = AnswerFormat(family, "native", **PIXELS)
    size = (400, 100)
    if family == "qwen2_5_vl":
        across, down = answer_format.resized(size)
        wanted = (14 / across * 400, 28 / down * 100, 56 / across * 400, min(56 / down * 100, 100))
    found = parse_boxes(answer, answer_format, size)
    assert dataclasses.astuple(found.boxes[0]) == pytest.approx(wanted)
    assert len(found.boxes) == 1


def test_answers_without_a_box():
    answer_format = AnswerFormat("qwen3_vl", "native", **PIXELS)
    assert "no box: 'I see none'" in parse_boxes("I see none", answer_format, (40, 40)).notes[0]
    assert "no area" in parse_boxes("[5, 5, 5, 9]", answer_format, (40, 40)).notes[0]
    outside = parse_boxes("[5, 5, 2000, 9]", answer_format, (40, 40))
    assert outside.boxes[0].xmax == 40
    assert "outside" in outside.notes[0]


@pytest.mark.parametrize("prompt", ["find it", "find {it}", "find {text} {"])
def test_prompts_that_cannot_be_filled_in(prompt):
    with pytest.raises(UserError, match="prompt"):
        VlmGrounder(ModelRecipe("tiny"), prompt=prompt)
