"""What is not known of the picture stays open: a region that is left out makes no mention invisible."""

from __future__ import annotations

import pytest
from importing_files import imported, json_file, kinds, picture


@pytest.fixture
def pictures(tmp_path):
    return picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent


def texts(folder, *entities, text="Ada and Bo wear Nike or Puma"):
    """A post of the picture p1.jpg whose mentions are (start, end, type)."""
    post = {"id": "1", "text": text, "image": "p1.jpg", "label": entities}
    return json_file(folder / "texts.jsonl", post)


ADA, BO, NIKE, PUMA = (0, 3, "athlete"), (8, 10, "athlete"), (16, 20, "brand"), (24, 28, "brand")


def cvat(folder, *shapes, size=(80, 60)):
    path = folder / "regions.xml"
    width, height = size
    body = f'<image name="p1.jpg" width="{width}" height="{height}">{"".join(shapes)}</image>'
    path.write_text(f"<annotations>{body}</annotations>")
    return path


def box(label, name="", edges=(10, 5, 50, 35)):
    inner = f'<attribute name="name">{name}</attribute>' if name else ""
    sides = " ".join(f'{side}="{edge}"' for side, edge in zip(("xtl", "ytl", "xbr", "ybr"), edges, strict=True))
    return f'<box label="{label}" {sides}>{inner}</box>'


def visible(folder, regions, *entities):
    """Whether each mention is visible, and the kinds of findings."""
    pictures = folder / "pictures"
    (sample,), done = imported("doccano", texts(folder, *entities), folder / "out", images=[pictures], regions=regions)
    return [own.visible for own in sample.entities], kinds(done)


def test_regions_on_a_picture_of_another_size(tmp_path, pictures):
    regions = cvat(tmp_path, box("athlete"), size=(300, 60))
    assert visible(tmp_path, regions, ADA, NIKE) == ([None, False], ["size differs", "left undecided"])


def test_a_shape_that_no_dataset_has(tmp_path, pictures):
    line = '<polyline label="athlete" points="1,1;9,9"/>'
    assert visible(tmp_path, cvat(tmp_path, line), ADA, NIKE) == ([None, False], ["unknown shape", "left undecided"])
    seen = cvat(tmp_path, line, box("athlete"))
    assert visible(tmp_path, seen, ADA, NIKE) == ([True, False], ["unknown shape"])


def test_a_box_outside_and_a_box_without_area(tmp_path, pictures):
    for kind, edges in (("box outside", (90, 5, 95, 9)), ("box without area", (10, 5, 10, 9))):
        regions = cvat(tmp_path, box("athlete", edges=edges), box("brand"))
        assert visible(tmp_path, regions, ADA, NIKE) == ([None, True], [kind, "left undecided"])


def test_a_region_that_finds_no_mention_may_show_any_of_its_type(tmp_path, pictures):
    regions = cvat(tmp_path, box("brand"))
    found = visible(tmp_path, regions, ADA, NIKE, PUMA)
    assert found == ([False, None, None], ["region without mention", "left undecided", "left undecided"])


def test_a_name_that_is_misspelt_may_be_any(tmp_path, pictures):
    """By an attribute, and as the label where labels are names."""
    found = visible(tmp_path, cvat(tmp_path, box("thing", "Nikee"), box("athlete", "Bo")), ADA, BO, NIKE)
    assert found[0] == [None, True, None]
    found = visible(tmp_path, cvat(tmp_path, box("Nikee"), box("Bo")), ADA, BO, NIKE)
    assert found[0] == [None, True, None]


def test_a_thing_that_the_text_does_not_name_opens_nothing(tmp_path, pictures):
    found = visible(tmp_path, cvat(tmp_path, box("chair"), box("brand")), ADA, NIKE)
    assert found == ([False, True], ["region without mention"])


def test_a_region_of_a_mention_that_is_left_out_opens_no_other(tmp_path, pictures):
    posts = [{"text": "Ada won", "image": "p1.jpg", "entities": [
        {"text": "Ada", "type": "athlete"},
        {"text": "Eve", "type": "athlete", "boxes_xyxy": [[1, 2, 30, 40]]},
    ]}]  # fmt: skip
    path = json_file(tmp_path / "posts.json", posts)
    (sample,), done = imported("json", path, tmp_path / "out", images=[pictures])
    assert [own.visible for own in sample.entities] == [False]
    assert kinds(done) == ["mention not found", "region without mention"]


def test_a_picture_that_nobody_has_looked_at(tmp_path, pictures):
    """Where the regions' file lists pictures in which there is nothing, one that it does not list is no such."""
    posts = [{"text": "Ada won", "image": f"p{n}.jpg", "label": [[0, 3, "athlete"]]} for n in (1, 2, 3)]
    path = json_file(tmp_path / "texts.json", posts)
    for number in (2, 3):
        picture(pictures / f"p{number}.jpg", (80, 60))
    images = [{"id": 1, "file_name": "p1.jpg", "width": 80, "height": 60}]
    own = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content = {"images": images, "annotations": [own], "categories": [{"id": 1, "name": "athlete"}]}
    given = {"images": [pictures], "regions": json_file(tmp_path / "regions.json", content)}
    samples, done = imported("doccano", path, tmp_path / "out", **given)
    assert [own.entities[0].visible for own in samples] == [True, False, False]
    assert kinds(done) == []
    images.append({**images[0], "id": 2, "file_name": "p2.jpg"})
    json_file(given["regions"], content)
    samples, done = imported("doccano", path, tmp_path / "out", **given)
    assert [own.entities[0].visible for own in samples] == [True, False, None]
    assert kinds(done) == ["picture not annotated"]


def test_what_is_said_of_visibility_stays(tmp_path, pictures):
    path = tmp_path / "posts.csv"
    rows = ["text,image,mention,type,visible,boxes_xyxy", 'Ada won,p1.jpg,Ada,x,no,"[[90, 2, 93, 4]]"']
    path.write_text("\n".join([*rows, 'Bo won,p1.jpg,Bo,x,,"[[1, 2, 3, 4]]"', ""]))
    samples, done = imported("csv", path, tmp_path / "out", images=[pictures])
    assert [own.entities[0].visible for own in samples] == [False, True]
    assert "left undecided" not in kinds(done)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("labelme", {"label": "Ada", "points": [[1, 1], [5, 5]], "group_id": None, "shape_type": "circle"}),
        ("labelme", {"label": "Ada", "points": [[1, 1], [1, 1]], "group_id": None, "shape_type": "rectangle"}),
        ("coco", {"id": 1, "image_id": 1, "category_id": 1, "bbox": []}),
        ("fiftyone", {"_cls": "Polyline", "label": "athlete", "points": [[[0, 0], [0.5, 0.5]]]}),
    ],
)
def test_every_reader_of_regions_says_what_it_cannot_read(tmp_path, pictures, name, shape):
    if name == "labelme":
        (tmp_path / "labels").mkdir()
        regions = tmp_path / "labels"
        json_file(regions / "p1.json", {"shapes": [shape], "imagePath": "p1.jpg", "imageHeight": 60, "imageWidth": 80})
    elif name == "coco":
        images = [{"id": 1, "file_name": "p1.jpg", "width": 80, "height": 60}]
        content = {"images": images, "annotations": [shape], "categories": [{"id": 1, "name": "athlete"}]}
        regions = json_file(tmp_path / "regions.json", content)
    else:
        sample = {"filepath": "p1.jpg", "tags": [], "lines": {"_cls": "Polylines", "polylines": [shape]}}
        regions = json_file(tmp_path / "samples.json", {"samples": [sample]})
    found, said = visible(tmp_path, regions, ADA, NIKE)
    assert found == [None, False]
    assert said[-1] == "left undecided"
    assert len(said) == 2


def test_a_key_point_of_label_studio(tmp_path, pictures):
    sizes = {"original_width": 80, "original_height": 60}
    span = {"id": "a", "type": "labels", "value": {"start": 0, "end": 3, "text": "Ada", "labels": ["athlete"]}}
    point = {"id": "b", "type": "keypointlabels", "value": {"x": 9, "y": 9, "keypointlabels": ["athlete"]}, **sizes}
    tasks = [{"data": {"text": "Ada won", "image": "p1.jpg"}, "annotations": [{"result": [span, point]}]}]
    path = json_file(tmp_path / "tasks.json", tasks)
    (sample,), done = imported("label-studio", path, tmp_path / "out", images=[pictures])
    assert sample.entities[0].visible is None
    assert kinds(done) == ["unknown shape", "left undecided"]
