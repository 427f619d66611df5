"""Twitter-2015 and Twitter-2017 from files in their published form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data_builders.audit import audit
from data_builders.twitter_mner import POSTS, build_mner
from rivegs_mllm.data.dataset_info import DatasetInfo, read_info
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import TYPES, Entity, UserError

TRAIN = "IMGID:17_06_1\nPreds\tB-ORG\nat\tO\nCMA\tB-MISC\nfest\tI-MISC\n\nIMGID:O_2\nhi\tO\n\n"
DEV = "IMGID:3\nAda\tB-PER\n\nIMGID:4\nfour\tO\n\n"
TEST = "IMGID:5\nRome\tB-LOC\n\nIMGID:6\nJ\tO\nCole\tI-PER\n"


@pytest.fixture
def raw(tmp_path) -> Path:
    root = tmp_path / "twitter2017"
    root.mkdir()
    (root / "train.txt").write_text("\ufeff" + TRAIN, encoding="utf-8")
    (root / "valid.txt").write_text(DEV.replace("\n", "\r\n"), newline="")
    (root / "test.txt").write_text(TEST)
    return root


@pytest.fixture
def published(monkeypatch):
    """The small files' own figures, so that they are not found to differ."""
    monkeypatch.setitem(POSTS, "twitter-2017", (2, 2, 2))


def pictures(folder: Path, *ids: str) -> Path:
    folder.mkdir()
    for identity in ids:
        Image.new("RGB", (8, 6)).save(folder / f"{identity}.jpg")
    return folder


def found(report) -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in report.findings]


def test_posts_without_pictures(raw, tmp_path, published):
    report = build_mner("twitter-2017", raw, [], tmp_path / "out", without_images=True)
    first, second = read_split(tmp_path / "out", "train")
    assert (first.id, first.tokens, first.image, first.size) == ("17_06_1", ("Preds", "at", "CMA", "fest"), "", None)
    assert first.entities == (Entity("Preds", "ORG", (0, 1)), Entity("CMA fest", "OTHER", (2, 4)))
    assert {entity.visible for entity in first.entities} == {None}
    assert (second.id, second.entities) == ("O_2", ())
    assert [sample.id for split in ("dev", "test") for sample in read_split(tmp_path / "out", split)] == list("3456")
    # The published Twitter-2015 has such tags.
    assert found(report) == [("warning", "orphan tag")]
    assert read_split(tmp_path / "out", "test")[1].entities == (Entity("Cole", "PER", (1, 2)),)
    assert audit(tmp_path / "out").errors == []
    info = DatasetInfo(dict.fromkeys(TYPES, ""), {"train": 2, "dev": 2, "test": 2}, {"train": 2, "dev": 1, "test": 2})
    assert read_info(tmp_path / "out") == replace(info, format="twitter-2017")


def test_a_missing_or_damaged_picture_leaves_the_post_without_one(raw, tmp_path, published):
    folder = pictures(tmp_path / "pictures", "17_06_1", "3", "5", "6")
    (folder / "4.jpg").write_bytes(b"no picture")
    report = build_mner("twitter-2017", raw, [folder], tmp_path / "out")
    assert sorted(found(report)) == [
        ("warning", "missing picture"),
        ("warning", "orphan tag"),
        ("warning", "unreadable picture"),
    ]
    first, second = read_split(tmp_path / "out", "train")
    assert (first.image, first.size) == ("../pictures/17_06_1.jpg", (8, 6))
    assert (second.image, second.size) == ("", None)
    assert [sample.image for sample in read_split(tmp_path / "out", "dev")] == ["../pictures/3.jpg", ""]
    assert [report.counts[split].with_picture for split in ("train", "dev", "test")] == [1, 1, 2]
    assert "O_2" in (tmp_path / "out" / "findings.txt").read_text()


def test_a_folder_with_none_of_the_pictures_is_refused(raw, tmp_path):
    with pytest.raises(UserError, match="1 x no picture"):
        build_mner("twitter-2017", raw, [pictures(tmp_path / "pictures", "other")], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_test_file_that_repeats_the_dev_file_is_refused(raw, tmp_path):
    (raw / "test.txt").write_text(DEV)
    with pytest.raises(UserError, match="1 x repeated split") as caught:
        build_mner("twitter-2017", raw, [], tmp_path / "out", without_images=True)
    assert f"{raw}/test.txt: all its 2 posts are in {raw}/valid.txt" in str(caught.value)
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_single_posts_in_two_splits_are_listed(raw, tmp_path, published):
    # Of the same id, but another text: another post.
    (raw / "test.txt").write_text("IMGID:3\nAda\tB-PER\n\nIMGID:4\nRome\tB-LOC\n")
    report = build_mner("twitter-2017", raw, [], tmp_path / "out", without_images=True)
    assert [str(finding) for finding in report.findings] == [
        f"warning: post in two splits: {raw}/test.txt:1: 3 is in valid.txt too"
    ]


def test_other_figures_than_the_published_ones_are_said(raw, tmp_path):
    report = build_mner("twitter-2015", raw, [], tmp_path / "out", without_images=True)
    (finding,) = [finding for finding in report.findings if finding.kind == "other figures"]
    assert finding.message == "(2, 2, 2) posts; twitter-2015 is published with (4000, 1000, 3257)"


def test_files_that_are_missing_double_or_damaged(raw, tmp_path):
    def build():
        build_mner("twitter-2017", raw, [], tmp_path / "out", without_images=True)

    (raw / "dev.txt").write_text(DEV)
    with pytest.raises(UserError, match=r"both dev\.txt and valid\.txt"):
        build()
    (raw / "dev.txt").unlink()
    (raw / "valid.txt").unlink()
    with pytest.raises(UserError, match=r"no dev\.txt or valid\.txt or val\.txt"):
        build()
    (raw / "val.txt").write_text("IMGID:3\nAda\tB-\n")
    with pytest.raises(UserError, match=r"val\.txt:2: tag 'B-'"):
        build()
    with pytest.raises(UserError, match="--without-images"):
        build_mner("twitter-2017", raw, [], tmp_path / "out")


def test_knowledge_is_added(raw, tmp_path, published):
    for split, text in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        posts = [post.partition("\n")[2].strip() for post in text.strip().split("\n\n")]
        known = "".join(f"{post}\n<EOS>\tX\nknown\tX\n{split}\tX\n\n" for post in posts)
        (tmp_path / f"{split}.txt").write_text(known)
    build_mner("twitter-2017", raw, [], tmp_path / "out", without_images=True, knowledge=tmp_path)
    assert {s.knowledge for split in ("train", "dev", "test") for s in read_split(tmp_path / "out", split)} == {
        ("known train",),
        ("known dev",),
        ("known test",),
    }
