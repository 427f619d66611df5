"""The page of a dataset: what is drawn, what is shown of it, and what is not."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from data_builders.findings import count_split, figures
from eval.report.dataset_page import ShownPost, draw_posts, write_dataset_page
from rivegs_mllm.types import Box, Entity, Mask, Sample, UserError

HOSTILE = "<script>alert('1')</script>"


def post(name: str, kind: str = "PER", visible: bool | None = False, **fields) -> Sample:
    return Sample(name, ("Ada", "wins"), entities=(Entity("Ada", kind, (0, 1), visible=visible),), **fields)


@pytest.fixture
def shown() -> Sample:
    pixels = np.zeros((200, 300), np.uint8, order="F")
    pixels[30:60, 20:80] = 1
    code = coco.encode(pixels)
    mask = Mask(tuple(code["size"]), code["counts"].decode())
    entity = Entity("Ada", "PER", (0, 1), "a woman in blue", True, boxes=(Box(20, 30, 80, 60),), masks=(mask,))
    return Sample("shown", ("Ada", "wins"), "a.jpg", (300, 200), (entity,), ("Ada programs.",), "seen")


def page_of(folder: Path, *posts: Sample, **options) -> tuple[str, list[str]]:
    splits = {"train": list(posts)}
    rows = figures({split: count_split(own) for split, own in splits.items()})
    problems = write_dataset_page(folder / "page.html", folder, rows, splits, **options)
    return (folder / "page.html").read_text(encoding="utf-8"), problems


def test_each_kind_is_drawn_however_rare():
    many = [post(str(place)) for place in range(500)]
    rare = [post("in", "ORG", True), post("out", "ORG"), post("unsaid", "ORG", None), Sample("none", ("Hi",))]
    splits = {"train": many, "test": rare}
    drawn = draw_posts(splits, 10, 0)
    assert {sample.id for split, sample in drawn if split == "test"} == {"in", "out", "unsaid", "none"}
    assert len(drawn) == 10
    assert draw_posts(splits, 10, 0) == drawn
    assert draw_posts(splits, 10, 1) != drawn
    assert len(draw_posts(splits, 1000, 0)) == 504


def test_a_post_with_its_picture_boxes_and_masks(tmp_path, shown):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.jpg")
    page, problems = page_of(tmp_path, shown)
    assert problems == []
    assert page.count("data:image/jpeg") == 1
    assert 'x="20" y="30" width="60" height="30"' in page
    assert re.search(r'<path d="M\d+ \d+L', page)
    assert "a woman in blue" in page
    assert "Ada programs." in page
    assert "in the picture" in page
    assert re.search(r"<th>posts</th><td [^>]*>1</td>", page)


def test_whatever_a_post_says_stays_text(tmp_path):
    entity = Entity(HOSTILE, HOSTILE, (0, 1), HOSTILE, False)
    page, _ = page_of(tmp_path, Sample(HOSTILE, (HOSTILE, "x"), "", None, (entity,), (HOSTILE,), HOSTILE))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert page.count("&lt;script&gt;") >= 7


def test_no_picture_of_another_folder_is_shown(tmp_path, shown):
    data, other = tmp_path / "data", tmp_path / "other"
    data.mkdir()
    other.mkdir()
    Image.new("RGB", (300, 200)).save(other / "a.jpg")
    outside = replace(shown, image="../other/a.jpg")
    page, problems = page_of(data, outside)
    assert "data:image" not in page
    assert "outside the dataset's folder" in problems[0]
    page, problems = page_of(data, outside, image_root=other)
    assert "data:image" in page
    assert problems == []


def test_pictures_that_cannot_be_shown_are_one_line_a_fault(tmp_path):
    posts = [post(str(place), image=f"{place}.jpg", size=(9, 9)) for place in range(3)]
    page, problems = page_of(tmp_path, *posts)
    assert len(problems) == 1
    assert problems[0].startswith("3 posts (0, 1, 2)")
    assert problems[0].split(";")[0] in page.replace("&#39;", "'")


@pytest.mark.parametrize(("posts", "count", "says"), [([], 24, "no post to show"), ([post("1")], 0, "--count 0 posts")])
def test_nothing_to_show_is_refused(tmp_path, posts, count, says):
    with pytest.raises(UserError, match=says):
        page_of(tmp_path, *posts, count=count)
    assert not (tmp_path / "page.html").exists()


def test_an_entity_is_marked_as_one_and_written_as_people_write():
    tokens = ("Saw", "神", "奈", "川", "沖", "、", "東", "京", "!")
    entities = (Entity("神 奈 川 沖", "ART", (1, 5)), Entity("東 京", "LOC", (6, 8)), Entity("京", "LOC", (7, 8)))
    words = ShownPost(Sample("1", tokens, entities=entities), "train", None, "").words
    assert [(own.text, own.type, own.blank) for own in words] == [
        ("Saw", "", False),
        ("神奈川沖", "ART", True),
        ("、", "", False),
        ("東京", "LOC", False),
        ("!", "", True),
    ]
