"""From the files of another tool to a tuned model and a report: import, train, predict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from data_builders.importing.names import WORDS
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_predictions, read_split

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
TINY = str(ROOT / "recipes" / "tiny" / "e2e.yaml")
SPLITS = {"train": "p1", "test": "p2"}
"""The picture of each split's post."""

WITHOUT_REGIONS = ("spacy", "doccano", "brat", "gliner")
QUICK = ("label-studio", "conll")
"""Trained on in every run of the tests; the others are slow."""


def example(name: str) -> list[tuple[str, str]]:
    """The names and contents of the files of a format's example in the docs."""
    section = re.search(rf"^### [^\n]*`{name}`.*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)[0]
    return re.findall(r"^```\w+ (\S+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def write_examples(name: str, folder: Path) -> list[str]:
    """The post of the example in two splits, in ``folder``. Returns the arguments that import them."""
    folder.mkdir()
    for picture in SPLITS.values():
        Image.new("RGB", (80, 60), "red" if picture == "p1" else "blue").save(folder / f"{picture}.jpg")
    if name == "brat":
        for split, picture in SPLITS.items():
            for file, content in example(name):
                path = folder / split / file.replace("p1", picture)
                path.parent.mkdir(exist_ok=True)
                path.write_text(content)
        return [name, str(folder / "train"), str(folder / "test")]
    if name in ("labelme", "cvat", "fiftyone"):
        return [*write_examples("conll", folder / "texts"), "--regions", str(write_regions(name, folder))]
    if name in ("parquet", "datasets"):
        return [name, *write_binary(name, folder)]
    ((file, content),) = example(name)
    paths = [folder / f"{split}{Path(file).suffix}" for split in SPLITS]
    for path, picture in zip(paths, SPLITS.values(), strict=True):
        path.write_text(content.replace("p1", picture))
    boxes = ["--boxes", "xyxy"] if name in ("csv", "sharegpt") else []
    regions = ["--regions", str(write_regions("cvat", folder))] if name == "conll" else []
    return [name, *map(str, paths), *boxes, *regions]


def write_regions(name: str, folder: Path) -> Path:
    """The example's box on both pictures."""
    ((file, content),) = example(name)
    if name == "labelme":
        (folder / "labelme").mkdir()
        for picture in SPLITS.values():
            (folder / "labelme" / f"{picture}.json").write_text(content.replace("p1", picture))
        return folder / "labelme"
    (one,) = re.findall(r"<image .*</image>|(?<=\[)\{.filepath.*\}(?=\]\})", content, re.DOTALL)
    comma = "," if name == "fiftyone" else ""
    (folder / file).write_text(content.replace(one, one + comma + one.replace("p1", "p2")))
    return folder / file


def write_binary(name: str, folder: Path) -> list[str]:
    import datasets

    row = {
        "text": "Ada Lovelace beats Nike",
        "mention": "Ada Lovelace",
        "type": "athlete",
        "boxes_xyxy": [10, 3, 50, 33],
    }
    rows = {split: [row | {"image": f"{picture}.jpg", "id": picture}] for split, picture in SPLITS.items()}
    made = {split: datasets.Dataset.from_list(own) for split, own in rows.items()}
    if name == "datasets":
        datasets.DatasetDict(made).save_to_disk(str(folder / "saved"))
        return [str(folder / "saved"), "--images", str(folder)]
    for split, own in made.items():
        own.to_parquet(str(folder / f"{split}.parquet"))
    return [str(folder / f"{split}.parquet") for split in SPLITS]


def import_examples(name: str, folder: Path) -> None:
    arguments = write_examples(name, folder / "raw")
    images = [] if "--images" in arguments else ["--images", str(folder / "raw")]
    assert main(["import", *arguments, *images, "--copy-images", "--out", str(folder / "mine")]) == 0


@pytest.mark.parametrize("name", WORDS)
def test_every_format_is_imported_by_the_command(tmp_path, name):
    import_examples(name, tmp_path)
    assert set(read_info(tmp_path / "mine").types) in ({"athlete", "brand"}, {"athlete"})
    for split in SPLITS:
        (sample,) = read_split(tmp_path / "mine", split)
        assert (tmp_path / "mine" / sample.image).is_file()
        entity = sample.entities[0]
        assert (entity.text, entity.type) == ("Ada Lovelace", "athlete")
        assert [(box.xmin, box.ymin, box.xmax, box.ymax) for box in entity.boxes] == (
            [] if name in WITHOUT_REGIONS else [(10, 3, 50, 33)]
        )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,)) for name in WORDS]
)
def test_three_commands_to_a_tuned_model_and_a_report(tmp_path, monkeypatch, capsys, name):
    import_examples(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    segments = ["--answer.segments=[entities]"] if name in WITHOUT_REGIONS else []
    few = ["--train.max_steps=2", "--train.per_device_train_batch_size=1", "--train.save_strategy=no"]
    assert main(["train", TINY, "--data", "mine", *segments, *few]) == 0
    short = ["--predict.max_new_tokens=8"]
    arguments = ["--data", "mine", "--out", "said.jsonl", "--report", "report.html", *segments, *short]
    assert main(["predict", TINY, *arguments]) == 0
    said = capsys.readouterr().out
    assert "the model in runs/e2e-mine" in said
    assert "wrote report.html" in said
    assert [one.id for one in read_predictions(Path("said.jsonl"))] == [
        own.id for own in read_split(Path("mine"), "test")
    ]
    page = Path("report.html").read_text(encoding="utf-8")
    assert "rivegs predict" in page
    assert "data:image" in page
    assert '"types":[["athlete",' in page
    types = json.loads(Path("runs/e2e-mine/rivegs_contract.json").read_text())["types"]
    assert types == sorted(read_info(Path("mine")).types)
    assert Path("runs/e2e-mine/instruction.txt").read_text() == "Types: {types}\n{text}"


@pytest.mark.slow
def test_predictions_on_new_posts_are_corrected_in_label_studio_and_trained_on(tmp_path, monkeypatch, capsys):
    import_examples("label-studio", tmp_path)
    monkeypatch.chdir(tmp_path)
    few = ["--train.max_steps=2", "--train.per_device_train_batch_size=1", "--train.save_strategy=no"]
    assert main(["train", TINY, "--data", "mine", *few]) == 0
    tasks = [{"id": n, "data": {"text": f"Ada number {n}", "image": f"/data/upload/p{n}.jpg"}} for n in (1, 2)]
    Path("unlabelled.json").write_text(json.dumps(tasks))
    new = ["--images", "raw", "--copy-images", "--split", "0/0/100", "--out", "new"]
    assert main(["import", "label-studio", "unlabelled.json", *new]) == 0
    # The posts have no entities, so that their types are those of the model.
    asked = ["--data", "new", "--adapter", "runs/e2e-mine", "--out", "said.jsonl", "--predict.max_new_tokens=8"]
    assert main(["predict", TINY, *asked]) == 0
    assert main(["export", "label-studio", "new", "said.jsonl", "--out", "to-correct"]) == 0
    corrected = json.loads(Path("to-correct/test.json").read_text())
    for number, task in enumerate(corrected):
        assert len(task["predictions"]) == 1
        span = {"start": 0, "end": 3, "text": "Ada", "labels": ["athlete"]}
        box = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["athlete"]}
        size = {"original_width": 80, "original_height": 60}
        result = [
            {"id": "a", "type": "labels", "from_name": "label", "to_name": "text", "value": span},
            {"id": "b", "type": "rectanglelabels", "from_name": "box", "to_name": "image", **size, "value": box},
            {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        ]
        task["annotations"] = [{"id": number, "was_cancelled": False, "result": result}]
    Path("corrected.json").write_text(json.dumps(corrected))
    again = ["--images", "new", "--split", "50/0/50", "--out", "again"]
    assert main(["import", "label-studio", "corrected.json", *again]) == 0
    (post,) = read_split(Path("again"), "train")
    assert [(own.text, own.type, len(own.boxes)) for own in post.entities] == [("Ada", "athlete", 1)]
    assert main(["train", TINY, "--data", "again", *few]) == 0
    assert json.loads(Path("runs/e2e-again/rivegs_contract.json").read_text())["types"] == ["athlete"]
    assert "trained: runs/e2e-again" in capsys.readouterr().out
