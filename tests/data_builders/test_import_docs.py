"""The examples of docs/import.md are imported, and predictions are corrected and read back as it says."""

import json
import re
import shutil
from pathlib import Path

import pytest
from importing_files import imported, json_file, picture

from data_builders.importing.names import WORDS
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_samples, read_split, write_records
from rivegs_mllm.types import Box, Entity, Prediction, UserError

PAGE = (Path(__file__).parent.parent.parent / "docs" / "import.md").read_text(encoding="utf-8")
SECTIONS = {
    name: body
    for heading, body in re.findall(r"^### (.+)\n((?:(?!^##).*\n)+)", PAGE, re.MULTILINE)
    for name in re.findall(r"`(\S+)`", heading)
}
REGIONS = ("labelme", "cvat", "fiftyone")


def test_every_format_has_its_section():
    assert set(SECTIONS) == set(WORDS)


def example(name: str, folder: Path) -> list[Path]:
    """The files of a format's example."""
    files = []
    for file, content in re.findall(r"^```\w+ (\S+)\n(.*?)^```", SECTIONS[name], re.MULTILINE | re.DOTALL):
        files.append(folder / file)
        files[-1].write_text(content, encoding="utf-8")
    return files


@pytest.mark.parametrize("name", [name for name in WORDS if name not in ("parquet", "datasets")])
def test_examples(tmp_path, name):
    pictures = picture(tmp_path / "pictures" / "p1.jpg", (80, 60)).parent
    (tmp_path / "raw").mkdir()
    files = example(name, tmp_path / "raw")
    given = {"images": [pictures], "boxes": "xyxy" if name in ("csv", "sharegpt") else ""}
    if name in REGIONS:
        given["regions"] = tmp_path / "raw" if name == "labelme" else files[0]
        name, files = "conll", example("conll", tmp_path / "raw")
    samples, done = imported(name, tmp_path / "raw" if name == "brat" else files[0], tmp_path / "out", **given)
    (sample,) = samples
    assert [(own.text, own.type, own.span) for own in sample.entities] == [
        ("Ada Lovelace", "athlete", (0, 2)),
        ("Nike", "brand", (3, 4)),
    ]
    assert sample.image.endswith("p1.jpg")
    if "regions" in given or any(own.boxes for own in sample.entities):
        assert sample.entities[0].boxes == (Box(10, 3, 50, 33),)
        assert [own.visible for own in sample.entities] == [True, False]
    else:
        assert name in ("conll", "spacy", "doccano", "brat", "gliner")
    assert done.report.findings == []


def corrected(path: Path) -> None:
    """What a person does in Label Studio: accepts the predictions, and changes some of them."""
    tasks = json.loads(path.read_text())
    for number, task in enumerate(tasks):
        results = task["predictions"][0]["result"]
        if number == 0:  # a wrong type, a box that was too small
            results[0]["value"]["labels"] = ["brand"]
            next(own for own in results if own["type"] == "rectanglelabels")["value"].update(
                x=0, y=0, width=50, height=50
            )
        if number == 1:  # a mention that is none
            results = []
        task["annotations"] = [{"id": number, "was_cancelled": False, "result": results}]
    path.write_text(json.dumps(tasks))


def test_predictions_are_corrected_and_read_back(tmp_path, capsys):
    picture(tmp_path / "pictures" / "p1.jpg", (80, 60))
    picture(tmp_path / "pictures" / "p2.jpg", (80, 60))
    tasks = [{"id": n, "data": {"text": f"Ada 😀 number {n}", "image": f"/data/upload/p{n}.jpg"}} for n in (1, 2)]
    posts, pictures = json_file(tmp_path / "unlabelled.json", tasks), ["--images", str(tmp_path / "pictures")]
    data, said, out = tmp_path / "data", tmp_path / "mine.jsonl", tmp_path / "to-correct"
    types = ["--types", str(json_file(tmp_path / "types.json", ["athlete", "big event"]))]
    assert (
        main(["import", "label-studio", str(posts), *pictures, "--out", str(data), "--split", "0/0/100", *types]) == 0
    )
    entity = Entity("Ada", "athlete", (0, 1), visible=True, visible_score=0.75, boxes=(Box(10, 5, 20, 30),))
    write_records(said, [Prediction(own.id, entities=(entity,)) for own in read_split(data, "test")])
    assert main(["export", "label-studio", str(data), str(said), "--out", str(out)]) == 0
    task = json.loads((out / "test.json").read_text())[0]
    assert task["annotations"] == []
    assert task["predictions"][0]["score"] == 0.75
    for name in ("athlete", "big event"):
        assert (out / "labels.xml").read_text().count(f'<Label value="{name}"/>') == 3
    corrected(out / "test.json")
    again = tmp_path / "again"
    assert main(["import", "label-studio", str(out / "test.json"), *pictures, "--out", str(again)]) == 0
    first, second = read_samples(again / "test.jsonl")
    assert (first.id, first.tokens, first.image) == ("1", ("Ada", "😀", "number", "1"), "../pictures/p1.jpg")
    assert (first.entities[0].type, first.entities[0].boxes) == ("brand", (Box(0, 0, 40, 30),))
    assert second.entities == ()
    assert "as the files have them" in capsys.readouterr().out
    shutil.rmtree(again)


def test_mistakes_of_the_command_line(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("text\nAda\n")
    for arguments, message in (
        (["csv", str(path), "--columns", "text"], "not of the form FIELD=NAME"),
        (["csv", str(path), "--columns", "words=text"], "'words' is none of id, text"),
        (["csv", str(path), "--columns", "text=tweet"], "no column 'tweet'; it has 'text'"),
        (["csv", str(path), "--split", "80"], "--split"),
        (["csv", str(path), "--boxes", "abcd"], "--boxes"),
        (["csv", str(tmp_path / "none.csv")], "no such file"),
        (["csv", str(path), "--images", str(tmp_path / "none")], "not a folder of pictures"),
        (["csv", str(path), "--types", str(path)], "not JSON"),
        (["csv", str(path), "--regions", str(path)], "not JSON"),
    ):
        assert main(["import", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "train.jsonl").exists()
    (tmp_path / "train.jsonl").write_text('{"id": "1", "text": "Ada"}\n')
    assert main(["import", "json", str(tmp_path / "train.jsonl"), "--out", str(tmp_path)]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_another_dataset_is_not_overwritten(tmp_path, capsys):
    """The same import again takes the place of the first, as when its options are put right."""
    first, other = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("text,mention,type\nAda won,Ada,athlete\n")
    other.write_text("text,mention,type\nNike won,Nike,brand\n")
    out = tmp_path / "out"

    def imports(*arguments):
        return main(["import", *map(str, arguments), "--out", str(out)])

    assert imports("csv", first) == 0
    assert read_info(out).sources == ("../a.csv",)
    written = (out / "train.jsonl").read_bytes()
    assert imports("csv", other) == 2
    said = capsys.readouterr().err
    assert f"{out}: holds another dataset, made of csv, ../a.csv, which is not overwritten; name another --out" in said
    assert (out / "train.jsonl").read_bytes() == written
    assert imports("csv", first, "--split", "0/0/100") == 0
    assert not (out / "train.jsonl").exists()
    (out / "dataset.json").unlink()
    assert imports("csv", first) == 2
    assert main(["build", "emblems", "--out", str(out), "--train", "1", "--dev", "1", "--test", "1"]) == 2
    assert capsys.readouterr().err.count("holds another dataset, which is not overwritten") == 2


def test_an_import_that_was_interrupted_is_done_again(tmp_path, monkeypatch):
    path, out = tmp_path / "a.csv", tmp_path / "out"
    path.write_text("text,mention,type\nAda won,Ada,athlete\nBo lost,Bo,athlete\n")

    def interrupted(file, samples):
        if file.stem == "test":
            raise KeyboardInterrupt
        write_records(file, samples)

    monkeypatch.setattr("data_builders.common.write_records", interrupted)
    assert main(["import", "csv", str(path), "--split", "50/0/50", "--out", str(out)]) == 130
    monkeypatch.undo()
    assert (out / "train.jsonl").exists()
    assert main(["import", "csv", str(path), "--split", "50/0/50", "--out", str(out)]) == 0
    assert (out / "test.jsonl").exists()


def test_where_pictures_stay_is_told_where_pages_will_ask_for_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "my pictures" / "p1.jpg", (80, 60))
    (tmp_path / "a.csv").write_text("text,image,mention,type\nAda won,p1.jpg,Ada,athlete\n")
    images = ["import", "csv", "a.csv", "--images", "my pictures", "--out", "out"]
    assert main(images) == 0
    said = capsys.readouterr().out
    assert "pictures stay in my pictures: pages and exports show them with --image-root 'my pictures'; " in said
    assert said.endswith("next: rivegs audit out\n")
    assert main([*images, "--copy-images"]) == 0
    assert "--image-root" not in capsys.readouterr().out


def test_types_are_described_and_checked(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,mention,type\nAda,Ada,athlete\n")
    types = json_file(tmp_path / "types.json", {"brand": "", "athlete": "a sports person"})
    _, done = imported("csv", path, tmp_path / "out", types=types)
    written = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written["types"] == [{"name": "brand"}, {"name": "athlete", "description": "a sports person"}]
    assert done.report.findings == []
    with pytest.raises(UserError, match="1 x unknown type"):
        imported("csv", path, tmp_path / "out", types=json_file(tmp_path / "types.json", ["brand"]))


def test_descriptions_stay_when_a_dataset_is_split_anew_or_goes_through_another_format(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,mention,type\nAda won,Ada,athlete\nBo lost,Bo,athlete\nNike won,Nike,brand\n")
    types = {"brand": "", "athlete": "a sports person", "event": "what is held"}
    given = ["--types", str(json_file(tmp_path / "types.json", types))]
    first, again, back = tmp_path / "first", tmp_path / "again", tmp_path / "back"
    assert main(["import", "csv", str(path), *given, "--split", "100/0/0", "--out", str(first)]) == 0
    assert main(["import", "json", str(first / "train.jsonl"), "--split", "50/0/50", "--out", str(again)]) == 0
    assert read_info(again).types == types
    assert list(read_info(again).types) == list(types)
    assert main(["export", "label-studio", str(again), "--out", str(tmp_path / "out")]) == 0
    files = [str(tmp_path / "out" / f"{split}.json") for split in ("train", "test")]
    kept = ["--types", str(again / "dataset.json")]
    assert main(["import", "label-studio", *files, *kept, "--out", str(back)]) == 0
    assert read_info(back).types == types


def test_the_file_of_another_tool_that_is_called_dataset_json_has_no_types(tmp_path):
    json_file(tmp_path / "dataset.json", {"images": []})
    (tmp_path / "a.csv").write_text("text,mention,type\nAda won,Ada,athlete\n")
    imported("csv", tmp_path / "a.csv", tmp_path / "out")
    assert read_info(tmp_path / "out").types == {"athlete": ""}
