"""The formats of texts and spans, of conversations, of `datasets`, and of regions alone."""

import base64
import io
import zlib

import datasets
import numpy as np
import pytest
from importing_files import imported, json_file, kinds, picture
from PIL import Image

from rivegs_mllm.data.masks import decode
from rivegs_mllm.types import Box, UserError

TEXT = "Ada Lovelace beats Nike 😀 in #ParisOpen!"
SPANS = [(0, 12, "athlete"), (19, 23, "brand"), (30, 35, "place")]
FOUND = [("Ada Lovelace", "athlete"), ("Nike", "brand"), ("Paris", "place")]


def named(samples):
    return [(own.text, own.type) for sample in samples for own in sample.entities]


@pytest.fixture
def pictures(tmp_path):
    return picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("spacy", [TEXT, {"entities": SPANS}]),
        ("spacy", {"text": TEXT, "ents": [{"start": a, "end": b, "label": c} for a, b, c in SPANS], "tokens": []}),
        ("spacy", {"text": TEXT, "spans": [{"start": a, "end": b, "token_start": 0, "token_end": 1, "label": c}
                                           for a, b, c in SPANS], "answer": "accept", "meta": {"image": "p1.jpg"}}),
        ("doccano", {"id": 7, "text": TEXT, "label": SPANS, "Comments": []}),
        ("doccano", {"id": 7, "text": TEXT, "entities": [{"id": n, "label": c, "start_offset": a, "end_offset": b}
                                                        for n, (a, b, c) in enumerate(SPANS)], "relations": []}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_spans_of_characters(tmp_path, pictures, name, item, ending):
    path = json_file(tmp_path / f"all.{ending}", item if ending == "jsonl" else [item])
    samples, done = imported(name, path, tmp_path / "out", images=[pictures])
    assert named(samples) == FOUND
    assert kinds(done) == ["token split"]
    if name == "doccano":
        assert samples[0].id == "7"
    assert bool(samples[0].image) == ("meta" in item)


def test_what_prodigy_rejected_and_doccano_relates_is_listed(tmp_path):
    path = tmp_path / "all.jsonl"
    json_file(path, {"text": TEXT, "spans": [{"start": 0, "end": 12, "label": "x"}], "answer": "reject"})
    samples, done = imported("spacy", path, tmp_path / "out")
    assert named(samples) == []
    assert kinds(done) == ["rejected"]


def test_offsets_of_another_unit_and_offsets_that_are_off(tmp_path):
    """Of JavaScript behind an emoji; by a word too far; and of a mention that is nowhere."""
    text = "😀😀 Ada meets Bob and Bob"
    spans = [(5, 8, "Ada"), (13, 16, "Bob"), (0, 3, "Eve"), (20, 23, "Bob")]
    item = {"text": text, "spans": [{"start": a, "end": b, "text": c, "label": "x"} for a, b, c in spans]}
    samples, done = imported("spacy", json_file(tmp_path / "a.json", [item]), tmp_path / "out")
    assert [own.span for own in samples[0].entities] == [(2, 3), (4, 5), (6, 7)]
    assert sorted(kinds(done)) == ["mention moved", "mention not found", "offsets in UTF-16"]


def test_brat(tmp_path, pictures):
    (tmp_path / "raw" / "train").mkdir(parents=True)
    (tmp_path / "raw" / "train" / "p1.txt").write_text(TEXT)
    lines = [f"T{n}\t{kind} {start} {end}\t{TEXT[start:end]}" for n, (start, end, kind) in enumerate(SPANS, 1)]
    lines += [
        "T9\tpair 0 3;19 23\tAda Nike",
        "A1\tVisible T1",
        "R1\tBeats Arg1:T1 Arg2:T2",
        "#1\tAnnotatorNotes T1\tsure",
    ]
    (tmp_path / "raw" / "train" / "p1.ann").write_text("\n".join(lines) + "\n")
    samples, done = imported("brat", tmp_path / "raw", tmp_path / "out", images=[pictures], split="")
    assert named(samples) == [FOUND[0], ("Ada Lovelace beats Nike", "pair"), *FOUND[1:]]
    assert [own.visible for own in samples[0].entities] == [True, None, None, None]
    assert samples[0].image
    assert sorted(kinds(done)) == ["annotation of another kind"] * 2 + ["mention in parts", "token split"]
    (tmp_path / "raw" / "train" / "p1.ann").write_text("T1 athlete 0 3 Ada\n")
    with pytest.raises(UserError, match=r"p1\.ann:1: 'T1 athlete"):
        imported("brat", tmp_path / "raw", tmp_path / "out")


def test_gliner(tmp_path):
    item = {"tokenized_text": ["Ada", "Lovelace", "beats", "Nike"], "ner": [[0, 1, "athlete"], [3, 3, "big brand"]]}
    samples, _ = imported("gliner", json_file(tmp_path / "a.json", [item]), tmp_path / "out")
    assert named(samples) == [("Ada Lovelace", "athlete"), ("Nike", "big brand")]
    item["ner"].append([3, 4, "x"])
    with pytest.raises(UserError, match=r"item 0: ner\[2\]: \[3, 4, 'x'\] does not lie within the 4 tokens"):
        imported("gliner", json_file(tmp_path / "a.json", [item]), tmp_path / "out")


ANSWERS = {
    "Qwen2.5-VL": '```json\n[{"bbox_2d": [40, 20, 79, 59], "label": "Ada Lovelace", "type": "athlete"}, '
    '{"label": "Nike", "type": "brand"}]\n```',
    "Qwen2-VL": "<|object_ref_start|>Ada Lovelace (athlete)<|object_ref_end|><|box_start|>(500,333.3333),(987.5,"
    "983.3333)<|box_end|> <|object_ref_start|>Nike (brand)<|object_ref_end|>",
    "Qwen-VL": "<ref>Ada Lovelace (athlete)</ref><box>(500,333.3333),(987.5,983.3333)</box><ref>Nike (brand)</ref>",
}


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("keys", [("messages", "role", "content", "user", "assistant"),
                                  ("conversations", "from", "value", "human", "gpt")])  # fmt: skip
def test_sharegpt(tmp_path, pictures, kind, keys):
    turns, who, what, user, assistant = keys
    items = [
        {turns: [{who: user, what: f"<image>Find the entities.\nPost: {text}"}, {who: assistant, what: answer}],
         "images": ["some/p1.jpg"]}
        for text, answer in ((TEXT, ANSWERS[kind]), ("Nothing here", "[]"))
    ]  # fmt: skip
    boxes = "xyxy" if kind == "Qwen2.5-VL" else ""
    path = json_file(tmp_path / "a.json", items)
    samples, done = imported("sharegpt", path, tmp_path / "out", images=[pictures], boxes=boxes)
    assert named(samples) == FOUND[:2]
    (box,) = samples[0].entities[0].boxes
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx((40, 20, 79, 59), abs=0.01)
    assert samples[1].tokens == ("Nothing", "here")
    assert kinds(done) == ["repeated id"] * 0


def test_ms_swift_objects(tmp_path, pictures):
    item = {
        "messages": [{"role": "user", "content": f"<image>{TEXT}"},
                     {"role": "assistant", "content": "<ref-object><bbox> and <ref-object><bbox>"}],
        "images": ["p1.jpg"],
        "objects": {"ref": ["Ada Lovelace", "Ada Lovelace"], "bbox": [[10, 5, 50, 35], [0, 0, 9, 9]]},
    }  # fmt: skip
    samples, _ = imported("sharegpt", json_file(tmp_path / "a.json", [item]), tmp_path / "out", images=[pictures])
    assert samples[0].entities[0].boxes == (Box(10, 5, 50, 35), Box(0, 0, 9, 9))
    assert named(samples) == [("Ada Lovelace", "ENTITY")]
    item["objects"].update(bbox_type="norm1", bbox=[[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1]])
    samples, _ = imported("sharegpt", json_file(tmp_path / "a.json", [item]), tmp_path / "out", images=[pictures])
    assert samples[0].entities[0].boxes == (Box(0, 0, 40, 30), Box(20, 15, 80, 60))


def test_a_saved_dataset_with_tags_of_a_class_and_pictures(tmp_path, pictures):
    tags = datasets.ClassLabel(names=["O", "B-athlete", "I-athlete", "B-brand"])
    features = datasets.Features(
        {"id": datasets.Value("int64"), "tokens": datasets.List(datasets.Value("string")),
         "ner_tags": datasets.List(tags), "image": datasets.Image()}
    )  # fmt: skip
    row = {"id": 5, "tokens": ["Ada", "Lovelace", "beats", "Nike"], "ner_tags": [1, 2, 0, 3]}
    rows = [{**row, "image": str(pictures / "p1.jpg")}]
    made = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": made, "validation": made}).save_to_disk(str(tmp_path / "saved"))
    samples, done = imported("datasets", tmp_path / "saved", tmp_path / "out", split="")
    assert named(samples[:1]) == [("Ada Lovelace", "athlete"), ("Nike", "brand")]
    assert list(done.report.counts) == ["train", "dev"]
    assert samples[0].size == (80, 60)
    assert samples[0].image.startswith("images/")
    assert (tmp_path / "out" / samples[0].image).read_bytes() == (pictures / "p1.jpg").read_bytes()
    with pytest.raises(UserError, match="neither a folder nor the name"):
        imported("datasets", tmp_path / "none", tmp_path / "out")


def texts(folder):
    path = folder / "posts.csv"
    path.write_text('text,image,entities\n"Ada wears Nike",p1.jpg,"[[0,3,""athlete""],[10,14,""brand""]]"\n')
    return path


def test_labelme_regions(tmp_path, pictures):
    bitmap = io.BytesIO()
    Image.fromarray(np.full((4, 5), 255, np.uint8)).save(bitmap, "PNG")
    shapes = [
        {"label": "athlete", "points": [[50.5, 35], [10, 5]], "group_id": None, "shape_type": "rectangle", "flags": {}},
        {"label": "Nike", "points": [[0, 0], [20, 0], [20, 10], [0, 10]], "group_id": None, "shape_type": "polygon"},
        {"label": "Nike", "points": [[60, 40], [64, 43]], "mask": base64.b64encode(bitmap.getvalue()).decode(),
         "group_id": None, "shape_type": "mask"},
    ]  # fmt: skip
    (tmp_path / "labels").mkdir()
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": "p1.jpg", "imageData": None}
    json_file(tmp_path / "labels" / "p1.json", {**content, "imageHeight": 60, "imageWidth": 80})
    samples, _ = imported("csv", texts(tmp_path), tmp_path / "out", images=[pictures], regions=tmp_path / "labels")
    ada, nike = samples[0].entities
    assert (ada.boxes, ada.masks) == ((Box(10, 5, 50.5, 35),), ())
    assert nike.boxes == (Box(0, 0, 20, 10), Box(60, 40, 65, 44))
    assert [int(decode(mask).sum()) for mask in nike.masks] == [200, 20]


def test_labelme_with_a_text_of_its_own(tmp_path, pictures):
    shape = {"label": "Ada", "points": [[10, 5], [50, 35]], "group_id": None, "shape_type": "rectangle"}
    content = {"shapes": [shape], "imagePath": "p1.jpg", "imageHeight": 60, "imageWidth": 80, "text": "Ada wears Nike"}
    (tmp_path / "labels").mkdir()
    json_file(tmp_path / "labels" / "p1.json", content)
    samples, done = imported("labelme", tmp_path / "labels", tmp_path / "out", images=[pictures])
    assert samples[0].tokens == ("Ada", "wears", "Nike")
    assert kinds(done) == ["region without mention"]


def test_cvat_regions(tmp_path, pictures):
    path = tmp_path / "annotations.xml"
    path.write_text(
        '<?xml version="1.0"?><annotations><version>1.1</version>'
        '<image id="0" name="set/p1.jpg" width="80" height="60">'
        '<box label="athlete" source="manual" occluded="0" xtl="10.00" ytl="5.00" xbr="50.00" ybr="35.00" z_order="0"/>'
        '<box label="thing" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90">'
        '<attribute name="mention">Nike</attribute></box>'
        '<polygon label="Nike" points="0,0;20,0;20,10;0,10"/>'
        '<ellipse label="brand" cx="40" cy="30" rx="20" ry="10" rotation="90.0"/>'
        '<mask label="brand" rle="3, 2, 1" left="1" top="2" width="3" height="2"/><points label="x" points="1,1"/>'
        "</image></annotations>"
    )
    samples, done = imported("csv", texts(tmp_path), tmp_path / "out", images=[pictures], regions=path)
    ada, nike = samples[0].entities
    assert ada.boxes == (Box(10, 5, 50, 35),)
    assert [[round(edge, 6) for edge in (box.xmin, box.ymin, box.xmax, box.ymax)] for box in nike.boxes] == [
        [25, 15, 35, 35],
        [0, 0, 20, 10],
        [30, 10, 50, 50],
        [1, 3, 3, 4],
    ]
    assert np.argwhere(decode(nike.masks[1])).tolist() == [[3, 1], [3, 2]]
    assert kinds(done) == ["unknown shape"]


def test_fiftyone_regions(tmp_path, pictures):
    (tmp_path / "fo").mkdir()
    box = {"label": 0, "bounding_box": [0.125, 0.25, 0.5, 0.5], "confidence": 0.9, "attributes": {"mention": "Ada"}}
    json_file(tmp_path / "fo" / "labels.json", {"classes": ["athlete"], "labels": {"p1": [box]}})
    samples, _ = imported("csv", texts(tmp_path), tmp_path / "out", images=[pictures], regions=tmp_path / "fo")
    assert samples[0].entities[0].boxes == (Box(10, 15, 50, 45),)


def fiftyone_samples(folder, **fields):
    """A FiftyOneDataset of one picture, its lower right quarter a mask."""
    content = io.BytesIO()
    np.save(content, np.array([[False, False], [False, True]]))
    code = base64.b64encode(zlib.compress(content.getvalue())).decode()
    detection = {"_id": {"$oid": "6"}, "_cls": "Detection", "label": "athlete", "bounding_box": [0.125, 0.25, 0.5, 0.5],
                 "attributes": {"mention": {"_cls": "CategoricalAttribute", "value": "Ada"}}, "tags": [],
                 "mask": {"$binary": {"base64": code, "subType": "00"}}}  # fmt: skip
    sample = {
        "_id": {"$oid": "5"},
        "filepath": "data/p1.jpg",
        "tags": ["validation"],
        "metadata": {"_cls": "ImageMetadata", "width": 80, "height": 60},
        "ground_truth": {"_cls": "Detections", "detections": [detection]},
        "predictions": {"_cls": "Detections", "detections": []},
        "lines": {"_cls": "Polylines", "polylines": []},
        **fields,
    }
    folder.mkdir()
    json_file(folder / "metadata.json", {"name": "mine"})
    return json_file(folder / "samples.json", {"samples": [sample]})


def test_fiftyone_datasets_as_regions_and_with_texts(tmp_path, pictures):
    file = fiftyone_samples(tmp_path / "fo")
    samples, done = imported("csv", texts(tmp_path), tmp_path / "out", images=[pictures], regions=file.parent)
    ada = samples[0].entities[0]
    assert ada.boxes == (Box(10, 15, 50, 45),)
    assert np.argwhere(decode(ada.masks[0])).tolist() == [[y, x] for y in range(30, 45) for x in range(30, 50)]
    assert kinds(done) == ["unknown shape"]
    file = fiftyone_samples(tmp_path / "own", caption="Ada wears Nike")
    samples, done = imported("fiftyone", file.parent, tmp_path / "out", images=[pictures], split="")
    assert (named(samples), samples[0].entities[0].boxes) == ([("Ada", "athlete")], (Box(10, 15, 50, 45),))
    assert list(done.report.counts) == ["dev"]


def test_fiftyone_fields_that_leave_it_open_and_masks_that_are_none(tmp_path, pictures):
    again = {"_cls": "Detections", "detections": []}
    file = fiftyone_samples(tmp_path / "two", ground_truth=None, people=again, text="Ada wears Nike")
    with pytest.raises(UserError, match="detections stand in 'predictions', 'people'; say which by --columns boxes="):
        imported("fiftyone", file, tmp_path / "out", images=[pictures])
    imported("fiftyone", file, tmp_path / "out", images=[pictures], columns={"boxes": "people"})
    box = {
        "_cls": "Detection",
        "label": "athlete",
        "bounding_box": [0, 0, 1, 1],
        "mask": {"$binary": {"base64": "AAAA"}},
    }
    file = fiftyone_samples(tmp_path / "odd", ground_truth={**again, "detections": [box]}, text="Ada wears Nike")
    with pytest.raises(UserError, match=r"detections\[0\]: mask: not a mask of FiftyOne"):
        imported("fiftyone", file, tmp_path / "out", images=[pictures])


def test_parquet_with_pictures_in_it(tmp_path, pictures):
    import pyarrow
    from pyarrow import parquet

    content = (pictures / "p1.jpg").read_bytes()
    rows = [{"tweet": "Ada wears Nike", "image": {"bytes": content, "path": "p1.jpg"}, "bbox": [[10, 300, 20, 20]],
             "entities": {"text": ["Ada"], "label": ["athlete"]}, "split": "train"}]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    samples, done = imported("parquet", tmp_path / "a.parquet", tmp_path / "out", boxes="xyxy")
    assert named(samples) == [("Ada", "athlete")]
    assert kinds(done) == ["region without mention"]
    with pytest.raises(UserError, match=r"not Parquet"):
        imported("parquet", json_file(tmp_path / "b.parquet", {}), tmp_path / "out")


def test_types_with_blanks_and_without_are_the_same_to_regions(tmp_path):
    """brat's types cannot have blanks; COCO's categories can."""
    (tmp_path / "brat").mkdir()
    images, annotations = [], []
    for number in range(5):
        picture(tmp_path / "pictures" / f"p{number}.jpg", (80, 60))
        (tmp_path / "brat" / f"p{number}.txt").write_text("„Größe“ von Käthe、江戸にて")
        (tmp_path / "brat" / f"p{number}.ann").write_text("T1\tart_work 1 6\tGröße\nT2\tOrt_für_Künstler 18 20\t江戸\n")
        images.append({"id": number, "file_name": f"p{number}.jpg", "width": 80, "height": 60})
        annotations.append({"id": number, "image_id": number, "category_id": number % 2, "bbox": [10, 5, 40, 30]})
    categories = [{"id": 0, "name": "Art work"}, {"id": 1, "name": "Ort für Künstler"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    given = {"images": [tmp_path / "pictures"], "regions": json_file(tmp_path / "coco.json", content)}
    samples, done = imported("brat", tmp_path / "brat", tmp_path / "out", **given)
    assert done.tally.ways == {"type": 5}
    assert [[own.visible for own in sample.entities] for sample in samples[:2]] == [[True, False], [False, True]]
    assert samples[0].entities[1].text == "江 戸"
    content["categories"] = [{"id": 0, "name": "painting"}, {"id": 1, "name": "town"}]
    given["regions"] = json_file(tmp_path / "other.json", content)
    with pytest.raises(
        UserError, match=r"none of 5 found its mention: they are called 'painting', 'town', and mentions"
    ):
        imported("brat", tmp_path / "brat", tmp_path / "out", **given)


ADA, ROME = {"start": 0, "end": 3, "label": "athlete"}, {"start": 7, "end": 11, "label": "place"}
OFFSETS = [{"label": own["label"], "start_offset": own["start"], "end_offset": own["end"]} for own in (ADA, ROME)]
LISTS = [[0, 3, "athlete"], [7, 11, "place"]]


@pytest.mark.parametrize(
    ("name", "ending", "item"),
    [
        ("gliner", "json", [{"text": "Ada in Rome", "entities": [{**ADA, "text": "Ada", "score": 0.9}, ROME]}]),
        ("gliner", "jsonl", {"input": "Ada in Rome", "output": {"entities": {"athlete": ["Ada"], "place": ["Rome"]}}}),
        ("doccano", "jsonl", {"text": "Ada in Rome", "labels": LISTS}),
        ("doccano", "jsonl", {"text": "Ada in Rome", "annotations": OFFSETS}),
        ("spacy", "json", {"classes": ["ATHLETE"], "annotations": [["Ada in Rome", {"entities": LISTS}], None]}),
    ],
)
def test_what_other_versions_of_the_tools_write(tmp_path, name, ending, item):
    samples, _ = imported(name, json_file(tmp_path / f"a.{ending}", item), tmp_path / "out")
    assert named(samples) == [("Ada", "athlete"), ("Rome", "place")]


def test_labels_of_doccano_that_are_numbers(tmp_path):
    item = {"text": "Ada in Rome", "annotations": [{"label": 7, "start_offset": 0, "end_offset": 3}]}
    samples, _ = imported("doccano", json_file(tmp_path / "a.jsonl", item), tmp_path / "out")
    assert named(samples) == [("Ada", "7")]


@pytest.mark.parametrize("box", ["10 3 50 33", "(10, 3, 50, 33)", "[10; 3; 50; 33]"[1:-1], "10.0,3.0,50.0,33.0"])
def test_a_box_in_a_cell_is_four_numbers(tmp_path, pictures, box):
    (tmp_path / "a.csv").write_text(f'text,image,mention,type,bbox\nAda wins,p1.jpg,Ada,athlete,"{box}"\n')
    samples, _ = imported("csv", tmp_path / "a.csv", tmp_path / "out", images=[pictures], boxes="xyxy")
    assert samples[0].entities[0].boxes == (Box(10, 3, 50, 33),)


def test_regions_of_no_picture_and_of_a_video(tmp_path, pictures):
    path = tmp_path / "annotations.xml"
    for content, message in (("", "holds no picture"), ('<track id="0" label="x"/>', "tracks of a video")):
        path.write_text(f"<annotations>{content}</annotations>")
        with pytest.raises(UserError, match=message):
            imported("csv", texts(tmp_path), tmp_path / "out", images=[pictures], regions=path)


def test_posts_without_any_mention_are_told(tmp_path):
    _, done = imported("spacy", json_file(tmp_path / "a.json", [{"text": "Ada in Rome"}]), tmp_path / "out")
    assert "mentions: none, so that these posts can be predicted" in done.in_words(tmp_path)


def test_findings_that_are_not_printed_are_in_a_file(tmp_path):
    texts = [{"text": "AdaX in Rome", "label": [[0, 3, "athlete"]]}] * 4
    _, done = imported("doccano", json_file(tmp_path / "a.json", texts), tmp_path / "out", split="")
    file = tmp_path / "out" / "findings.txt"
    assert f"and 1 more; all are in {file}" in done.in_words(tmp_path / "out")
    assert file.read_text().count("token split") == 4
