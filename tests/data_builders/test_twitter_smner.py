"""Twitter-SMNER: labelme's files, and their masks on the posts of Twitter-GMNER."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from data_builders.audit import audit
from data_builders.formats.labelme import read_regions
from data_builders.twitter_gmner import build_twitter_gmner, read_raw
from data_builders.twitter_smner import build_twitter_smner
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.types import Box, Entity, Sample, UserError

SIZE = (20, 10)


def polygon(label: str, *corners: tuple[float, float], group: int | None = None) -> dict:
    return {"label": label, "points": corners, "group_id": group, "shape_type": "polygon", "flags": {}}


def square(label: str, left: int, top: int, right: int, bottom: int, group: int | None = None) -> dict:
    return polygon(label, (left, top), (right, top), (right, bottom), (left, bottom), group=group)


def bitmap(label: str, left: float, top: float, pixels: np.ndarray) -> dict:
    """As labelme writes its mask shapes: a PNG of zeros and ones, the last pixel's corner as the second point."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    corner = [left + pixels.shape[1] - 1, top + pixels.shape[0] - 1]
    code = base64.b64encode(file.getvalue()).decode()
    return {"label": label, "points": [[left, top], corner], "group_id": None, "shape_type": "mask", "mask": code}


def labelme(path: Path, *shapes: dict, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": "aGk="}
    path.write_text(json.dumps({**content, "imageWidth": size[0], "imageHeight": size[1]}))
    return path


def filled(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    pixels = np.zeros((size[1], size[0]), bool)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = True
    return pixels


def test_polygons_rectangles_and_bitmaps_become_pixels(tmp_path):
    ring = np.array([[1, 1, 1], [1, 0, 1]])
    corners = {"label": "d", "points": [[9, 8], [3, 2]], "shape_type": "rectangle"}
    path = labelme(tmp_path / "7.json", square("a", 2, 1, 6, 4), bitmap("b", 3.0, 5.0, ring), corners)
    content = read_regions(path)
    assert content.size == SIZE
    assert content.faults == ()
    assert [region.label for region in content.regions] == ["a", "b", "d"]
    first, second, third = (region.pixels for region in content.regions)
    assert (first == filled((2, 1, 6, 4))).all()
    hole = filled((3, 5, 6, 7))
    hole[6, 4] = False
    assert (second == hole).all()
    assert (third == filled((3, 2, 9, 8))).all()


def test_shapes_of_a_group_are_one_object(tmp_path):
    shapes = [
        square("a", 0, 0, 2, 2, group=1),
        square("a", 5, 5, 7, 7),
        square("a", 8, 0, 9, 3, group=1),
        square("b", 10, 0, 12, 2, group=1),
        square("a", 15, 5, 17, 7),
    ]
    regions = read_regions(labelme(tmp_path / "7.json", *shapes)).regions
    assert [region.label for region in regions] == ["a", "a", "b", "a"]
    assert (regions[0].pixels == filled((0, 0, 2, 2), (8, 0, 9, 3))).all()
    assert (regions[3].pixels == filled((15, 5, 17, 7))).all()


def test_what_is_cut_or_left_out_is_said(tmp_path):
    shapes = [
        square("out", -5, -5, 4, 4),
        polygon("line", (1, 1), (5, 5)),
        {"label": "ring", "points": [[1, 1], [5, 5]], "shape_type": "circle"},
        bitmap("empty", 0, 0, np.zeros((3, 3))),
        bitmap("edge", 18, 8, np.ones((4, 4))),
        bitmap("corner", -2, -1, np.ones((4, 4))),
        bitmap("beyond", 30, 30, np.ones((4, 4))),
    ]
    content = read_regions(labelme(tmp_path / "7.json", *shapes))
    assert {region.label: region.pixels.sum() for region in content.regions} == {"out": 16, "edge": 4, "corner": 6}
    assert [(fault.kind, fault.message.split("'")[1]) for fault in content.faults] == [
        ("shape outside", "out"),
        ("shape without area", "line"),
        ("unknown shape", "ring"),
        ("shape without area", "empty"),
        ("shape outside", "edge"),
        ("shape outside", "corner"),
        ("shape outside", "beyond"),
        ("shape without area", "beyond"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a file of labelme"),
        ('{"shapes": []}', "imageWidth None"),
        ('{"shapes": [], "imageWidth": 100000, "imageHeight": 100000}', "imageWidth 100000"),
        ('{"shapes": [{}], "imageWidth": 9, "imageHeight": 9}', r"shapes\[0\]: has no label"),
        ('{"shapes": [{"label": "a", "points": [1]}], "imageWidth": 9, "imageHeight": 9}', r"shapes\[0\]: its points"),
        (
            '{"shapes": [{"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "mask", "mask": "%%"}],'
            '"imageWidth": 9, "imageHeight": 9}',
            r"shapes\[0\]: its mask is not a PNG",
        ),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "7.json").write_text(content)
    with pytest.raises(UserError, match=rf"7\.json: {message}"):
        read_regions(tmp_path / "7.json")


ADA = Entity("Ada Lovelace", "PER", (0, 2), visible=True, boxes=(Box(0, 0, 4, 4), Box(10, 0, 14, 4)))
ROME = Entity("Rome", "LOC", (2, 3), visible=False)
BOB = Entity("Bob", "PER", (3, 4), visible=True, boxes=(Box(5, 5, 9, 9),))
POST = Sample("7", ("Ada", "Lovelace", "Rome", "Bob"), "", SIZE, (ADA, ROME, BOB), ("She counts.",))


def dataset(folder: Path, *train: Sample) -> Path:
    for split, samples in (("train", train), ("dev", ()), ("test", ())):
        write_records(folder / f"{split}.jsonl", samples)
    return folder


def area(mask) -> int:
    return int(coco.area({"size": mask.size, "counts": mask.counts}))


def kinds(report) -> list[str]:
    return sorted(finding.kind for finding in report.findings)


def build(tmp_path: Path, *shapes: dict, post: Sample = POST, size: tuple[int, int] = SIZE):
    labelme(tmp_path / "masks" / "train" / "7.json", *shapes, size=size)
    gmner = dataset(tmp_path / "gmner", post)
    report = build_twitter_smner(gmner, tmp_path / "masks", tmp_path / "deep" / "out")
    (sample,) = read_split(tmp_path / "deep" / "out", "train")
    return sample, report


def test_masks_come_to_the_mentions_of_their_label(tmp_path):
    shapes = [square("Ada  Lovelace", 0, 0, 4, 4), square("Ada Lovelace", 10, 0, 14, 3), square("Bob", 5, 5, 9, 9)]
    sample, report = build(tmp_path, *shapes)
    ada, rome, bob = sample.entities
    assert [area(mask) for mask in ada.masks] == [16, 12]
    assert [area(mask) for mask in bob.masks] == [16]
    assert ada.masks[0].size == (10, 20)
    pixels = coco.decode({"size": bob.masks[0].size, "counts": bob.masks[0].counts}).astype(bool)
    assert (pixels == filled((5, 5, 9, 9))).all()
    assert rome == ROME
    assert (ada.boxes, sample.knowledge, sample.size) == (ADA.boxes, POST.knowledge, SIZE)
    assert report.findings == []
    assert report.counts["train"].masks == 3
    assert read_info(tmp_path / "deep" / "out").format == "twitter-smner"
    # dev and test hold nothing here.
    assert [finding.kind for finding in audit(tmp_path / "deep" / "out").errors] == ["empty split"] * 2


@pytest.mark.parametrize("label", ["Bob(PER)", "Bob (PER)", "Bob_PER", "Bob-PER", "Bob: PER", "PER"])
def test_labels_with_a_type_or_of_a_type_alone(tmp_path, label):
    sample, report = build(tmp_path, square(label, 5, 5, 9, 8))
    assert [len(entity.masks) for entity in sample.entities] == [0, 0, 1]
    assert kinds(report) == ["visible without mask"]


def test_a_type_alone_goes_to_the_box_that_fits(tmp_path):
    sample, report = build(tmp_path, square("PER", 9, 0, 14, 4), square("LOC", 5, 5, 9, 9))
    assert [len(entity.masks) for entity in sample.entities] == [1, 0, 0]
    assert kinds(report) == ["unmatched label", "visible without mask"]


def test_labels_that_fit_nothing_are_listed(tmp_path):
    sample, report = build(
        tmp_path, square("Eve", 0, 0, 2, 2), square("Rome", 0, 0, 2, 2), square("Bob(LOC)", 0, 0, 2, 2)
    )
    assert all(not entity.masks for entity in sample.entities)
    expected = ["mask without box", "unmatched label", "unmatched label", *["visible without mask"] * 2]
    assert kinds(report) == expected
    assert "'Eve' is no mention" in (tmp_path / "deep" / "out" / "findings.txt").read_text()


def test_masks_of_another_size_are_scaled(tmp_path):
    sample, report = build(tmp_path, square("Bob", 10, 10, 18, 18), square("Ada Lovelace", 0, 0, 8, 8), size=(40, 20))
    assert [area(mask) for mask in sample.entities[2].masks] == [16]
    assert sample.entities[2].masks[0].size == (10, 20)
    assert kinds(report) == ["size differs"]


def test_masks_on_the_picture_as_stored_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (10, 20)).save(tmp_path / "pictures" / "7.jpg", exif=exif)
    post = Sample(
        "7",
        ("Bob",),
        "../pictures/7.jpg",
        SIZE,
        (Entity("Bob", "PER", (0, 1), visible=True, boxes=(Box(0, 0, 9, 9),)),),
    )
    # Orientation 6: the stored upper left corner is shown at the upper right.
    sample, report = build(tmp_path, square("Bob", 0, 0, 3, 2), post=post, size=(10, 20))
    (mask,) = sample.entities[0].masks
    pixels = coco.decode({"size": mask.size, "counts": mask.counts}).astype(bool)
    assert (pixels == filled((18, 0, 20, 3))).all()
    assert sample.image == "../../pictures/7.jpg"
    assert kinds(report) == ["size differs"]
    # dev and test hold nothing here.
    assert [finding.kind for finding in audit(tmp_path / "deep" / "out").errors] == ["empty split"] * 2


def test_masks_that_cannot_be_placed_are_listed(tmp_path):
    sample, report = build(tmp_path, square("Bob", 0, 0, 3, 2), size=(10, 20))
    assert all(not entity.masks for entity in sample.entities)
    assert kinds(report) == ["size differs", "visible without mask", "visible without mask"]
    assert "its 1 masks are lost" in str(report.findings[0])


def test_a_post_of_unknown_size_takes_that_of_the_file(tmp_path):
    post = Sample("7", POST.tokens, entities=POST.entities)
    sample, _ = build(tmp_path, square("Bob", 0, 0, 3, 2), post=post)
    assert sample.size == SIZE


def test_files_that_are_double_of_no_post_or_damaged(tmp_path):
    gmner = dataset(tmp_path / "gmner", POST, Sample("8", ("hi",)))
    masks = tmp_path / "masks"
    with pytest.raises(UserError, match=r"holds no <id>\.json of a post"):
        build_twitter_smner(gmner, masks, tmp_path / "out")
    for path in ("a/7.json", "b/7.json", "9.json"):
        labelme(masks / path, square("Bob", 0, 0, 3, 2))
    report = build_twitter_smner(gmner, masks, tmp_path / "out")
    assert kinds(report) == ["annotation twice", "annotation without post", "visible without mask"]
    (masks / "8.json").write_text("{")
    with pytest.raises(UserError, match=r"1 x unreadable file(.|\n)*8\.json: not JSON"):
        build_twitter_smner(gmner, masks, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*.jsonl"))
    with pytest.raises(UserError, match="name another folder"):
        build_twitter_smner(gmner, masks, gmner)


def test_posts_that_share_a_picture_share_its_masks(tmp_path):
    gmner = dataset(
        tmp_path / "gmner",
        POST,
        Sample("7#2", ("Bob",), "", SIZE, (Entity("Bob", "PER", (0, 1), visible=True, boxes=BOB.boxes),)),
    )
    labelme(tmp_path / "masks" / "7.json", square("Bob", 5, 5, 9, 9))
    build_twitter_smner(gmner, tmp_path / "masks", tmp_path / "out")
    first, second = read_split(tmp_path / "out", "train")
    assert first.entities[2].masks == second.entities[0].masks != ()


@pytest.mark.slow
@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
def test_each_published_box_drawn_as_a_mask_finds_its_mention(tmp_path):
    data = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner"
    gmner = build_twitter_gmner(data, [], tmp_path / "gmner", without_images=True)
    for identity, content in read_raw(data, []).annotations.items():
        edges = [(name, box.xmin, box.ymin, box.xmax, box.ymax) for name, box in content.objects]
        labelme(tmp_path / "masks" / f"{identity}.json", *(square(*edge) for edge in edges), size=content.size)
    report = build_twitter_smner(tmp_path / "gmner", tmp_path / "masks", tmp_path / "out")
    assert report.findings == []
    assert {split: counts.masks for split, counts in report.counts.items()} == {
        split: counts.boxes for split, counts in gmner.counts.items()
    }
    for sample in read_split(tmp_path / "out", "dev"):
        for entity in sample.entities:
            areas = [(box.xmax - box.xmin) * (box.ymax - box.ymin) for box in entity.boxes]
            assert [area(mask) for mask in entity.masks] == areas
