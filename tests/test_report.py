import base64
import io
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from eval.draw import PictureError, small_picture
from eval.report import write_report
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

HOSTILE = "<script>alert('1')</script>"
BOX = Box(10, 20, 110, 90)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(6):
        Image.new("RGB", (300 + index, 200), (40 * index, 90, 120)).save(tmp_path / f"{index}.jpg")
    return tmp_path


def post(index: int) -> Sample:
    entity = Entity("Ada Byron", "PER", (1, 3), "a woman in blue", True, boxes=(BOX,))
    return Sample(str(index), ("RT", "Ada", "Byron", "!"), f"{index}.jpg", (300 + index, 200), (entity,), subset="seen")


def write(folder: Path, gold, predictions, **options) -> tuple[str, list[str]]:
    out = folder / "out" / "page.html"
    problems = write_report(out, gold, predictions, folder, **options)
    return out.read_text(encoding="utf-8"), problems


def shown(page: str) -> list[str]:
    return re.findall(r'aria-label="picture of post (\w+)"', page)


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_a_hostile_post_stays_text(pictures):
    entity = Entity(HOSTILE, HOSTILE, (0, 1), HOSTILE, True, boxes=(BOX,))
    gold = [Sample(HOSTILE, (HOSTILE, '"><img', "src=x"), "0.jpg", (300, 200), (entity,), subset=HOSTILE)]
    said = Prediction(HOSTILE, entities=(entity,), raw=f"</pre>{HOSTILE}", errors=(HOSTILE,))
    page, _ = write(pictures, gold, {HOSTILE: [said]}, title=HOSTILE)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_nothing_else(pictures):
    page, problems = write(pictures, [post(0)], {"tiny": [Prediction("0", entities=post(0).entities)]})
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>\s]+)", page)
    assert links
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "http" not in page
    assert problems == []
    assert not list((pictures / "out").glob("*.partial"))


def test_scores_of_every_system_stand_on_the_page(pictures):
    gold = [post(0), post(1)]
    right = [Prediction(sample.id, entities=sample.entities) for sample in gold]
    page, _ = write(pictures, gold, {"before": right[:1], "after": right})
    text = words(page)
    assert "66.67 100.00 / 50.00" in text  # before: one of two entities, F1 2/3
    assert "100.00 100.00 / 100.00" in text
    assert "1 posts have no prediction" in text
    assert "seen" in text


def test_boxes_lie_in_the_frame_of_the_original_picture(pictures):
    Image.new("RGB", (1600, 1200)).save(pictures / "large.png")
    gold = [replace(post(0), image="large.png", size=(1600, 1200))]
    page, _ = write(pictures, gold, {"tiny": [Prediction("0", entities=gold[0].entities)]})
    assert 'viewBox="0 0 1600 1200"' in page
    assert page.count('<rect x="10" y="20" width="100" height="70"/>') == 2
    uri = re.search(r"base64,([^\"]+)", page).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (560, 420)


@pytest.mark.parametrize(
    ("entity", "verdict"),
    [
        (Entity("Ada Byron", "PER", (1, 3), boxes=(BOX,)), "right, IoU 1.00"),
        (Entity("Ada Byron", "PER", (1, 3), boxes=(Box(10, 20, 60, 90),)), "box off, IoU 0.50"),
        (Entity("Ada Byron", "PER", (1, 3)), "in the picture, but not boxed"),
        (Entity("Ada Byron", "ORG", (1, 3), boxes=(BOX,)), "type, gold is PER"),
        (Entity("RT", "PER", (0, 1)), "not in the gold"),
    ],
)
def test_verdicts(pictures, entity, verdict):
    page, _ = write(pictures, [post(0)], {"tiny": [Prediction("0", entities=(entity,))]})
    text = words(page)
    assert verdict in text
    assert ("missed" in text) == (entity.text == "RT")


def test_box_of_an_invisible_entity_is_a_verdict_of_its_own(pictures):
    gold = [replace(post(0), entities=(Entity("Ada", "PER", (1, 2), visible=False),))]
    page, _ = write(pictures, gold, {"tiny": [Prediction("0", entities=(Entity("Ada", "PER", (1, 2), boxes=(BOX,)),))]})
    assert "not in the picture, but boxed" in words(page)


def test_a_mention_said_twice_and_one_missed_twice(pictures):
    entity = post(0).entities[0]
    gold = [replace(post(0), entities=(entity,)), replace(post(1), entities=(entity, entity))]
    answers = [Prediction("0", entities=(entity, entity)), Prediction("1", entities=(entity,))]
    text = words(write(pictures, gold, {"tiny": answers})[0])
    assert text.count("not in the gold") == 1
    assert text.count("missed") == 1


def test_right_and_wrong_posts_are_mixed_and_limited(pictures):
    gold = [post(index) for index in range(6)]
    answers = [Prediction(sample.id, entities=sample.entities if sample.id in "0134" else ()) for sample in gold]
    page, _ = write(pictures, gold, {"tiny": answers}, limit=4)
    assert shown(page) == ["0", "2", "3", "5"]
    assert shown(write(pictures, gold, {"tiny": answers}, limit=5)[0]) == ["0", "1", "2", "3", "5"]
    assert shown(write(pictures, gold, {"tiny": answers}, limit=99)[0]) == list("012345")
    assert write(pictures, gold, {"tiny": answers}, limit=4)[0] == page


def test_gold_mentions_are_marked_in_the_text(pictures):
    page, _ = write(pictures, [post(0)], {"tiny": []})
    assert '<mark data-type="PER">Ada Byron</mark>' in page


def test_pictures_that_cannot_be_shown_are_listed(pictures):
    (pictures / "1.jpg").write_bytes((pictures / "1.jpg").read_bytes()[:300])
    gold = [post(0), post(1), replace(post(2), image="gone.jpg"), replace(post(3), size=(77, 33))]
    page, problems = write(pictures, gold, {"tiny": []})
    assert [problem.split(":")[0] for problem in problems] == ["post 1", "post 2", "post 3"]
    assert "gone.jpg" in problems[1]
    assert "303 x 200" in problems[2]
    assert "77 x 33" in problems[2]
    assert all(problem in words(page) for problem in problems)
    assert shown(page) == ["0", "3"]


def test_an_answer_for_another_split_is_refused_before_anything_is_written(pictures):
    with pytest.raises(UserError, match="'9'"):
        write(pictures, [post(0)], {"tiny": [Prediction("9")]})
    assert not (pictures / "out").exists()


def test_pictures_are_upright_and_of_every_mode(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (80, 40)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("CMYK", (80, 40)).save(tmp_path / "print.jpg")
    Image.new("P", (80, 40)).save(tmp_path / "palette.png", transparency=0)
    assert (small_picture(tmp_path / "turned.jpg").width, small_picture(tmp_path / "turned.jpg").height) == (40, 80)
    assert small_picture(tmp_path / "print.jpg").width == small_picture(tmp_path / "palette.png").width == 80


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    Image.new("1", (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match=r"bomb\.png"):
        small_picture(tmp_path / "bomb.png")
