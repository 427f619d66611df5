import base64
import io
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from eval.analysis.errors import OUTCOMES
from eval.analysis.post_costs import post_costs
from eval.analysis.summary import explain
from eval.protocols import GMNER
from eval.report.page import Origin, system_names, write_report
from eval.report.plots import calibration_curve, iou_curve, waterfall
from eval.report.posts import outcomes_by_task, with_picture
from eval.report.thumbnails import outline, small_picture
from eval.scores import evaluate
from rivegs_mllm.data.images import PictureError
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

HOSTILE = "</script><script>alert('1')</script>"
BOX = Box(10, 20, 110, 90)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(8):
        Image.new("RGB", (300 + index, 200), (30 * index, 90, 120)).save(tmp_path / f"{index}.jpg")
    return tmp_path


def post(index: int, subset: str = "seen") -> Sample:
    entity = Entity("Ada Byron", "PER", (1, 3), "a woman in blue", True, boxes=(BOX,))
    return Sample(str(index), ("RT", "Ada", "Byron", "!"), f"{index}.jpg", (300 + index, 200), (entity,), subset=subset)


def right(sample: Sample) -> Prediction:
    return Prediction(sample.id, entities=sample.entities)


def write(folder: Path, gold, predictions, **options) -> tuple[str, list[str]]:
    out = folder / "out" / "page.html"
    problems = write_report(out, gold, predictions, folder, **options)
    return out.read_text(encoding="utf-8"), problems


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


def pictured(page: str) -> list[str]:
    return [one["id"] for one in data_of(page)["posts"] if one["picture"]]


def words(page: str) -> str:
    body = re.sub(r"<(script|style)[ >].*?</\1>", " ", page, flags=re.DOTALL)
    body = re.sub(r'<span class="term"[^>]*>([^<]*)<span class="about"[^<]*</span></span>', r"\1", body)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_hostile_post_stays_text(pictures):
    entity = Entity(HOSTILE, HOSTILE, (0, 1), HOSTILE, True, boxes=(BOX,))
    gold = [Sample(HOSTILE, (HOSTILE, '"><img', "src=x"), "0.jpg", (300, 200), (entity,), (HOSTILE,), HOSTILE)]
    said = Prediction(HOSTILE, HOSTILE, (entity,), f"</pre>{HOSTILE}", (HOSTILE,))
    page, _ = write(pictures, gold, {HOSTILE: [said]})
    assert page.count("<script") == 2  # the data and the page's own
    assert page.count("</script") == 2
    assert "<img" not in page
    shown = data_of(page)["posts"][0]
    assert shown["id"] == shown["gold"][0]["text"] == shown["predicted"][0]["entities"][0]["type"] == HOSTILE
    assert shown["predicted"][0]["raw"] == f"</pre>{HOSTILE}"


def test_the_page_needs_nothing_else_and_allows_nothing_else(pictures):
    page, problems = write(pictures, [post(0)], {"tiny": [right(post(0))]})
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>\s]+)", re.sub(r"<script>.*", "", page, flags=re.S))
    assert links
    assert all(link.startswith("#") for link in links)
    assert data_of(page)["posts"][0]["picture"].startswith("data:image/jpeg;base64,")
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src &#39;none&#39;; img-src data:;" in page
    assert "unsafe" not in page
    assert not re.search(r"<[a-z]+[^>]* style=", page)  # the policy would not apply it
    assert problems == []
    assert not list((pictures / "out").glob("*.partial"))


def test_scores_and_intervals_of_one_system(pictures):
    gold = [post(0, "seen"), post(1, "seen"), post(2, "unseen")]
    text = words(write(pictures, gold, {"tiny": list(map(right, gold[:2]))})[0])
    assert "GMNER 80.00 no interval 100.00 66.67 2 2 3 100.00 no interval 0.00 no interval" in text  # seen, unseen
    assert "unseen 0.00 – / 0.00" in text  # F1, precision and recall
    assert "only 3 posts: figures of fewer than 30 say little" in text
    assert "1 of 3 posts: without a prediction which 2" in text
    assert "Largest loss: missed , 20.00 points" in text


def test_two_systems_are_compared(pictures):
    gold = [post(index) for index in range(8)]
    invisible = replace(gold[3].entities[0], visible=False, boxes=())
    first = [right(sample) for sample in gold[:2]]
    second = [right(sample) for sample in gold[1:3]] + [Prediction("3", entities=(invisible,))]
    page, _ = write(pictures, gold, {"before": first, "after": second})
    text = words(page)
    assert "No difference is shown in GMNER: −3.64 F1" in text  # 2 * 2 / (3 + 8) - 2 * 2 / (2 + 8)
    assert "from 40.00 to 36.36" in text
    assert "1 correct in B alone 1 correct in A alone 1 correct in both 5 wrong in both" in text
    moves = dict(re.findall(r'data-change="(\w+>\w+)"[^>]*>(\d+)<', page))
    assert moves == {
        "correct>correct": "1",
        "correct>missed": "1",
        "missed>correct": "1",
        "missed>missed_grounding": "1",
        "missed>missed": "4",
    }


def test_every_entity_has_the_outcome_of_the_budget(pictures):
    gold = [replace(post(0), entities=(*post(0).entities, Entity("RT", "ORG", (0, 1), visible=False)))]
    said = Prediction("0", entities=(replace(gold[0].entities[0], boxes=(Box(10, 20, 60, 90),)), Entity("!", "LOC")))
    page, _ = write(pictures, gold, {"tiny": [said]})
    shown = data_of(page)["posts"][0]
    assert shown["outcomes"] == {
        "GMNER": [
            {"gold": [["localisation", 0], ["missed", None]], "predicted": [["localisation", 0], ["spurious", None]]}
        ]
    }
    assert shown["predicted"][0]["entities"][1]["span"] == [3, 4]  # found in the text, to be marked there
    assert data_of(page)["outcomes"] == OUTCOMES
    counted = re.search(r"localisation (\d+) (\d+) \+", words(page))
    assert counted.groups() == ("1", "1")


def test_boxes_lie_in_the_frame_of_the_original_picture(pictures):
    Image.new("RGB", (1600, 1200)).save(pictures / "large.png")
    gold = [replace(post(0), image="large.png", size=(1600, 1200))]
    wild = replace(gold[0].entities[0], boxes=(Box(-5, 400, 1e30, 300),))
    shown = data_of(write(pictures, gold, {"tiny": [Prediction("0", entities=(wild,))]})[0])["posts"][0]
    assert shown["size"] == [1600, 1200]
    assert shown["gold"][0]["boxes"] == [[10, 20, 100, 70]]
    assert shown["predicted"][0]["entities"][0]["boxes"] == [[-5, 400, 1e6, 0]]
    uri = shown["picture"].partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(uri))).size == (560, 420)


def test_the_pictured_posts_show_every_outcome(pictures):
    gold = [post(index) for index in range(8)]
    off = Prediction("7", entities=(replace(post(7).entities[0], boxes=(Box(10, 20, 60, 90),)),))
    said = [*map(right, gold[:5]), off]  # 0 to 4 right, 5 and 6 missed, 7 off
    found = [outcomes_by_task(sample, {"tiny": {one.id: one for one in said}}, [GMNER]) for sample in gold]
    costs = [{"missed": 0.1, "localisation": 0.3}]
    free = [0.0] * 8  # nothing but the turns
    for limit, expected in ((0, ""), (1, "7"), (2, "57"), (3, "057"), (4, "0567"), (5, "02567")):
        assert with_picture(gold, found, costs, free, limit) == set(expected)
    dear = [0, 0, 0, 0, 0, 0.2, 0.3, 0.1]
    for limit, expected in ((0, ""), (1, "6"), (2, "67"), (3, "567"), (4, "0567"), (8, "01234567")):
        assert with_picture(gold, found, costs, dear, limit) == set(expected)
    page, _ = write(pictures, gold, {"tiny": said}, limit=99)
    assert pictured(page) == list("01234567")
    assert write(pictures, gold, {"tiny": said}, limit=99)[0] == page


def test_masks_become_outlines_only_where_a_picture_is(pictures):
    grid = np.zeros((200, 300), np.uint8)
    ImageDraw.Draw(image := Image.fromarray(grid)).ellipse((40, 30, 160, 130), fill=1)
    run = coco.encode(np.asfortranarray(np.array(image)))
    mask = Mask((200, 300), run["counts"].decode())
    gold = [replace(post(0), entities=(replace(post(0).entities[0], masks=(mask,)),))]
    shown = data_of(write(pictures, gold, {"tiny": [right(gold[0])]})[0])
    assert list(shown["posts"][0]["outcomes"]) == ["GMNER", "SMNER"]
    (path,) = shown["posts"][0]["gold"][0]["masks"]
    drawn = Image.new("L", (300, 200))
    corners = [tuple(map(float, corner.split())) for corner in path.strip("MZ").split("L")]
    ImageDraw.Draw(drawn).polygon(corners, fill=1)
    both, either = (np.array(drawn) & np.array(image)).sum(), (np.array(drawn) | np.array(image)).sum()
    assert both / either > 0.96
    assert len(path) < 900
    without = Prediction("0", entities=(replace(gold[0].entities[0], masks=()),))
    mixed, _ = write(pictures, gold, {"boxes": [without], "masks": [right(gold[0])]})
    assert list(data_of(mixed)["posts"][0]["outcomes"]) == ["GMNER"]
    assert "SMNER – 100.00 no interval – –" in words(mixed)  # the second's, and nothing to compare it with
    assert 'id="show-masks"' in mixed
    bare = data_of(write(pictures, gold, {"tiny": [right(gold[0])]}, limit=0)[0])
    assert bare["posts"][0]["gold"][0]["masks"] == []


def test_an_outline_has_holes_and_may_touch_the_border():
    ring = np.ones((40, 60), np.uint8)
    ring[10:30, 20:40] = 0
    run = coco.encode(np.asfortranarray(ring))
    path = outline(Mask((40, 60), run["counts"].decode()))
    assert path.count("M") == path.count("Z") == 2
    numbers = np.array([list(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", path)])
    assert numbers.min(0).tolist() == [0, 0]
    assert numbers.max(0).tolist() == [60, 40]
    empty = coco.encode(np.asfortranarray(ring * 0))
    assert outline(Mask((40, 60), empty["counts"].decode())) == ""


def test_pictures_that_cannot_be_shown_are_listed(pictures):
    (pictures / "1.jpg").write_bytes((pictures / "1.jpg").read_bytes()[:300])
    gold = [post(0), post(1), replace(post(2), image="gone.jpg"), replace(post(3), size=(77, 33))]
    page, problems = write(pictures, gold, {"tiny": []})
    assert [problem.split(":")[0] for problem in problems] == ["post 1", "post 2", "post 3"]
    assert "gone.jpg" in problems[1]
    assert "303 x 200" in problems[2]
    assert "77 x 33" in problems[2]
    assert all(problem in words(page) for problem in problems)
    assert pictured(page) == ["0", "3"]


def test_one_fault_of_many_pictures_is_one_line(pictures):
    gold = [replace(post(index), image=f"gone{index}.jpg") for index in range(8)] + [replace(post(8), image="../8.jpg")]
    page, problems = write(pictures, gold, {"one": [], "two": []})
    assert len(problems) == 2
    assert problems[0].startswith("8 posts (0, 1, 2, 3, 4, ...): no such picture; the first: ")
    assert problems[0].endswith("gone0.jpg")
    assert problems[1].startswith("post 8: the picture lies outside")
    assert words(page).count("no such picture") == 1
    assert [bool(one["problem"]) for one in data_of(page)["posts"]] == [True] * 9  # and each post has its own


def test_an_answer_for_another_split_is_refused_before_anything_is_written(pictures):
    with pytest.raises(UserError, match="'9'"):
        write(pictures, [post(0)], {"tiny": [Prediction("9")]})
    assert not (pictures / "out").exists()


@pytest.mark.parametrize("count", [0, 3])
def test_one_system_or_two(pictures, count):
    with pytest.raises(UserError, match=f"one system or two, not {count}"):
        write(pictures, [post(0)], {str(place): [] for place in range(count)})


def test_a_limit_below_nothing_is_refused(pictures):
    with pytest.raises(UserError, match="0 or more"):
        write(pictures, [post(0)], {"tiny": []}, limit=-1)


def test_posts_without_anything_to_show(pictures):
    gold = [Sample("0", ("hi",)), replace(post(1), entities=())]
    page, problems = write(pictures, gold, {"tiny": [Prediction("0"), Prediction("1")]})
    assert problems == []
    assert "No entity with correct mention and type has a predicted probability" in words(page)
    assert data_of(page)["posts"][0]["size"] is None


def test_systems_are_named_as_shortly_as_tells_them_apart():
    assert system_names([Path("runs/a/test.jsonl"), Path("runs/b/test.jsonl")]) == ["a/test", "b/test"]
    assert system_names([Path("x/before.jsonl"), Path("x/after.jsonl")]) == ["before", "after"]
    assert system_names([Path("test.jsonl")]) == ["test"]
    with pytest.raises(UserError, match="twice"):
        system_names([Path("a.jsonl"), Path("../" + Path.cwd().name + "/a.jsonl")])
    with pytest.raises(UserError, match="a folder"):
        system_names([Path()])


def scored(gold: list[Sample]) -> list[Prediction]:
    return [Prediction(one.id, entities=(replace(one.entities[0], visible_score=0.7),)) for one in gold]


def test_curves_have_their_numbers(pictures):
    gold = [post(index) for index in range(4)]
    text = words(write(pictures, gold, {"before": [], "after": scored(gold)})[0])
    assert f"A GMNER{' 0.0' * 10} B GMNER{' 100.0' * 10}" in text
    assert "B 4 0 30.00 0.0900" in text  # entities, without probability, calibration error, Brier


def budget(**gains: float) -> dict:
    return {"task": "GMNER", "f1": 0.6, "corrected": {name: {"gain": gain} for name, gain in gains.items()}}


def test_the_waterfall_adds_up_and_is_in_the_order_of_the_loss():
    figure = waterfall(budget(missed=0.1, localisation=0.25, spurious=0.0), 0, 20)
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", figure)
    names = [text for text in texts if not re.fullmatch(r"[−+.\d]+", text)]
    assert names == ["F1 now", "localisation", "missed", "in combination", "all corrected"]
    assert [text for text in texts if text[0] in "+−"] == ["+25.00", "+10.00", "+5.00"]
    assert 'aria-label="GMNER F1 60.00; localisation +25.00, missed +10.00, in combination +5.00"' in figure
    assert "−5.00" in waterfall(budget(missed=0.2, localisation=0.25), 0, 20)  # more than there is to win
    assert "var(--a)" in figure
    assert "var(--b)" in waterfall(budget(), 1, 20)


def test_figures_are_plain_and_their_ids_do_not_meet(pictures):
    gold = [post(index) for index in range(4)]
    said = scored(gold)
    result = explain(gold, said)
    figures = [
        *(waterfall(result["error_budget"]["GMNER"], system, 0) for system in (0, 1)),
        iou_curve([result["iou_sweep"]["strict"]] * 2, ["x", "<y>"]),
        calibration_curve([result["calibration"], None], ["x", "<y>"]),
    ]
    ids = [set(re.findall(r'\bid="([^"]+)"', figure)) for figure in figures]
    assert sum(map(len, ids)) == len(set().union(*ids))
    for figure, own in zip(figures, ids, strict=True):
        assert set(re.findall(r"(?:url\(|href=\")#([^\")]+)", figure)) == own
        assert not re.search(r"style|font-family|<!|#00000|<metadata", figure)
        assert len(figure) < 40_000
    assert "&lt;y&gt;" in figures[2]


def test_pictures_are_upright_and_of_every_mode(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (80, 40)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("CMYK", (80, 40)).save(tmp_path / "print.jpg")
    Image.new("P", (80, 40)).save(tmp_path / "palette.png", transparency=0)
    assert (small_picture(tmp_path / "turned.jpg").width, small_picture(tmp_path / "turned.jpg").height) == (40, 80)
    assert small_picture(tmp_path / "print.jpg").width == small_picture(tmp_path / "palette.png").width == 80


def test_a_picture_that_is_a_program_is_not_opened(tmp_path):
    (tmp_path / "post.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(PictureError, match=r"post\.jpg"):
        small_picture(tmp_path / "post.jpg")


@pytest.mark.parametrize("systems", [1, 2])
@pytest.mark.parametrize("fault", ["missing", "damaged", "of another size", "a folder", "an empty file"])
def test_a_picture_that_cannot_be_shown_is_a_fault_in_the_page_s_list(pictures, fault, systems):
    path = pictures / "0.jpg"
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    elif fault != "missing":
        path.write_bytes({"damaged": b"\xff\xd8 no picture", "an empty file": b""}.get(fault, b""))
    if fault == "of another size":
        Image.new("RGB", (10, 10)).save(path)
    gold = [post(0), post(1)]
    names = ["one", "two"][:systems]
    page, problems = write(pictures, gold, {name: [right(one) for one in gold] for name in names})
    assert len(problems) == 1
    assert "Parse and data warnings" in page
    assert "post 0: " in words(page)
    assert "NaN" not in page
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", words(page).lower())


@pytest.mark.parametrize(
    "image", ["../other/secret.png", "images/../../other/secret.png", "{}/other/secret.png", "C:\\a.png"]
)
def test_a_picture_of_another_folder_is_in_no_page(tmp_path, image):
    (tmp_path / "other").mkdir()
    (tmp_path / "data").mkdir()
    Image.new("RGB", (300, 200), "red").save(tmp_path / "other" / "secret.png")
    gold = [replace(post(0), image=image.format(tmp_path))]
    page, problems = write(tmp_path / "data", gold, {"one": [right(gold[0])]})
    assert "data:image" not in page.split("<script type")[1]
    assert pictured(page) == []
    assert "outside the dataset's folder" in problems[0]


def test_the_page_says_what_it_was_made_by(tmp_path):
    gold = [post(0)]
    recipe = "model:\n  base: <b>tiny</b>  # from own.yaml\n"
    origin = Origin("rivegs report data 'a b.jsonl'", {"one": recipe})
    page, _ = write(tmp_path, gold, {"one": [right(gold[0])]}, origin=origin)
    assert "The recipe of one" in page
    assert "&lt;b&gt;tiny" in page
    assert "rivegs report data &#39;a b.jsonl&#39;" in page
    assert f"rivegs {version('rivegs-mllm')}" in page


def test_a_picture_behind_a_link_is_shown_only_where_its_folder_is_named(tmp_path):
    for folder in ("data", "other"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (300, 200), "red").save(tmp_path / "other" / "0.jpg")
    (tmp_path / "data" / "link.jpg").symlink_to("../other/0.jpg")
    (tmp_path / "data" / "loop.jpg").symlink_to("loop.jpg")
    gold = [
        replace(post(n), image=name, size=None)
        for n, name in enumerate(["link.jpg", "../other/0.jpg", "loop.jpg", "a\0b"])
    ]
    answers = {"one": [right(one) for one in gold]}
    page, problems = write(tmp_path / "data", gold, answers)
    assert pictured(page) == []
    assert ["--image-root" in problem for problem in problems] == [True, False, False]
    page, problems = write(tmp_path / "data", gold, answers, image_root=tmp_path / "other")
    assert len(pictured(page)) == 2
    assert len(problems) == 2


class Tables(HTMLParser):
    """How many columns each row of a page's tables takes, by table, and the terms with their explanations."""

    def __init__(self, page: str):
        super().__init__()
        self.tables, self.terms, self.open = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += int(attrs.get("colspan", 1))
        elif tag == "span":
            self.open.append(attrs)

    def handle_endtag(self, tag):
        if tag == "span":
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1].get("class") == "about":
            assert self.open[-2]["class"] == "term"
            assert self.open[-2]["tabindex"] == "0"  # the focus gets there, and a tap
            assert self.open[-1]["role"] == "tooltip"
            self.terms[self.name] = data
        elif self.open and self.open[-1].get("class") == "term":
            self.name = data


def with_masks(sample: Sample) -> Sample:
    width, height = sample.size
    grid = np.zeros((height, width), np.uint8)
    grid[20:90, 10:110] = 1
    mask = Mask((height, width), coco.encode(np.asfortranarray(grid))["counts"].decode())
    return replace(sample, entities=(replace(sample.entities[0], masks=(mask,)),))


def test_every_figure_stands_under_its_head(pictures):
    gold = [with_masks(post(index, ("seen", "unseen")[index % 2])) for index in range(4)]
    bare = [Prediction(one.id, entities=(replace(one.entities[0], masks=()),)) for one in gold]
    full = list(map(right, gold))
    for systems in ({"a": full}, {"a": bare}, {"a": full, "b": full}, {"a": bare, "b": full}, {"a": full, "b": bare}):
        page, _ = write(pictures, gold, systems)
        tables = Tables(page).tables
        assert len(tables) > 5
        assert [set(rows) for rows in tables if len(set(rows)) > 1] == []


def test_terms_are_explained(pictures):
    gold = [with_masks(post(index)) for index in range(4)]
    said = [replace(one, entities=(replace(one.entities[0], visible_score=0.7),)) for one in map(right, gold[:3])]
    terms = Tables(write(pictures, gold, {"tiny": said})[0]).terms
    assert {"MNER", "GMNER", "EEG", "SMNER", "EES", "IoU", "F1", "ECE", "Brier", "gain", "missed"} <= terms.keys()
    assert terms["missed"] == "gold entity not found"
    assert all(len(about) > 10 for about in terms.values())


def test_heads_are_upright_and_legends_beside_their_curves(pictures):
    gold = [post(index) for index in range(4)]
    page, _ = write(pictures, gold, {"a": scored(gold), "b": scored(gold[:2])})
    assert "rotate(" not in page
    assert "writing-mode" not in page
    assert "sideways" not in page
    result = explain(gold, scored(gold))
    (figure,) = [iou_curve([result["iou_sweep"]["strict"]] * 2, ["x", "y"])]
    root = ElementTree.fromstring(figure)
    right_of = {
        text.text: float(text.get("x") or re.search(r"\(([\d.]+)", text.get("transform")).group(1))
        for text in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert right_of["A GMNER"] == right_of["B GMNER"] > right_of["0.9"]


def test_any_number_of_types_has_colours_of_its_own(pictures):
    kinds = [f"type {number}" for number in range(40)]
    entities = tuple(Entity("RT", kind, (0, 1), visible=False) for kind in kinds)
    page, _ = write(pictures, [replace(post(0), entities=entities)], {"tiny": []})
    colours = {name: colour for name, *colour in data_of(page)["types"]}
    assert colours.keys() == set(kinds)
    assert len(set(map(tuple, colours.values()))) == 40


def test_a_post_costs_what_answering_it_would_gain(pictures):
    gold = [post(index) for index in range(6)]
    two = Entity("RT", "ORG", (0, 1), visible=False)
    gold[3] = replace(gold[3], entities=(*gold[3].entities, two))
    wrong = replace(gold[1].entities[0], type="LOC")
    said = [right(gold[0]), Prediction("1", entities=(wrong, two)), right(gold[2]), Prediction("3"), Prediction("4")]
    costs = post_costs(gold, said, GMNER)
    now = evaluate(gold, said)["strict"]["all"]["GMNER"]["f1"]
    by_id = {one.id: one for one in said}
    for sample, cost in zip(gold, costs, strict=True):
        mended = [*(one for name, one in by_id.items() if name != sample.id), right(sample)]
        assert cost == pytest.approx(evaluate(gold, mended)["strict"]["all"]["GMNER"]["f1"] - now)
    assert costs[0] == costs[2] == 0
    assert max(costs) == costs[3]
    shown = data_of(write(pictures, gold, {"tiny": said})[0])["posts"]
    assert [one["costs"]["GMNER"][0] for one in shown] == pytest.approx([100 * cost for cost in costs], abs=1e-4)


def test_the_costliest_posts_have_their_pictures(pictures):
    gold = [post(index) for index in range(8)]
    said = [right(one) for one in gold if one.id not in "26"]
    page, _ = write(pictures, gold, {"tiny": said}, limit=4)
    assert {"2", "6"} <= set(pictured(page))
