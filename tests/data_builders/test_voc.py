"""Boxes of VOC files, as they stand and made usable."""

import pytest

from data_builders.formats.voc import Annotation, read_annotation, usable_boxes
from rivegs_mllm.types import Box, UserError


def thing(name: str, xmin=1, ymin=2, xmax=3, ymax=4) -> str:
    edges = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name><pose>x</pose><bndbox>{edges}</bndbox></object>"


def file(tmp_path, objects="", size="<size><width>60</width><height>40</height></size>", head=""):
    path = tmp_path / "7.xml"
    path.write_text(f"{head}<annotation>{size}{objects}</annotation>", encoding="utf-8")
    return path


def test_size_and_objects_in_the_order_of_the_file(tmp_path):
    path = file(
        tmp_path, thing("Tom &amp; Jerry") + thing("Żółć 😀", 0, 0, 60, 40) + thing("Tom &amp; Jerry", 5, 6, 7.5, 8.0)
    )
    assert read_annotation(path) == Annotation(
        (60, 40),
        (("Tom & Jerry", Box(1, 2, 3, 4)), ("Żółć 😀", Box(0, 0, 60, 40)), ("Tom & Jerry", Box(5, 6, 7.5, 8))),
    )
    boxes, faults = usable_boxes(read_annotation(path))
    assert boxes == {"Tom & Jerry": (Box(1, 2, 3, 4), Box(5, 6, 7.5, 8)), "Żółć 😀": (Box(0, 0, 60, 40),)}
    assert faults == []


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>9</width></size>"]
)
def test_a_file_without_size(tmp_path, size):
    annotation = read_annotation(file(tmp_path, thing("a", 1, 1, 9999, 9999), size))
    assert annotation.size is None
    assert usable_boxes(annotation) == ({"a": (Box(1, 1, 9999, 9999),)}, [])


@pytest.mark.parametrize(
    ("edges", "kept", "kind"),
    [
        ((0, 0, 0, 0), (), "placeholder box"),
        ((5, 5, 5, 9), (), "box without area"),
        ((9, 5, 5, 9), (), "box without area"),
        ((50, 30, 70, 50), (Box(50, 30, 60, 40),), "box outside"),
        ((-5, -1, 7, 8), (Box(0, 0, 7, 8),), "box outside"),
        ((60, 0, 70, 10), (), "box outside"),
        ((0, 50, 10, 60), (), "box outside"),
    ],
)
def test_boxes_that_make_no_sense_are_mended_or_left_out_and_listed(tmp_path, edges, kept, kind):
    boxes, faults = usable_boxes(read_annotation(file(tmp_path, thing("a", *edges) + thing("b"))))
    assert boxes == ({"a": kept} if kept else {}) | {"b": (Box(1, 2, 3, 4),)}
    assert [fault.kind for fault in faults] == [kind]
    assert "'a'" in faults[0].message


def test_a_box_twice_is_kept_once_and_listed(tmp_path):
    boxes, faults = usable_boxes(read_annotation(file(tmp_path, thing("a") * 2 + thing("b"))))
    assert {name: len(own) for name, own in boxes.items()} == {"a": 1, "b": 1}
    assert [fault.kind for fault in faults] == ["repeated box"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<annotation>",
        "no xml",
        "<annotation><object><name>a</name></object></annotation>",
        f"<annotation>{thing('a', xmin='left')}</annotation>",
        f"<annotation>{thing('a', xmax='nan')}</annotation>",
        f"<annotation>{thing('a', xmax='')}</annotation>",
        "<annotation><size><width>wide</width><height>1</height></size></annotation>",
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "7.xml").write_text(content)
    with pytest.raises(UserError, match=r"7\.xml"):
        read_annotation(tmp_path / "7.xml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.xml"):
        read_annotation(tmp_path / "gone.xml")


def test_entities_are_not_expanded(tmp_path):
    (tmp_path / "secret").write_text("secret")
    external = f'<!DOCTYPE a [<!ENTITY e SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12))
    for head in (external, f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}<!ENTITY e "&l12;">]>'):
        with pytest.raises(UserError, match=r"7\.xml"):
            read_annotation(file(tmp_path, thing("&e;"), head=head))
