"""Each format from a small file as its tool writes it."""

import os
from pathlib import Path

import pytest
from importing_files import imported, json_file, kinds, picture

from data_builders.importing.readers.tables.files import read_table
from data_builders.twitter_gmner import build_twitter_gmner
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import SPLITS, read_split
from rivegs_mllm.data.masks import decode
from rivegs_mllm.types import Box, Entity, UserError

TEXT = "RT @fan: Ada Lovelace beats Nike 😀 in #ParisOpen!"
ADA = Entity("Ada Lovelace", "athlete", (4, 6), visible=True, boxes=(Box(10, 5, 50, 35),))
NIKE = Entity("Nike", "brand", (7, 8), visible=False)
PARIS = Entity("Paris", "place", (11, 12), visible=False)
TOKENS = ("RT", "@", "fan", ":", "Ada", "Lovelace", "beats", "Nike", "😀", "in", "#", "Paris", "Open", "!")


@pytest.fixture
def pictures(tmp_path):
    return picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent


def check(samples, done):
    (sample,) = samples
    assert sample.tokens == TOKENS
    assert sample.size == (80, 60)
    assert sample.image.endswith("p1.jpg")
    assert sample.entities == (ADA, NIKE, PARIS)
    assert done.report.errors == []


CSV = f'''\
tweet_id,tweet,photo,mention,start,type,end,xmin,ymin,xmax,ymax
7,"{TEXT}",p1.jpg,Ada Lovelace,9,athlete,21,10,5,50,35
7,"{TEXT}",p1.jpg,Nike,,brand,,,,,
7,"{TEXT}",p1.jpg,,39,place,44,,,,
'''


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(tmp_path, pictures, separator):
    path = tmp_path / "posts.csv"
    text = CSV if separator == "," else CSV.replace(",", separator)
    path.write_text(text.replace("\n", "\r\n"), newline="", encoding="utf-8-sig")
    samples, done = imported("csv", path, tmp_path / "out", images=[pictures], boxes="xyxy")
    check(samples, done)
    assert samples[0].id == "7"
    assert kinds(done) == ["token split"]
    assert read_info(tmp_path / "out").types == {"athlete": "", "brand": "", "place": ""}


def test_a_table_as_a_spreadsheet_writes_it(tmp_path, pictures):
    """With decimal commas, the separator in the first line, and rows of empty cells below the table."""
    header = "Nr.;Beitrag;Bild;Wort;Art;links;oben;Breite;Höhe;Notiz"
    rows = [
        "7;Ada wears Nike;p1.jpg;Ada;athlete;10,5;5,0;40,0;30,0;gut",
        "7;Ada wears Nike;p1.jpg;Nike;brand;;;;;",
        ";" * 9,
        ";; ;;;;;;;",
    ]
    path = tmp_path / "posts.csv"
    path.write_text("\r\n".join(["sep=;", header, *rows, ""]), newline="", encoding="utf-8-sig")
    fields = {"id": "Nr.", "text": "Beitrag", "image": "Bild", "mention": "Wort", "type": "Art"}
    sides = {"x": "links", "y": "oben", "w": "Breite", "h": "Höhe"}
    columns = {**fields, **sides}
    ((sample,), done) = imported("csv", path, tmp_path / "out", images=[pictures], columns=columns, boxes="xywh")
    assert [own.boxes for own in sample.entities] == [(Box(10.5, 5, 50.5, 35),), ()]
    assert done.report.findings == []
    assert "not read: 'Notiz'" in read_table(path, columns).notes[0]
    with pytest.raises(UserError, match=r"--columns: x, y: a box has four columns: xmin, ymin, xmax, ymax; "):
        read_table(path, {**fields, "x": "links", "y": "oben"})
    path.write_text(path.read_text(encoding="utf-8-sig").replace("10,5", "ten"), newline="", encoding="utf-8-sig")
    with pytest.raises(UserError, match=r"posts\.csv:3: links, oben, Breite, Höhe: \['ten', .* is not 4 numbers"):
        read_table(path, columns)


@pytest.mark.parametrize(
    ("yes", "no"), [("WAHR", "FALSCH"), ("vrai", "FAUX"), ("Sí", "no"), ("1.0", "0"), (True, False)]
)
def test_truth_in_a_spreadsheet_of_another_language(tmp_path, yes, no):
    path = tmp_path / "posts.csv"
    path.write_text(f"text,mention,type,visible\nAda won,Ada,x,{yes}\nBo won,Bo,x,{no}\nCy won,Cy,x,undecided\n")
    samples, _ = imported("csv", path, tmp_path / "out")
    assert [own.entities[0].visible for own in samples] == [True, False, None]
    path.write_text("text,mention,type,visible\nAda won,Ada,x,perhaps\n")
    with pytest.raises(UserError, match=r"posts\.csv:2: visible: 'perhaps' is neither true nor false, nor undecided"):
        imported("csv", path, tmp_path / "out")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-be"])
def test_a_table_in_the_encodings_of_spreadsheets(tmp_path, encoding):
    """Excel's Unicode text is UTF-16 with tabs."""
    path = tmp_path / "posts.csv"
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_text(f"{mark}text\tmention\ttype\nGrüße von Käthe 😀\tKäthe\tx\n", encoding=encoding)
    samples, _ = imported("csv", path, tmp_path / "out")
    assert samples[0].tokens == ("Grüße", "von", "Käthe", "😀")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("cp1252", r"posts\.csv: not UTF-8 at byte 7; save it as UTF-8 \(if it is CP1252: iconv -f CP1252 -t UTF-8 "),
        ("utf-16-le", r"posts\.csv: UTF-16 without its mark; save it as UTF-8 \(if it is UTF-16LE: iconv -f UTF-16LE "),
    ],
)
def test_an_encoding_that_cannot_be_told(tmp_path, encoding, message):
    path = tmp_path / "posts.csv"
    path.write_text("text\nGrüße von Käthe\n", encoding=encoding)
    with pytest.raises(UserError, match=message):
        imported("csv", path, tmp_path / "out")


def test_coco(tmp_path, pictures):
    content = {
        "images": [{"id": 3, "file_name": "p1.jpg", "width": 80, "height": 60, "caption": TEXT}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 5, "bbox": [10, 5, 40, 30], "area": 1200, "iscrowd": 0,
             "attributes": {"mention": "Ada Lovelace"}},
        ],
        "categories": [{"id": 5, "name": "athlete", "supercategory": "person"}],
    }  # fmt: skip
    samples, done = imported("coco", json_file(tmp_path / "a.json", content), tmp_path / "out", images=[pictures])
    assert samples[0].entities == (ADA,)
    assert kinds(done) == []


def test_the_key_of_the_text_is_said(tmp_path, pictures):
    image = {"id": 1, "file_name": "p1.jpg", "width": 80, "height": 60, "says": "Ada won", "text": "not this"}
    own = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "mention": "Ada"}
    content = {"images": [image], "annotations": [own], "categories": [{"id": 1, "name": "x"}]}
    path = json_file(tmp_path / "a.json", content)
    samples, _ = imported("coco", path, tmp_path / "out", images=[pictures], columns={"text": "says"})
    assert samples[0].text == "Ada won"
    path = json_file(tmp_path / "b.json", [{"says": "Ada won", "label": [[0, 3, "x"]]}])
    samples, _ = imported("doccano", path, tmp_path / "out", columns={"text": "says"})
    assert samples[0].entities[0].text == "Ada"
    with pytest.raises(UserError, match=r"item 0: text: None is not the text; --columns"):
        imported("doccano", path, tmp_path / "out")


def test_coco_polygons_and_run_lengths(tmp_path, pictures):
    rows = {"image_id": 3, "category_id": 5, "iscrowd": 0, "tokens_positive": [[9, 12], [13, 21]]}
    square = [20, 10, 40, 10, 40, 30, 20, 30]
    counts = [60 * 20, 30, 60 * 59 + 30]
    content = {
        "images": [{"id": 3, "file_name": "p1.jpg", "width": 80, "height": 60, "caption": TEXT}],
        "annotations": [
            {"id": 1, **rows, "bbox": [20, 10, 20, 20], "segmentation": [square]},
            {"id": 2, **rows, "segmentation": {"size": [60, 80], "counts": counts}},
        ],
        "categories": [{"id": 5, "name": "athlete"}],
    }
    samples, _ = imported("coco", json_file(tmp_path / "a.json", content), tmp_path / "out", images=[pictures])
    (entity,) = samples[0].entities
    assert entity.boxes == (Box(20, 10, 40, 30), Box(20, 0, 21, 30))
    assert [int(decode(mask).sum()) for mask in entity.masks] == [400, 30]
    assert decode(entity.masks[0])[10:30, 20:40].all()


def label_studio(**extra):
    """A task as Label Studio exports it, its offsets those of JavaScript, which counts the emoji as two."""
    size = {"original_width": 80, "original_height": 60, "image_rotation": 0}
    box = {"x": 12.5, "y": 8.333333333333334, "width": 50, "height": 50, "rotation": 0}
    spans = [("a", 9, 21, "Ada Lovelace", "athlete"), ("b", 28, 32, "Nike", "brand"), ("c", 40, 45, "Paris", "place")]
    results = [
        {"id": key, "type": "labels", "from_name": "label", "to_name": "text", "origin": "manual",
         "value": {"start": start, "end": end, "text": text, "labels": [kind]}}
        for key, start, end, text, kind in spans
    ]  # fmt: skip
    results.append(
        {"id": "r", "type": "rectanglelabels", "from_name": "box", "to_name": "image", "origin": "manual", **size,
         "value": {**box, "rectanglelabels": ["athlete"]}}
    )  # fmt: skip
    data = {"text": TEXT, "image": "/data/upload/1/0a1b2c3d-p1.jpg"}
    annotation = {"id": 1001, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": results}
    return {"id": 12, "data": data, "annotations": [{**annotation, **extra}], "predictions": []}


def test_label_studio(tmp_path, pictures):
    task = label_studio()
    task["annotations"][0]["result"].append({"from_id": "a", "to_id": "r", "type": "relation", "direction": "right"})
    task["annotations"].append({"id": 1002, "was_cancelled": True, "result": []})
    samples, done = imported(
        "label-studio", json_file(tmp_path / "a.json", [task]), tmp_path / "out", images=[pictures]
    )
    assert samples[0].entities[0].boxes[0].ymax == pytest.approx(35)
    assert [(own.text, own.visible) for own in samples[0].entities] == [
        ("Ada Lovelace", True),
        ("Nike", False),
        ("Paris", False),
    ]
    assert samples[0].tokens == TOKENS
    assert kinds(done) == ["cancelled annotation", "token split"]
    assert done.tally.ways == {"link": 1}


def test_a_span_with_two_labels_is_two_mentions(tmp_path, pictures):
    task = label_studio()
    result = task["annotations"][0]["result"]
    result[0]["value"]["labels"].append("brand ambassador")
    result.append({"from_id": "a", "to_id": "r", "type": "relation", "direction": "right"})
    path = json_file(tmp_path / "a.json", [task])
    samples, _ = imported("label-studio", path, tmp_path / "out", images=[pictures])
    first, second = samples[0].entities[:2]
    assert (first.text, first.span, first.boxes) == (second.text, second.span, second.boxes)
    assert {first.type, second.type} == {"athlete", "brand ambassador"}


def test_label_studio_without_relations(tmp_path, pictures):
    samples, done = imported(
        "label-studio", json_file(tmp_path / "a.json", [label_studio()]), tmp_path / "out", images=[pictures]
    )
    assert samples[0].entities[0].visible
    assert done.tally.ways == {"type": 1}


def test_label_studio_json_min(tmp_path, pictures):
    full = label_studio()
    values = {"label": [], "box": []}
    for own in full["annotations"][0]["result"]:
        sizes = {key: own[key] for key in ("original_width", "original_height") if key in own}
        values[own["from_name"]].append({**own["value"], **sizes})
    task = {"id": 12, **full["data"], **values, "annotator": 1, "annotation_id": 1001, "lead_time": 3.5}
    samples, _ = imported("label-studio", json_file(tmp_path / "a.json", [task]), tmp_path / "out", images=[pictures])
    assert [own.text for own in samples[0].entities if own.boxes] == ["Ada Lovelace"]


def test_tasks_that_nobody_has_annotated_are_no_posts_without_entities(tmp_path, pictures):
    done_task = label_studio()
    skipped = label_studio(was_cancelled=True)
    empty = {**done_task, "annotations": [{"id": 1, "result": []}]}
    bare = {**done_task, "annotations": []}
    path = json_file(tmp_path / "a.json", [done_task, bare, skipped, empty])
    samples, done = imported("label-studio", path, tmp_path / "out", images=[pictures], without_images=True)
    assert [len(sample.entities) for sample in samples] == [3, 0]
    assert kinds(done).count("not annotated") == 2
    path = json_file(tmp_path / "a.json", [bare, bare])  # yet to be predicted
    samples, done = imported("label-studio", path, tmp_path / "out", images=[pictures], without_images=True)
    assert len(samples) == 2
    assert "not annotated" not in kinds(done)


def test_a_text_that_is_called_post_is_not_the_id(tmp_path, pictures):
    task = label_studio()
    task["data"]["post"] = task["data"].pop("text")
    (sample,), _ = imported("label-studio", json_file(tmp_path / "a.json", [task]), tmp_path / "out", images=[pictures])
    assert sample.id == "12"
    assert sample.tokens == TOKENS


@pytest.mark.parametrize(("turn", "edges"), [(0, (40, 40, 80, 60)), (90, (50, 30, 70, 70))])
def test_an_ellipse_is_the_box_around_it(tmp_path, turn, edges):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (200, 100)).parent
    task = label_studio()
    own = task["annotations"][0]["result"][-1]
    value = {"x": 30, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": turn, "ellipselabels": ["athlete"]}
    own.update(original_width=200, original_height=100, type="ellipselabels", value=value)
    samples, _ = imported("label-studio", json_file(tmp_path / "a.json", [task]), tmp_path / "out", images=[pictures])
    (box,) = samples[0].entities[0].boxes
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx(edges)


def test_a_rectangle_that_is_turned(tmp_path):
    """By a quarter about its upper left corner: what was its right edge is now below, what was below is to the left."""
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (200, 100)).parent
    task = label_studio()
    own = task["annotations"][0]["result"][-1]
    own.update(original_width=200, original_height=100)
    own["value"].update(x=50, y=10, width=20, height=30, rotation=90)
    samples, _ = imported("label-studio", json_file(tmp_path / "a.json", [task]), tmp_path / "out", images=[pictures])
    (box,) = samples[0].entities[0].boxes
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx((70, 10, 100, 50))


@pytest.mark.parametrize(
    ("lines", "entities"),
    [
        (["Ada\tB-athlete", "won\tO"], [("Ada", "athlete")]),
        (["Ada NNP B-NP B-athlete", "Lovelace NNP I-NP I-athlete", "won VB O O"], [("Ada Lovelace", "athlete")]),
        (["Ada,S-athlete", "Nike,B-brand", "Air,E-brand"], [("Ada", "athlete"), ("Nike Air", "brand")]),
        (["Ada I-athlete", "Lovelace I-athlete", "Bo B-athlete"], [("Ada Lovelace", "athlete"), ("Bo", "athlete")]),
        (["Ada;U-Sports person", "x;O"], [("Ada", "Sports person")]),
    ],
)
def test_conll_of_any_separator_and_scheme(tmp_path, lines, entities):
    path = tmp_path / "train.txt"
    path.write_text("\n".join(["-DOCSTART- -X- O O", "", *lines, "", "", lines[0], ""]))
    samples, done = imported("conll", path, tmp_path / "out")
    assert [(own.text, own.type) for own in samples[-2].entities] == entities
    assert len(samples) == 2
    assert kinds(done) == []


def test_conll_with_ids_and_boxes_from_voc(tmp_path, pictures):
    path = tmp_path / "train.txt"
    tagged = dict.fromkeys(TOKENS, "O") | {"Ada": "B-athlete", "Lovelace": "I-athlete", "Nike": "B-brand"}
    tagged["Paris"] = "B-place"
    path.write_text("IMGID:p1\n" + "".join(f"{token}\t{tag}\n" for token, tag in tagged.items()))
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "p1.xml").write_text(
        "<annotation><size><width>80</width><height>60</height></size><object><name>Ada Lovelace</name><bndbox>"
        "<xmin>10</xmin><ymin>5</ymin><xmax>50</xmax><ymax>35</ymax></bndbox></object></annotation>"
    )
    samples, done = imported("conll", path, tmp_path / "out", images=[pictures], regions=tmp_path / "xml")
    check(samples, done)
    assert samples[0].id == "p1"
    assert done.tally.ways == {"text": 1}


def test_texts_with_boxes_of_coco(tmp_path, pictures):
    """Types alone: the only athlete, and of two brands as many boxes in their order."""
    path = tmp_path / "posts.csv"
    entities = "[[0,3,'athlete'],[10,14,'brand'],[18,22,'brand']]"
    path.write_text(f'text,image,entities\nAda wears Nike or Puma,p1.jpg,"{entities}"\n')
    names = ("athlete", "brand", "event")
    boxes = [(1, [0, 0, 10, 10]), (2, [20, 0, 10, 10]), (2, [40, 0, 10, 10]), (3, [0, 30, 10, 10]), (1, [0, 40, 9, 9])]
    content = {
        "images": [{"id": 1, "file_name": "some/where/p1.jpg", "width": 80, "height": 60}],
        "annotations": [{"id": n, "image_id": 1, "category_id": c, "bbox": b} for n, (c, b) in enumerate(boxes)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    regions = json_file(tmp_path / "boxes.json", content)
    samples, done = imported("csv", path, tmp_path / "out", images=[pictures], regions=regions)
    assert [[box.xmin for box in own.boxes] for own in samples[0].entities] == [[0, 0], [20], [40]]
    assert done.tally.ways == {"type": 2, "order": 2}
    assert kinds(done) == ["region without mention"]
    with pytest.raises(UserError, match=r"no post has a text.*rivegs import csv .* --regions"):
        imported("coco", regions, tmp_path / "out", images=[pictures])


PUBLISHED = Path(os.environ.get("RIVEGS_DATA", "/nowhere")) / "twitter_gmner" / "Twitter10000_v2.0"


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="RIVEGS_DATA has no Twitter10000_v2.0")
def test_the_published_set_is_imported_as_it_is_built(tmp_path):
    """CoNLL with VOC's boxes beside it, by the readers of everybody's files and by the set's own builder."""
    build_twitter_gmner(PUBLISHED, [], tmp_path / "built", without_images=True)
    request = {"regions": PUBLISHED / "xml", "without_images": True, "split": ""}
    imported("conll", PUBLISHED / "txt", tmp_path / "imported", **request)
    for split in SPLITS:
        built = read_split(tmp_path / "built", split)
        assert read_split(tmp_path / "imported", split) == built


def test_a_label_in_capitals_goes_to_the_mention_in_capitals(tmp_path, pictures):
    path = tmp_path / "posts.csv"
    path.write_text('text,image,entities\nNIKE is Nike,p1.jpg,"[[0,4,""brand""],[8,12,""brand""]]"\n')
    content = {
        "images": [{"id": 1, "file_name": "p1.jpg", "width": 80, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "NIKE"}],
    }
    regions = json_file(tmp_path / "boxes.json", content)
    samples, _ = imported("csv", path, tmp_path / "out", images=[pictures], regions=regions)
    assert [bool(own.boxes) for own in samples[0].entities] == [True, False]
    content["categories"][0]["name"] = "nike"
    regions = json_file(tmp_path / "boxes.json", content)
    samples, _ = imported("csv", path, tmp_path / "out", images=[pictures], regions=regions)
    assert [bool(own.boxes) for own in samples[0].entities] == [True, True]


def test_ids_of_posts_without_words_and_without_blank_lines_are_kept(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text(
        "IMGID:1\nIMGID:2\nAda\tB-athlete\nIMGID:3\nwins\tO\n\n# lang = de\nIMGID:4\n# id = own\nNike\tB-brand\n"
    )
    samples, _ = imported("conll", path, tmp_path / "out", without_images=True)
    assert [(own.id, own.tokens) for own in samples] == [
        ("1", ()),
        ("2", ("Ada",)),
        ("3", ("wins",)),
        ("own", ("Nike",)),
    ]
