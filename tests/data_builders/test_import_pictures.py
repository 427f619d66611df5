"""Pictures that are found, turned, scaled or missing, and what becomes of the boxes on them."""

import numpy as np
import pytest
from importing_files import imported, json_file, kinds, picture

from data_builders.importing.regions.frames import FrameError, placing
from data_builders.importing.regions.pictures import PictureFiles
from rivegs_mllm.data.images import Header
from rivegs_mllm.data.masks import decode
from rivegs_mllm.types import Box, UserError

BOX = [10, 5, 20, 30]


def coco(folder, size, box=BOX, name="p1.jpg", **annotation):
    """A file of one picture of ``size`` as the file says, with one box, xywh."""
    own = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "mention": "Ada", **annotation}
    image = {"id": 1, "file_name": name, "width": size[0], "height": size[1], "text": "Ada won"}
    content = {"images": [image], "annotations": [own], "categories": [{"id": 1, "name": "athlete"}]}
    return json_file(folder / "a.json", content)


def box_of(samples):
    (box,) = samples[0].entities[0].boxes
    return box


@pytest.fixture
def turned(tmp_path):
    """Stored 80 x 60 and to be turned by a quarter clockwise, so that it is seen as 60 x 80."""
    return picture(tmp_path / "pictures" / "p1.jpg", (80, 60), 6).parent


def test_the_size_before_rotation_is_set_right_and_boxes_stay(tmp_path, turned):
    samples, done = imported("coco", coco(tmp_path, (80, 60), [10, 40, 20, 38]), tmp_path / "out", images=[turned])
    assert samples[0].size == (60, 80)
    assert box_of(samples) == Box(10, 40, 30, 78)
    assert kinds(done) == ["rotated picture", "size set right"]


def test_boxes_of_the_stored_picture_are_asked_for_and_turned(tmp_path, turned):
    path = coco(tmp_path, (80, 60), [60, 5, 19, 30])
    with pytest.raises(UserError, match=r"0 fit the picture upright and 1 the picture stored.*--frame stored"):
        imported("coco", path, tmp_path / "out", images=[turned])
    samples, _ = imported("coco", path, tmp_path / "out", images=[turned], frame="stored")
    assert box_of(samples) == Box(25, 60, 55, 79)
    assert samples[0].size == (60, 80)


def test_masks_are_turned_with_their_boxes(tmp_path, turned):
    """Of a stored picture of 80 x 60 the upper left 20 x 10; upright that is the upper right 10 x 20."""
    square = [0, 0, 20, 0, 20, 10, 0, 10]
    path = coco(tmp_path, (80, 60), [0, 0, 20, 10], segmentation=[square])
    samples, _ = imported("coco", path, tmp_path / "out", images=[turned], frame="stored")
    (mask,) = samples[0].entities[0].masks
    pixels = decode(mask)
    assert pixels.shape == (80, 60)
    assert pixels[:20, 50:].all()
    assert pixels.sum() == 200
    counts = np.zeros((80, 60), bool)
    counts[:10, :20] = True
    runs = {"size": [60, 80], "counts": [n for _ in range(20) for n in (10, 50)]}
    runs["counts"] = [0, *runs["counts"][:-1], 50 + 60 * 60]
    path = coco(tmp_path, (80, 60), [0, 0, 20, 10], segmentation=runs)
    again, _ = imported("coco", path, tmp_path / "out", images=[turned], frame="stored")
    assert (decode(again[0].entities[0].masks[0]) == pixels).all()


def test_boxes_of_a_smaller_copy_are_scaled(tmp_path):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (160, 120)).parent
    samples, done = imported("coco", coco(tmp_path, (80, 60)), tmp_path / "out", images=[pictures])
    assert box_of(samples) == Box(20, 10, 60, 70)
    assert kinds(done) == ["size set right"]


def test_a_picture_of_another_shape_takes_no_boxes(tmp_path):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (100, 30)).parent
    samples, done = imported("coco", coco(tmp_path, (80, 60)), tmp_path / "out", images=[pictures])
    assert samples[0].entities[0].boxes == ()
    assert kinds(done) == ["size differs", "left undecided"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_every_orientation(orientation, frame):
    """A box around the whole picture is that in every frame, and a size says one of two things at most."""
    size = (60, 80) if orientation >= 5 else (80, 60)
    way = placing(None, Header(size, orientation), frame)
    from data_builders.importing.regions.box_formats import PIXELS

    whole = (0, 0, *way.annotated)
    assert way.box(whole, PIXELS) == Box(0, 0, *size)


def test_a_shape_that_fits_neither_frame():
    with pytest.raises(FrameError):
        placing((80, 61), Header((60, 300), 6), "upright")
    with pytest.raises(FrameError):
        placing((10, 300), Header((60, 80), 6), "stored")
    assert placing((79, 59), Header((80, 60), 1), "upright").size == (80, 60)


@pytest.mark.parametrize(
    ("box", "kind"),
    [([70, 5, 20, 30], "box cut"), ([90, 5, 20, 30], "box outside"), ([10, 5, 0, 30], "box without area")],
)
def test_boxes_that_do_not_fit_are_listed(tmp_path, box, kind):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    samples, done = imported("coco", coco(tmp_path, (80, 60), box), tmp_path / "out", images=[pictures])
    assert [own for own in kinds(done) if own != "left undecided"] == [kind]
    assert samples[0].entities[0].boxes == ((Box(70, 5, 80, 35),) if kind == "box cut" else ())


def test_pictures_are_copied_under_names_of_their_content(tmp_path):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    samples, _ = imported("coco", coco(tmp_path, (80, 60)), tmp_path / "out", images=[pictures], copy_images=True)
    assert samples[0].image.startswith("images/")
    assert samples[0].id == "p1"
    assert (tmp_path / "out" / samples[0].image).read_bytes() == (pictures / "p1.jpg").read_bytes()


def test_a_region_goes_before_what_is_said_of_visibility_and_that_is_told(tmp_path):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    path = tmp_path / "posts.csv"
    path.write_text('text,image,mention,type,visible,boxes_xyxy\nAda won,p1.jpg,Ada,x,no,"[[1, 2, 3, 4]]"\n')
    samples, done = imported("csv", path, tmp_path / "out", images=[pictures])
    assert samples[0].entities[0].visible
    assert kinds(done) == ["visible after all"]


def test_normalised_boxes_in_coco_are_told(tmp_path):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (800, 600)).parent
    path = coco(tmp_path, (800, 600), [0.5, 0.5, 0.4, 0.4])
    with pytest.raises(UserError, match=r"as xywh-1 .*say which by --boxes"):
        imported("coco", path, tmp_path / "out", images=[pictures])
    samples, _ = imported("coco", path, tmp_path / "out", images=[pictures], boxes="xywh-1")
    assert box_of(samples) == Box(400, 300, 720, 540)


def test_missing_and_damaged_pictures_are_errors_unless_allowed(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = coco(tmp_path, (80, 60))
    with pytest.raises(UserError, match=r"nothing imported: 1 x missing picture"):
        imported("coco", path, tmp_path / "out", images=[tmp_path / "pictures"])
    assert not (tmp_path / "out" / "train.jsonl").exists()
    (tmp_path / "pictures" / "p1.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 x unreadable picture"):
        imported("coco", path, tmp_path / "out", images=[tmp_path / "pictures"])
    samples, done = imported("coco", path, tmp_path / "out", images=[tmp_path / "pictures"], allow_missing=True)
    assert (samples[0].image, box_of(samples)) == ("", Box(10, 5, 30, 35))
    assert kinds(done) == ["unreadable picture"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/p1.jpg", "a/p1.jpg"),
        ("b/p1.jpg", "b/p1.jpg"),
        ("/home/me/set/b/p1.jpg", "b/p1.jpg"),
        ("C:\\set\\b\\p1.jpg", "b/p1.jpg"),
        ("https://host/up/b/p1.jpg?x=1", "b/p1.jpg"),
        ("/data/local-files/?d=set%2Fb%2Fp1.jpg", "b/p1.jpg"),
        ("/data/upload/1/01234567-p2.png", "a/p2.png"),
        ("p2", "a/p2.png"),
        ("/data/upload/1/01234567-Ada_Lovelace_1.jpg", "a/Ada Lovelace (1).jpg"),
        ("../secret.jpg", None),
        ("../../etc/passwd", None),
        ("", None),
        ("/", None),
        ("..", None),
        ("nul\0", None),
        ("x" * 10000, None),
    ],
)
def test_names_of_pictures(tmp_path, name, found):
    for own in ("a/p1.jpg", "b/p1.jpg", "a/p2.png", "a/Ada Lovelace (1).jpg"):
        picture(tmp_path / "root" / own)
    picture(tmp_path / "secret.jpg")
    (tmp_path / "root" / "a" / "notes.txt").write_text("x")
    path = PictureFiles([tmp_path / "root"]).find(name)
    assert path == (tmp_path / "root" / found if found else None)
