"""Segmenters: boxes, gold, segment-anything's own classes and those of transformers at toy size, and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cascade_suite import StageSuite
from PIL import Image
from segment_anything import sam_model_registry
from test_grounding import TRAIN
from tiny_segmenters import save_sam2, save_sam3, save_sam_of_transformers

from eval.stage_metrics import segmentation_scores
from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.segmentation.base import BoxSegmenter, GoldSegmenter, SegmentingStage
from rivegs_mllm.cascade.segmentation.sam import SamSegmenter
from rivegs_mllm.cascade.segmentation.segment_anything import (
    SIZES,
    SamSizes,
    SegmentAnything,
    box_mask_prompts,
    build_sam,
    load_sam,
    save_sam,
)
from rivegs_mllm.cascade.segmentation.segment_anything_training import (
    SegmentAnythingTraining,
    box_mask_pairs,
    collate,
    make_example,
)
from rivegs_mllm.cascade.training import StageData, StageTraining, train_stage
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.data.masks import decode, encode, filled
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Prediction, Sample, UserError

SMALL = SamSizes(side=64, patch=16, width=16, depth=2, heads=2, window=0, whole=(0, 1), channels=16)


def save_toy(folder: Path, size: SamSizes = SMALL) -> Path:
    """An untrained model of segment-anything's classes."""
    torch.manual_seed(0)
    save_sam(build_sam(size), size, folder)
    return folder / "sam.pth"


class TestBox(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self):
        return BoxSegmenter()


class TestGold(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self):
        return GoldSegmenter()

    def test_it_is_perfect(self, cases, answers):
        scores = segmentation_scores(cases.samples, answers)
        assert scores["mean_iou"] == 1
        assert scores["total"] > 2


class TestSegmentAnything(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory):
        return SegmentAnything(save_toy(tmp_path_factory.mktemp("toy")))


class TestSam(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory):
        return SamSegmenter(str(save_sam_of_transformers(tmp_path_factory.mktemp("sam"))))


class TestSam2(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory):
        return SamSegmenter(str(save_sam2(tmp_path_factory.mktemp("sam2"))))


class TestSam3(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory):
        return SamSegmenter(str(save_sam3(tmp_path_factory.mktemp("sam3"))))


def picture(folder: Path, size=(60, 40)) -> Sample:
    Image.effect_noise(size, 90).convert("RGB").save(folder / "a.png")
    return Sample("post", ("Ann", "Bob"), "a.png", size)


def partial(*boxes: tuple[Box, ...]) -> Prediction:
    names = zip(("Ann", "Bob"), boxes, strict=False)
    return Prediction("post", entities=tuple(Entity(name, "PER", visible=True, boxes=own) for name, own in names))


def test_runs_are_written_and_read_back():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2:6] = True
    coded = encode(mask)
    assert coded.size == (5, 7)
    assert (decode(coded) == mask).all()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [(Box(1, 2, 4, 5), 9), (Box(0, 0, 7, 6), 42), (Box(1.4, 1.4, 2.6, 2.6), 4), (Box(6.9, 5.9, 7, 6), 1)],
)
def test_filled_boxes(box, pixels):
    mask = filled(box, (7, 6))
    assert mask.shape == (6, 7)
    assert mask.sum() == pixels
    ys, xs = mask.nonzero()
    assert xs.min() == min(round(box.xmin), 6)
    assert ys.min() == min(round(box.ymin), 5)


def test_a_picture_is_segmented_once_for_all_its_boxes(tmp_path):
    calls = []

    def segment(image, boxes):
        calls.append((image.size, list(boxes)))
        return [filled(box, image.size) for box in boxes]

    boxes = [(Box(0, 0, 10, 10), Box(5, 5, 30, 20)), (Box(20, 10, 60, 40),)]
    (answer,) = SegmentingStage("under test", segment, tmp_path, 0)([picture(tmp_path)], [partial(*boxes)])
    assert calls == [((60, 40), [*boxes[0], *boxes[1]])]
    for entity, own in zip(answer.entities, boxes, strict=True):
        assert [decode(mask).sum() for mask in entity.masks] == [filled(box, (60, 40)).sum() for box in own]


def test_the_package_s_encoder_runs_once_a_picture(tmp_path):
    stage = SegmentAnything(save_toy(tmp_path)).load(tmp_path)
    runs = []
    stage.segment.model.image_encoder.register_forward_hook(lambda *_: runs.append(1))
    (answer,) = stage([picture(tmp_path)], [partial((Box(0, 0, 10, 10),), (Box(20, 10, 60, 40),))])
    assert runs == [1]
    assert [mask.size for entity in answer.entities for mask in entity.masks] == [(40, 60)] * 2


@pytest.mark.parametrize("save", [save_sam_of_transformers, save_sam2, save_sam3])
def test_the_encoder_of_transformers_runs_once_a_picture(tmp_path, save):
    stage = SamSegmenter(str(save(tmp_path))).load(tmp_path)
    runs = []
    stage.segment.model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    boxes = (Box(0, 0, 10, 10), Box(20, 10, 60, 40))
    (answer,) = stage([picture(tmp_path)], [partial(boxes, boxes[1:])])
    assert runs == [1]
    assert [mask.size for entity in answer.entities for mask in entity.masks] == [(40, 60)] * 3
    assert answer.entities[0].masks[1] == answer.entities[1].masks[0] != answer.entities[0].masks[0]


@pytest.mark.parametrize("choice", [BoxSegmenter, GoldSegmenter])
def test_a_box_outside_the_picture(tmp_path, choice):
    with pytest.raises(StageError, match=r"segmenter \((box|gold)\).*'post'.*60 x 40"):
        choice().load(tmp_path)([picture(tmp_path)], [partial((Box(0, 0, 90, 10),))])


def test_gold_masks_only_where_the_box_is_right(tmp_path):
    right, wrong = Box(0, 0, 20, 20), Box(30, 20, 50, 40)
    gold = encode(filled(Box(5, 5, 15, 15), (60, 40)))
    known = Entity("Ann", "PER", (0, 1), visible=True, boxes=(right,), masks=(gold,))
    post = dataclasses.replace(picture(tmp_path), entities=(known,))
    stage = GoldSegmenter().load(tmp_path)
    for box, wanted in ((Box(0, 0, 20, 18), gold), (wrong, encode(filled(wrong, (60, 40))))):
        (answer,) = stage([post], [partial((box,))])
        assert answer.entities[0].masks == (wanted,)


def test_a_picture_that_is_lost(tmp_path):
    sample = Sample("post", ("Ann",), "none.png", (60, 40))
    stage = SegmentAnything(save_toy(tmp_path)).load(tmp_path)
    (answer,) = stage([sample], [partial((Box(0, 0, 10, 10),))])
    assert "none.png" in answer.errors[0]


# segment-anything's checkpoints


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_package(name):
    with torch.device("meta"):
        wanted, mine = sam_model_registry[name](None).state_dict(), build_sam(SIZES[name]).state_dict()
    assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in wanted.items()}
    assert (SIZES[name].side, SIZES[name].window) == (1024, 14)


def test_a_checkpoint_gives_the_masks_of_the_package_s_own_predictor(tmp_path):
    from segment_anything import SamPredictor

    path = save_toy(tmp_path)
    model, size = load_sam(path, None)
    assert size == SMALL
    predictor = SamPredictor(model)
    sample = picture(tmp_path)
    predictor.set_image(np.asarray(Image.open(tmp_path / "a.png")))
    wanted, _, _ = predictor.predict(box=np.array([10, 5, 40, 30]), multimask_output=False)
    (answer,) = SegmentAnything(path).load(tmp_path)([sample], [partial((Box(10, 5, 40, 30),))])
    assert (decode(answer.entities[0].masks[0]) == wanted[0]).all()


def test_a_checkpoint_of_another_size(tmp_path):
    path = save_toy(tmp_path)
    with pytest.raises(
        StageError, match=r"segment_anything.*sam\.pth.*vit_b.*12 blocks.*768.*has 2 blocks and width 16"
    ):
        SegmentAnything(path, "vit_b").load(tmp_path)
    path.with_suffix(".json").write_text(json.dumps({**dataclasses.asdict(SMALL), "width": 32}))
    with pytest.raises(StageError, match=r"\.json says.*width 32.*has 2 blocks and width 16"):
        SegmentAnything(path).load(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(StageError, match=r"sam\.json.*set `size`: vit_b, vit_l, vit_h"):
        SegmentAnything(path).load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "sam.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError, match=r"sam\.pth cannot be loaded"):
        SegmentAnything(path, "vit_b").load(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"model": Path}, tmp_path / "sam.pth")
    with pytest.raises(StageError, match="cannot be loaded"):
        SegmentAnything(tmp_path / "sam.pth", "vit_b").load(tmp_path)
    torch.save({"model": torch.ones(1)}, tmp_path / "sam.pth")
    with pytest.raises(StageError, match="holds no model of segment-anything"):
        SegmentAnything(tmp_path / "sam.pth", "vit_b").load(tmp_path)


def test_a_model_of_transformers_that_segments_nothing(tmp_path, base):
    with pytest.raises(UserError, match=r"segmenter \(sam\).*is a qwen2_5_vl; known are sam, sam_hq, sam2"):
        SamSegmenter(str(base)).load(tmp_path)
    with pytest.raises(UserError, match="is no folder; give a hub id"):
        SamSegmenter(str(tmp_path / "none")).load(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded"):
        SamSegmenter("nobody/sam").load(tmp_path)


def test_an_unknown_size():
    with pytest.raises(UserError, match=r"vit_x.*vit_b, vit_l, vit_h"):
        SegmentAnything(Path("sam.pth"), "vit_x")


# Its training


def test_rows_lie_in_the_model_s_frame(tmp_path):
    """A picture of 60 x 30 in a square of 120: twice as large, the rest padding."""
    size = dataclasses.replace(SMALL, side=120, patch=10)
    whole = np.zeros((30, 60), dtype=bool)
    whole[10:20, 30:50] = True
    entity = Entity("Ann", "PER", (0, 1), visible=True, boxes=(Box(30, 10, 50, 20),), masks=(encode(whole),))
    post = dataclasses.replace(picture(tmp_path, (60, 30)), entities=(entity,))
    row = make_example(post, tmp_path, build_sam(size), size)
    assert row.picture.shape == (3, 120, 120)
    assert not row.picture[:, 60:].any()
    assert row.boxes.tolist() == [[60, 20, 100, 40]]
    inside = box_mask_prompts(row.boxes, dataclasses.replace(size, filled=True))[:, 0]
    assert inside.shape == row.masks.shape == (1, 48, 48)
    assert inside.sum() == 16 * 8
    assert (row.masks - inside).abs().mean() < 0.01


def test_what_has_no_mask_for_each_box_is_left_out():
    mask = Mask((4, 4), "04L")
    some = Entity("Ann", "PER", boxes=(Box(0, 0, 1, 1), Box(1, 1, 2, 2)), masks=(mask,))
    post = Sample("post", ("Ann",), "a.png", (4, 4), (some, dataclasses.replace(some, boxes=some.boxes[:1])))
    assert box_mask_pairs(post) == [(some.boxes[0], mask)]
    assert box_mask_pairs(dataclasses.replace(post, image="", size=None)) == []
    bare = dataclasses.replace(post, image="", size=None, entities=())
    with pytest.raises(UserError, match="no entity has a mask"):
        SegmentAnythingTraining().prepare(StageData([bare], [], Path(), TYPES, 0))


def test_it_learns_and_its_folder_is_loaded_as_a_stage(tmp_path, emblems):
    settings = "side: 64\n  channels: 16\n  width: 16"
    recipe = TRAIN.format(data=emblems, kind="segment_anything", settings=settings, out=tmp_path / "run", steps=2)
    (tmp_path / "recipe.yaml").write_text(recipe.replace("eval_precision", "eval_mean_iou"))
    run = train_stage(parse_recipe(StageTraining, tmp_path / "recipe.yaml", ()))
    samples = read_split(emblems, "dev")
    partials = [Prediction(one.id, entities=one.entities) for one in samples]
    trained = SegmentAnything(run / "sam.pth").load(emblems)(samples, partials)
    logged = json.loads((run / "metrics.json").read_text())["dev"]["mean_iou"]
    assert segmentation_scores(samples, trained)["mean_iou"] == pytest.approx(logged)

    trainable = SegmentAnythingTraining(64, 8, 16, 2, 2, 0, [0, 1], 16).prepare(
        StageData(read_split(emblems, "train"), [], emblems, TYPES, 0)
    )
    batch = collate([row[0] for row in trainable.train.variants[:4]])
    optimizer = torch.optim.AdamW(trainable.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        losses.append(trainable.model(**batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
