"""The Twitter-GMNER builder on small raw folders, and on the published data where RIVEGS_DATA has it."""

import os
import re
from pathlib import Path

import pytest
from PIL import Image

from data_builders.twitter_gmner import build_twitter_gmner, look_of
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import TYPES, Box, Entity, UserError


def post(identity: str, *lines: str) -> str:
    return "\n".join([f"IMGID:{identity}", *(line.replace(" ", "\t") for line in lines)]) + "\n\n"


def thing(name: str, *edges: int) -> str:
    sides = "".join(
        f"<{side}>{edge}</{side}>" for side, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def annotation(path: Path, size: tuple[int, int], *things: str) -> None:
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path.write_text(f"<annotation>{head}{''.join(things)}</annotation>")


ADA = ("RT O", "Ada B-PER", "Lovelace I-PER", "and O", "Ada B-PER", "Lovelace I-PER", "in O", "London B-LOC")


@pytest.fixture
def raw(tmp_path) -> Path:
    """Version 1's folder with a post that has boxes, one that has none, and one a further split."""
    root = tmp_path / "raw" / "Twitter10000"
    (root / "txt").mkdir(parents=True)
    (root / "xml").mkdir()
    (root / "txt" / "train.txt").write_text("\ufeff" + post("1", *ADA) + post("O_2", "hi O"), encoding="utf-8")
    (root / "txt" / "dev.txt").write_text(post("3", "Bob B-PER"))
    (root / "txt" / "test.txt").write_text(post("4", "Eve B-OTHER"))
    annotation(
        root / "xml" / "1.xml", (80, 60), thing("Ada Lovelace", 1, 2, 30, 40), thing("Ada Lovelace", 50, 2, 70, 9)
    )
    return tmp_path / "raw"


def pictures(folder: Path, *ids: str, size: tuple[int, int] = (80, 60), orientation: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for identity in ids:
        Image.new("RGB", size).save(folder / f"{identity}.jpg", exif=exif)
    return folder


def kinds(report) -> list[str]:
    return [finding.kind for finding in report.findings]


BOXES = (Box(1, 2, 30, 40), Box(50, 2, 70, 9))


def test_mentions_share_the_boxes_of_their_name(raw, tmp_path):
    report = build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    first, second = read_split(tmp_path / "out", "train")
    assert (first.id, first.image, first.size) == ("1", "", (80, 60))
    assert first.tokens == tuple(line.split()[0] for line in ADA)
    assert first.entities == (
        Entity("Ada Lovelace", "PER", (1, 3), visible=True, boxes=BOXES),
        Entity("Ada Lovelace", "PER", (4, 6), visible=True, boxes=BOXES),
        Entity("London", "LOC", (7, 8), visible=False),
    )
    assert (second.id, second.size, second.entities) == ("O_2", None, ())
    assert [sample.id for split in ("dev", "test") for sample in read_split(tmp_path / "out", split)] == ["3", "4"]
    counts = report.counts["train"]
    assert (counts.posts, counts.entities, counts.visible, counts.boxes) == (2, 3, 2, 4)
    assert (counts.several_boxes, counts.posts_without_entity, counts.repeated_mentions, counts.most_entities) == (
        2,
        1,
        1,
        3,
    )
    assert counts.types == {"PER": 2, "LOC": 1, "ORG": 0, "OTHER": 0}
    assert report.findings == []
    assert report.exit_code == 0
    info = read_info(tmp_path / "out")
    assert (tuple(info.types), info.format, info.entities["train"]) == (TYPES, "twitter-gmner", 3)
    assert (tmp_path / "out" / "findings.txt").read_text() == ""


def test_pictures_come_from_several_folders_relative_to_the_dataset(raw, tmp_path):
    folders = [pictures(tmp_path / "a", "1", "O_2"), pictures(tmp_path / "b", "3", "4", "1", size=(9, 8))]
    report = build_twitter_gmner(raw / "Twitter10000", folders, tmp_path / "sets" / "out")
    first, second = read_split(tmp_path / "sets" / "out", "train")
    assert (first.image, first.size) == ("../../a/1.jpg", (80, 60))
    assert (second.image, second.size) == ("../../a/O_2.jpg", (80, 60))
    assert read_split(tmp_path / "sets" / "out", "dev")[0].size == (9, 8)
    assert kinds(report) == ["picture twice"]


def test_missing_and_unreadable_pictures_are_counted_listed_and_nothing_is_built(raw, tmp_path):
    out = tmp_path / "out"
    build_twitter_gmner(raw, [], out, without_images=True)
    before = (out / "train.jsonl").read_bytes()
    folder = pictures(tmp_path / "a", "1")
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="2 x missing picture, 1 x unreadable picture") as caught:
        build_twitter_gmner(raw, [folder], out)
    assert "O_2" in str(caught.value)
    assert "3.png" in str(caught.value)
    assert len((out / "findings.txt").read_text().splitlines()) == 3
    assert (out / "train.jsonl").read_bytes() == before


def test_of_many_missing_pictures_twenty_are_shown_and_all_listed(raw, tmp_path):
    (raw / "Twitter10000" / "txt" / "dev.txt").write_text("".join(post(f"m{n}", "a O") for n in range(30)))
    with pytest.raises(UserError, match="33 x missing picture") as caught:
        build_twitter_gmner(raw, [pictures(tmp_path / "a")], tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 21
    assert len((tmp_path / "out" / "findings.txt").read_text().splitlines()) == 33


@pytest.mark.parametrize(
    ("stored", "orientation", "size", "box", "found"),
    [
        # The annotator saw the picture upright: nothing to do.
        ((60, 80), 6, (80, 60), Box(1, 2, 30, 40), ["rotated picture"]),
        # The annotator saw the picture as stored: clockwise by a quarter.
        ((80, 60), 6, (60, 80), Box(20, 1, 58, 30), ["rotated picture", "size differs"]),
        ((80, 60), 8, (60, 80), Box(2, 50, 40, 79), ["rotated picture", "size differs"]),
        # Stored in half the size.
        ((40, 30), 1, (40, 30), Box(0.5, 1, 15, 20), ["size differs"]),
        ((160, 120), 8, (120, 160), Box(4, 100, 80, 158), ["rotated picture", "size differs"]),
    ],
)
def test_boxes_follow_the_picture(raw, tmp_path, stored, orientation, size, box, found):
    folder = pictures(tmp_path / "a", "1", size=stored, orientation=orientation)
    pictures(folder, "O_2", "3", "4")
    report = build_twitter_gmner(raw, [folder], tmp_path / "out")
    sample = read_split(tmp_path / "out", "train")[0]
    assert sample.size == size
    assert sample.entities[0].boxes[0] == box
    assert kinds(report) == found


def test_what_is_mended_is_found(raw, tmp_path):
    root = raw / "Twitter10000"
    long = [f"w{number} O" for number in range(500)]
    text = post("3", "Bob I-PER") + post("3", "Rob B-PER", "Bo B-PER") + post("3", *long) + post("5")
    (root / "txt" / "dev.txt").write_text(text)
    things = [thing("Bob", 0, 0, 0, 0), thing("Rob", 1, 1, 99, 9), thing("Bo", 4, 4, 4, 9), thing("Al", 1, 1, 2, 2)]
    annotation(root / "xml" / "3.xml", (20, 10), *things)
    annotation(root / "xml" / "5.xml", (0, 0))
    annotation(root / "xml" / "99.xml", (20, 10))
    report = build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    assert sorted(kinds(report)) == [
        "annotation without post",
        "box outside",
        "box without area",
        "empty post",
        "no size",
        "orphan tag",
        "placeholder box",
        "repeated id",
        "repeated id",
        "unmatched name",
    ]
    assert all(finding.level == "warning" for finding in report.findings)
    first, second, third, fourth = read_split(tmp_path / "out", "dev")
    assert [sample.id for sample in (first, second, third, fourth)] == ["3", "3#2", "3#3", "5"]
    assert first.entities == (Entity("Bob", "PER", (0, 1), visible=False),)
    assert second.entities[0].boxes == (Box(1, 1, 20, 9),)
    assert second.entities[1] == Entity("Bo", "PER", (1, 2), visible=False)
    assert len(third.tokens) == 500
    assert (fourth.tokens, fourth.size) == ((), None)
    places = {finding.kind: finding.place for finding in report.findings}
    assert places["orphan tag"] == f"{root}/txt/dev.txt:2"
    assert places["unmatched name"] == f"{root}/xml/3.xml"


def test_files_that_cannot_be_read_are_all_named(raw, tmp_path):
    root = raw / "Twitter10000"
    (root / "xml" / "3.xml").write_text("<annotation>")
    (root / "xml" / "4.xml").write_text("")
    (root / "txt" / "test.txt").write_text(post("4", "Eve B-"))
    with pytest.raises(UserError, match="3 x unreadable file") as caught:
        build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    for name in ("3.xml", "4.xml", "test.txt:2"):
        assert name in str(caught.value)
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_folders_that_are_not_there(raw, tmp_path):
    out = tmp_path / "out"
    for folders, without in (([], False), ([tmp_path], True)):
        with pytest.raises(UserError, match="--images"):
            build_twitter_gmner(raw, folders, out, without_images=without)
    with pytest.raises(UserError, match="nothing"):
        build_twitter_gmner(tmp_path / "nothing", [], out, without_images=True)
    with pytest.raises(UserError, match="nowhere"):
        build_twitter_gmner(raw, [tmp_path / "nowhere"], out)
    (raw / "Twitter10000_v2.0" / "txt").mkdir(parents=True)
    with pytest.raises(UserError, match="name the one you mean"):
        build_twitter_gmner(raw, [], out, without_images=True)


def test_knowledge_goes_to_posts_of_the_same_words(raw, tmp_path):
    known = tmp_path / "known"
    known.mkdir()
    words = "".join(line.replace(" ", "\t") + "\n" for line in ADA)
    (known / "train.txt").write_text(f"{words}<EOS>\tX\nA\tX\npoet.\tX\n\nhello\tO\n<EOS>\tX\nno\tX\n\n")
    (known / "dev.txt").write_text("Bob\tB-PER\n<EOS>\tX\n\n")
    (known / "test.txt").write_text("Eve\tB-OTHER\n<EOS>\tX\nEve\tX\n\n")
    report = build_twitter_gmner(raw, [], tmp_path / "out", without_images=True, knowledge=known)
    assert [sample.knowledge for sample in read_split(tmp_path / "out", "train")] == [("A poet.",), ()]
    assert read_split(tmp_path / "out", "dev")[0].knowledge == ()
    assert read_split(tmp_path / "out", "test")[0].knowledge == ("Eve",)
    assert [(finding.kind, finding.place) for finding in report.findings] == [
        ("knowledge of other words", f"{known / 'train.txt'}: post 2")
    ]
    (known / "dev.txt").write_text("")
    with pytest.raises(UserError, match="0 posts, but the split has 1"):
        build_twitter_gmner(raw, [], tmp_path / "out", without_images=True, knowledge=known)


PUBLISHED = """
train 7000 11779 4733 5723 421 358 74 6
dev   1500  2450  991 1171  85  87 12 5
test  1500  2543 1046 1254 103  82 14 6
"""


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
def test_published_figures(tmp_path):
    data = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner"
    report = build_twitter_gmner(data, [], tmp_path, without_images=True, knowledge=data / "chatgpt_knowledge")
    for row in PUBLISHED.split("\n")[1:-1]:
        split, *figures = row.split()
        counts = report.counts[split]
        assert list(map(int, figures)) == [
            counts.posts,
            counts.entities,
            counts.visible,
            counts.boxes,
            counts.several_boxes,
            counts.posts_without_entity,
            counts.repeated_mentions,
            counts.most_entities,
        ]
        samples = read_split(tmp_path, split)
        assert len(samples) == counts.posts == counts.with_knowledge
        assert sum(len(entity.boxes) for sample in samples for entity in sample.entities) == counts.boxes
    assert report.counts["train"].types == {"PER": 5019, "LOC": 1918, "ORG": 3035, "OTHER": 1807}
    assert report.findings == []


def test_annotations_are_found_whatever_the_case_of_their_names_and_missed_where_there_are_none(raw, tmp_path):
    folder = raw / "Twitter10000" / "xml"
    for path in folder.glob("*.xml"):
        path.rename(path.with_suffix(".XML"))
    report = build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    assert report.counts["train"].visible == 2
    for path in folder.glob("*.XML"):
        path.unlink()
    with pytest.raises(UserError, match="1 x no annotation"):
        build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)


@pytest.mark.parametrize(
    "name", ["Ada  Lovelace", " Ada Lovelace", "AdaLovelace", "Ada\u200b Lovelace", "Ada Lovelace\ufeff"]
)
def test_a_name_that_looks_like_the_mention_is_the_mention(raw, tmp_path, name):
    path = raw / "Twitter10000" / "xml" / "1.xml"
    path.write_text(path.read_text().replace("Ada Lovelace", name))
    report = build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    assert report.findings == []
    assert read_split(tmp_path / "out", "train")[0].entities[0].boxes == BOXES


def test_accents_written_in_two_ways_are_the_same():
    assert look_of("Beyonc\u00e9") == look_of("Beyonce\u0301") != look_of("Beyonce")


@pytest.mark.parametrize("number", ["1" * 400, "1" * 5000, "1e308", "-1e30", "nan", "10000001"])
def test_a_number_that_is_no_edge_is_named_in_short(raw, tmp_path, number):
    path = raw / "Twitter10000" / "xml" / "1.xml"
    path.write_text(re.sub("<xmax>[^<]*", f"<xmax>{number}", path.read_text(), count=1))
    with pytest.raises(
        UserError, match=r"1 x unreadable file(.|\n)*1\.xml:\d+: <xmax> is .*not a number of pixels"
    ) as told:
        build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    assert len(str(told.value)) < 1000


def test_an_id_that_comes_again_takes_no_number_that_is_there(raw, tmp_path):
    root = raw / "Twitter10000"
    (root / "txt" / "dev.txt").write_text(post("7", "a O") + post("7#2", "b O") + post("7", "c O") + post("7", "d O"))
    build_twitter_gmner(raw, [], tmp_path / "out", without_images=True)
    assert [sample.id for sample in read_split(tmp_path / "out", "dev")] == ["7", "7#2", "7#3", "7#4"]


@pytest.mark.parametrize("ending", ["gif", "bmp", "jfif", "GIF"])
def test_pictures_of_every_kind_that_can_be_opened_are_found(raw, tmp_path, ending):
    folder = pictures(tmp_path / "a", "1", "O_2", "3", "4")
    Image.new("RGB", (80, 60)).save(folder / f"1.{ending}", format="JPEG" if ending == "jfif" else ending)
    (folder / "1.jpg").unlink()
    build_twitter_gmner(raw, [folder], tmp_path / "out")
    assert read_split(tmp_path / "out", "train")[0].image == f"../a/1.{ending}"
