import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exporting_files import exported
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data_builders.exporting.run import read_sides
from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError


def rectangle(width: int, height: int) -> Mask:
    pixels = np.zeros((60, 100), np.uint8, order="F")
    pixels[5 : 5 + height, 10 : 10 + width] = 1
    return Mask((60, 100), coco.encode(pixels)["counts"].decode())


ADA = Entity("Ada", "PER", (0, 1), "a woman", True, boxes=(Box(10, 5, 50, 35),), masks=(rectangle(40, 30),))
ROME = Entity("Rome", "LOC", (2, 3), visible=False)
TEAM = Entity("Team", "ORG", (1, 2), visible=True, boxes=(Box(0, 0, 10, 10), Box(20, 0, 30, 10)))
GOLD = [
    Sample("p1", ("Ada", "in", "Rome"), "images/1.jpg", (100, 60), (ADA, ROME)),
    Sample("p2", ("a", "Team"), "images/2.jpg", (100, 60), (TEAM,)),
    Sample("p3", ("no", "picture"), entities=(replace(ROME, span=(0, 1)),)),
    Sample("p4", ("nothing",), "images/4.jpg", (100, 60)),
]
SAID = [Prediction(sample.id, entities=sample.entities) for sample in GOLD]


def stats(folder: Path, kind: str) -> np.ndarray:
    gold = COCO(str(folder / "gold.json"))
    judge = COCOeval(gold, gold.loadRes(str(folder / "mine.json")), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge.stats


def test_coco_reads_what_is_written_and_finds_the_gold_perfect(tmp_path):
    assert exported("coco", tmp_path, GOLD, {"mine": SAID})[1].endswith("left out: p3")
    assert stats(tmp_path, "bbox")[0] == pytest.approx(1)
    gold = COCO(str(tmp_path / "gold.json"))
    assert [image["post"] for image in gold.loadImgs(gold.getImgIds())] == ["p1", "p2", "p4"]
    first = gold.loadAnns([1])[0]
    assert first["bbox"] == [10, 5, 40, 30]
    assert first["area"] == 1200
    assert (first["mention"], first["expression"]) == ("Ada", "a woman")
    assert gold.annToMask(first)[5:35, 10:50].all()
    assert gold.annToMask(first).sum() == 1200
    assert [gold.loadCats([a["category_id"]])[0]["name"] for a in gold.anns.values()] == ["PER", "ORG", "ORG"]


@pytest.mark.parametrize("side", ["gold", "said"])
@pytest.mark.parametrize(
    "region",
    [
        {"masks": (Mask((2**62, 4), ADA.masks[0].counts),), "boxes": ()},
        {"masks": (Mask((100, 60), ADA.masks[0].counts),)},
        {"masks": (Mask((60, 100), "`03`0"),)},
        {"masks": (Mask((60, 100), ADA.masks[0].counts[:-1]),), "boxes": ()},
        {"boxes": (Box(-1e308, 0, 1e308, 5),)},
        {"boxes": (Box(0, 0, float("nan"), 5),)},
    ],
)
def test_a_region_that_is_none_is_refused_with_its_post(tmp_path, side, region):
    broken = replace(ADA, **region)
    gold = [replace(GOLD[0], entities=(broken,) if side == "gold" else (ADA,))]
    said = [Prediction("p1", entities=(broken if side == "said" else ADA,))]
    for name in ("coco", "fiftyone", "label-studio", "csv"):
        with pytest.raises(UserError, match=r"post 'p1', .*entity 'Ada'"):
            exported(name, tmp_path / "out", gold, {"mine": said})
    if side == "gold":
        with pytest.raises(UserError, match="post 'p1'"):
            exported("coco", tmp_path / "out", gold, {})
    assert not (tmp_path / "out").exists()


def test_a_predicted_box_the_wrong_way_round_has_no_area(tmp_path):
    said = [Prediction("p1", entities=(replace(ADA, boxes=(Box(50, 35, 10, 5),), masks=()),))]
    exported("coco", tmp_path, GOLD, {"mine": said})
    (row,) = json.loads((tmp_path / "mine.json").read_text())
    assert (row["bbox"][2:], row["area"]) == ([0, 0], 0)


def test_a_box_that_is_off_lowers_cocos_precision(tmp_path):
    off = [replace(SAID[0], entities=(replace(ADA, boxes=(Box(10, 5, 50, 20),)),)), *SAID[1:]]
    exported("coco", tmp_path, GOLD, {"mine": off})
    assert stats(tmp_path, "bbox")[0] < 0.9


def test_scores_and_masks_without_boxes(tmp_path):
    entity = Entity("Ada", "PER", visible_score=0.25, masks=(rectangle(40, 30),))
    exported("coco", tmp_path, GOLD[:1], {"mine": [Prediction("p1", entities=(entity, replace(ADA, visible=False)))]})
    (result,) = json.loads((tmp_path / "mine.json").read_text())
    assert result["score"] == 0.25
    assert result["bbox"] == [10, 5, 40, 30]
    assert result["segmentation"]["size"] == [60, 100]


def test_fiftyone_folders(tmp_path):
    out = tmp_path / "out"
    scored = [Prediction("p1", entities=(replace(ADA, visible_score=0.5),))]
    assert exported("fiftyone", out, GOLD, {"mine": scored}, tmp_path / "data")[1].endswith("left out: p3")
    labels = json.loads((out / "gold" / "labels.json").read_text())
    assert labels["classes"] == ["LOC", "ORG", "PER"]
    assert [len(labels["labels"][post]) for post in ("p1", "p2", "p4")] == [1, 2, 0]
    assert labels["labels"]["p1"][0]["label"] == "PER"
    assert labels["labels"]["p1"][0]["bounding_box"] == pytest.approx([0.1, 5 / 60, 0.4, 0.5])
    assert labels["labels"]["p1"][0]["attributes"] == {"mention": "Ada", "expression": "a woman"}
    pictures = json.loads((out / "gold" / "data.json").read_text())
    assert (out / "gold" / pictures["p1"]).resolve() == (tmp_path / "data" / "images" / "1.jpg").resolve()
    mine = json.loads((out / "mine" / "labels.json").read_text())["labels"]
    assert mine["p1"][0]["confidence"] == 0.5
    assert mine["p2"] == []


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="'p9' is not in the gold"):
        exported("fiftyone", tmp_path, GOLD, {"mine": [Prediction("p9")]})
    with pytest.raises(UserError, match="'p1' comes twice"):
        exported("coco", tmp_path, GOLD, {"mine": [SAID[0], SAID[0]]})
    assert not list(tmp_path.iterdir())
    write_records(tmp_path / "test.jsonl", GOLD[:1])
    (tmp_path / "said").mkdir()
    for name in ("test.jsonl", "mine.jsonl"):
        write_records(tmp_path / "said" / name, SAID)
    with pytest.raises(UserError, match="cannot be called 'test'"):
        read_sides(tmp_path, "", [tmp_path / "said" / "test.jsonl"])
    with pytest.raises(UserError, match="the same name"):
        read_sides(tmp_path, "", [tmp_path / "said" / "mine.jsonl"] * 2)
    with pytest.raises(UserError, match="no split 'dev'"):
        read_sides(tmp_path, "dev", [])


@pytest.mark.parametrize("name", ["csv", "label-studio", "sharegpt", "coco"])
def test_japanese_is_written_without_blanks(tmp_path, name):
    tokens = ("神", "奈", "川", "沖", "浪", "裏", "を", "Tate", "で")
    entities = (Entity("神 奈 川 沖 浪 裏", "ARTWORK", (0, 6)), Entity("Tate", "MUSEUM", (7, 8)))
    exported(name, tmp_path, [Sample("1", tokens, "x.jpg", (8, 8), entities)], {})
    (text,) = [own.read_text() for own in tmp_path.iterdir() if own.name.startswith("gold.")]
    assert "神奈川沖浪裏を Tate で" in text
    if name == "csv":
        assert "神奈川沖浪裏,0,6,ARTWORK" in text
        assert "Tate,8,12,MUSEUM" in text
