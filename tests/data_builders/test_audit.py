"""Each thing that an audit finds, on a small folder that has just that."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from PIL import Image

from data_builders.audit import audit
from data_builders.findings import DatasetReport, Finding, count_split, format_report
from rivegs_mllm.data.jsonl import SPLITS, write_records
from rivegs_mllm.types import Box, Entity, Mask, Sample, UserError


def sample(identity: str, **fields: object) -> Sample:
    defaults = {
        "tokens": (f"word{identity}", "Ada"),
        "image": f"pictures/{identity}.png",
        "size": (8, 6),
        "entities": (Entity("Ada", "PER", (1, 2), visible=True, boxes=(Box(0, 0, 8, 6),)),),
    }
    return Sample(identity, **{**defaults, **fields})


def picture(path: Path, size: tuple[int, int] = (8, 6), orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Of its own colour, so that no two are the same.
    Image.new("RGB", size, (sum(map(ord, path.stem)) % 256, 0, 0)).save(path, exif=exif)


@pytest.fixture
def built(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    for split, ids in zip(SPLITS, ("ab", "c", "d"), strict=True):
        write_records(tmp_path / f"{split}.jsonl", [sample(identity) for identity in ids])
        for identity in ids:
            picture(tmp_path / "pictures" / f"{identity}.png")
    return tmp_path


def found(folder: Path) -> list[tuple[str, str]]:
    return [(finding.kind, finding.level) for finding in audit(folder).findings]


def test_a_good_folder_has_no_findings(built):
    report = audit(built)
    assert report.findings == []
    assert report.exit_code == 0
    assert {split: counts.posts for split, counts in report.counts.items()} == {"train": 2, "dev": 1, "test": 1}
    assert report.counts["train"].sizes == ((8, 6),) * 3
    assert "no findings" in format_report(report)


ADA = {"text": "Ada", "type": "PER", "span": [0, 1]}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        orjson.dumps({"id": "x", "tokens": ["Bob"], "entities": [ADA]}),
        orjson.dumps({"id": "x", "tokens": ["Ada"], "entities": [{**ADA, "boxes": [[1, 1, 1, 2]]}]}),
        orjson.dumps({"id": "x", "tokens": ["Ada"], "entities": [{**ADA, "boxes": [[0, 0, 0, 0]]}]}),
        orjson.dumps({"id": "b", "tokens": ["Ada"]}),
    ],
)
def test_every_bad_line_is_a_finding(built, line):
    path = built / "train.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, b"[]", second, line]))
    report = audit(built)
    assert [(finding.kind, finding.place) for finding in report.findings] == [
        ("bad line", f"{path}:2"),
        ("bad line", f"{path}:4"),
    ]
    assert report.exit_code == 1
    assert report.counts["train"].posts == 2


def test_a_single_file(built):
    for split in ("dev", "test"):
        (built / f"{split}.jsonl").unlink()
    report = audit(built / "train.jsonl")
    assert (report.findings, list(report.counts), report.exit_code) == ([], ["train"], 0)
    (built / "pictures" / "a.png").unlink()
    assert found(built / "train.jsonl") == [("missing picture", "error")]


def test_only_the_splits_that_there_are_are_needed(built):
    (built / "dev.jsonl").unlink()
    assert found(built) == []
    assert list(audit(built).counts) == ["train", "test"]


@pytest.mark.parametrize(
    ("fields", "kind", "level"),
    [
        ({"entities": (Entity("Ada", "PER", (1, 2), boxes=(Box(0, 0, 8, 7),)),)}, "box outside", "error"),
        ({"entities": (Entity("Ada", "PER", (1, 2), boxes=(Box(-1, 0, 8, 6),)),)}, "box outside", "error"),
        ({"image": "pictures/gone.png"}, "missing picture", "error"),
        ({"image": "pictures/a.png"}, "picture in two splits", "error"),
        ({"tokens": ("Ada",) * 251, "entities": ()}, "long post", "warning"),
        ({"tokens": ("a" * 2001,), "entities": ()}, "long post", "warning"),
        ({"entities": (Entity("Ada", "PER", (1, 2), visible=True),)}, "visible without region", "warning"),
        ({"tokens": (), "entities": ()}, "empty post", "warning"),
        ({"tokens": ("worda", "Ada")}, "text in two splits", "warning"),
    ],
)
def test_a_sample_that_is_wrong(built, fields, kind, level):
    write_records(built / "dev.jsonl", [sample("c"), sample("e", **{"image": "", **fields})])
    report = audit(built)
    assert [(finding.kind, finding.level) for finding in report.findings] == [(kind, level)]
    assert report.findings[0].place == f"{built / 'dev.jsonl'}:2"
    assert "e" in report.findings[0].message


def test_a_picture_of_another_size_than_recorded(built):
    write_records(built / "dev.jsonl", [sample("c", size=(6, 8), entities=())])
    (finding,) = audit(built).findings
    assert (finding.kind, finding.level, finding.place) == ("size differs", "error", f"{built / 'dev.jsonl'}:1")


def test_a_picture_too_thin_for_a_model(built):
    picture(built / "pictures" / "c.png", (4000, 3))
    write_records(built / "dev.jsonl", [sample("c", size=(4000, 3), entities=())])
    assert found(built) == [("too thin picture", "error")]


def test_regions_are_held_to_the_picture_where_no_size_is_on_record(built):
    entity = Entity("Ada", "PER", (1, 2), visible=True, boxes=(Box(0, 0, 9, 2),), masks=(Mask((8, 6), "4<P1"),))
    write_records(built / "dev.jsonl", [sample("c", size=None, entities=(entity,))])
    assert found(built) == [("box outside", "error"), ("mask of another size", "error")]
    inside = replace(entity, boxes=(Box(0, 0, 8, 2),), masks=())
    write_records(built / "dev.jsonl", [sample("c", size=None, entities=(inside,))])
    assert found(built) == []


def test_an_empty_split(built):
    (built / "train.jsonl").write_text("\n")
    report = audit(built)
    assert [(finding.kind, finding.place) for finding in report.findings] == [
        ("empty split", str(built / "train.jsonl"))
    ]
    assert report.exit_code == 1


def test_boxes_in_shares_of_the_picture(built):
    entity = Entity("Ada", "PER", (1, 2), visible=True, boxes=(Box(0.1, 0.1, 0.4, 0.7),))
    write_records(built / "dev.jsonl", [sample("c", entities=(entity,))])
    assert found(built) == [("boxes in shares", "error")]


def test_what_is_no_regular_file_is_an_unreadable_picture_at_once(built):
    (built / "pictures" / "c.png").unlink()
    os.mkfifo(built / "pictures" / "c.png")
    assert found(built) == [("unreadable picture", "error")]
    write_records(built / "dev.jsonl", [sample("c", image="f" * 10_000)])
    assert found(built) == [("unreadable picture", "error")]


def test_text_twice_in_a_split(built):
    write_records(built / "dev.jsonl", [sample("c"), sample("e", tokens=sample("c").tokens, image="")])
    assert found(built) == [("text twice", "warning")]


def test_post_in_two_splits_is_said_once(built):
    shutil.copy(built / "dev.jsonl", built / "test.jsonl")
    kinds = found(built)
    assert kinds.count(("post in two splits", "error")) == 1
    assert audit(built).exit_code == 1


def test_truncated_rotated_and_copied_pictures(built):
    path = built / "pictures" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    picture(built / "pictures" / "b.png", (6, 8), orientation=6)
    shutil.copy(built / "pictures" / "c.png", built / "pictures" / "d.png")
    assert sorted(found(built)) == [
        ("rotated picture", "warning"),
        ("same picture under other name", "warning"),
        ("unreadable picture", "error"),
    ]


def test_neither_dataset_nor_raw_folder(tmp_path):
    with pytest.raises(UserError, match="neither"):
        audit(tmp_path)


@pytest.fixture
def raw(tmp_path) -> Path:
    root = tmp_path / "Twitter10000_v2.0"
    (root / "txt").mkdir(parents=True)
    (root / "xml").mkdir()
    for split, identity in zip(SPLITS, "123", strict=True):
        (root / "txt" / f"{split}.txt").write_text(f"IMGID:{identity}\nhi\tO\nAda{identity}\tB-PER\n\n")
    xml(root, "1", "Ada1", 1, 1, 5, 5)
    return root


def xml(root: Path, identity: str, name: str, *edges: int) -> None:
    sides = "".join(
        f"<{side}>{edge}</{side}>" for side, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    thing = f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
    text = f"<annotation><size><width>8</width><height>6</height></size>{thing}</annotation>"
    (root / "xml" / f"{identity}.xml").write_text(text)


def test_a_good_raw_folder_or_its_parent(raw):
    assert audit(raw).findings == audit(raw.parent).findings == []
    assert audit(raw).counts["train"].visible == 1


@pytest.mark.parametrize(
    ("name", "edges", "kind"),
    [
        ("Bob", (1, 1, 2, 2), "unmatched name"),
        ("Ada2", (0, 0, 0, 0), "placeholder box"),
        ("Ada2", (3, 3, 3, 4), "box without area"),
        ("Ada2", (3, 3, 9, 4), "box outside"),
    ],
)
def test_boxes_that_the_builder_would_mend_are_errors(raw, name, edges, kind):
    xml(raw, "2", name, *edges)
    (finding,) = audit(raw).findings
    assert (finding.kind, finding.level, finding.place) == (kind, "error", f"{raw}/xml/2.xml")


def test_text_that_the_builder_would_mend_or_refuse(raw):
    path = raw / "txt" / "dev.txt"
    path.write_text("IMGID:2\nAda\tI-PER\n\n")
    assert found(raw) == [("orphan tag", "error")]
    path.write_text("IMGID:2\nAda\tB-\n\n")
    assert found(raw) == [("unreadable file", "error")]
    (raw / "xml" / "2.xml").write_text("<")
    assert found(raw) == [("unreadable file", "error")] * 2
    shutil.copy(raw / "txt" / "test.txt", path)
    (raw / "xml" / "2.xml").unlink()
    assert found(raw) == [("post in two splits", "error"), ("text in two splits", "warning")]


def test_a_dataset_and_its_source_together(built, raw):
    xml(raw, "2", "Bob", 1, 1, 2, 2)
    (built / "test.jsonl").unlink()
    report = audit(built, raw)
    assert [finding.kind for finding in report.findings] == ["unmatched name"]
    assert list(report.counts) == ["train", "dev"]


def test_a_report_shows_figures_and_counts_what_it_does_not_show():
    findings = [Finding("orphan tag", f"a.txt:{n}", "x") for n in range(30)] + [
        Finding("bad line", "b:1", "y", "error")
    ]
    report = DatasetReport({"train": count_split([sample("a"), sample("b", size=(80, 60))])}, findings)
    text = format_report(report)
    lines = text.splitlines()
    assert [line.split() for line in lines[:3]] == [["train"], ["posts", "2"], ["entities", "2"]]
    assert ["largest", "picture", "80", "x", "60"] in [line.split() for line in lines]
    assert lines.index("error: bad line: 1") < lines.index("warning: orphan tag: 30")
    assert lines[-1] == "  and 27 more; --all shows them"
    assert lines[-2] == "  a.txt:2: x"
    assert format_report(report, 20).splitlines()[-2] == "  a.txt:19: x"


def test_types_of_ones_own_are_counted_and_one_that_comes_once_among_thousands_is_told(built):
    entities = tuple(Entity("Ada", "PRODUCT", (place, place + 1)) for place in range(999))
    of_all = [sample("e", image="", tokens=("Ada",) * 200, entities=entities[:200])]
    write_records(built / "train.jsonl", of_all)
    report = audit(built)
    assert report.counts["train"].types == {"PRODUCT": 200}
    assert "rare type" not in [finding.kind for finding in report.findings]
    posts = [sample(f"e{number}", image="", tokens=(f"{number}", "Ada"), entities=(Entity("Ada", kind, (1, 2)),))
             for number, kind in enumerate(["PRODUCT"] * 1000 + ["PRODCUT"])]  # fmt: skip
    write_records(built / "train.jsonl", posts)
    (finding,) = [finding for finding in audit(built).findings if finding.kind == "rare type"]
    assert (finding.level, finding.place) == ("warning", str(built / "train.jsonl"))
    assert "'PRODCUT' comes once among 100" in finding.message
