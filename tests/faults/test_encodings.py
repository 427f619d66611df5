"""Consoles of every encoding show what they can and end no command; files are UTF-8 always, and read as people save
them."""

from __future__ import annotations

import codecs
import dataclasses
from pathlib import Path

import pytest
from faults.conftest import told_in_a_line
from faults.forks import Run
from faults.writing import CASCADE, Command
from PIL import Image

from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.data.jsonl import read_predictions, read_samples, write_records
from rivegs_mllm.types import Box, Entity, Prediction, Sample

group = pytest.mark.xdist_group("forks, too")

ENCODINGS = ["ascii", "latin-1", "cp1252", "koi8-r", "gbk", "shift_jis", "utf-16", "utf-8"]
TOKENS = ("Zoë", "in", "北京", "😀", "e\u0301", "\u202eabc")
ENTITIES = (
    Entity("Zoë", "PER", (0, 1), "eine Frau, groß", True, boxes=(Box(0, 0, 9, 9),)),
    Entity("北京", "ÖRT", (2, 3)),
)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A dataset with names from everywhere, and predictions of it."""
    folder = tmp_path_factory.mktemp("añb-文") / "données"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "изображение.png")
    sample = Sample(
        "пост-1\u200d😀", TOKENS, "изображение.png", (40, 30), ENTITIES, ("ein Wissen — 知識",), "ünbekannt"
    )
    lost = dataclasses.replace(sample, id="пост-2", image="нет.png")
    for split in ("train", "dev", "test"):
        write_records(folder / f"{split}.jsonl", [sample, lost])
    said = [Prediction(own.id, entities=ENTITIES[::-1], errors=("ошибка",)) for own in (sample, lost)]
    write_records(folder / "прогноз.jsonl", said)
    (folder / "каскад.yaml").write_text(CASCADE, encoding="utf-8")
    return folder


def speaking(folder: Path) -> list[Command]:
    """Commands that print names, ids and paths of the data."""
    wrong, lost = "--tagger.ключ=знач", ("--allow-missing", "--boxes", "xyxy")
    data, said, recipe = str(folder), str(folder / "прогноз.jsonl"), str(folder / "каскад.yaml")
    costs = ("*.stages/*", "*/compare.*", "*/costs.jsonl", "*/stages.json")
    return [
        Command("audit", "none", lambda out: ["audit", data]),
        Command("evaluate", "очки.json", lambda out: ["evaluate", data, said, "--explain", "--json", str(out)]),
        Command("report", "страница.html", lambda out: ["report", data, said, "--out", str(out)]),
        Command("export", "вывод", lambda out: ["export", "coco", data, said, "--out", str(out)]),
        Command("import", "набор", lambda out: ["import", "json", f"{data}/test.jsonl", *lost, "--out", str(out)]),
        Command("predict", "ответы.jsonl", lambda out: ["predict", recipe, "--data", data, "--out", str(out)], costs),
        Command("compare", "системы", lambda out: ["compare", recipe, "--data", data, "--out", str(out)], costs),
        Command("a wrong file", "none", lambda out: ["evaluate", data, f"{data}/нет-файла.jsonl"]),
        Command("a wrong recipe", "none", lambda out: ["predict", recipe, wrong, "--data", data, "--out", "o"]),
        Command("a wrong command", "none", lambda out: ["глагол"]),
    ]  # fmt: skip


@group
@pytest.mark.parametrize(
    "encoding", [*ENCODINGS[:1], *(pytest.param(name, marks=pytest.mark.faults) for name in ENCODINGS[1:])]
)
def test_a_console_of_any_encoding_ends_no_command(trials, writing, foreign, encoding):
    def attempt(command):
        usual, odd = writing.work_folder(), writing.work_folder()
        first = writing.run(command, usual)
        second = writing.run(command, odd, encoding=encoding)
        assert second.code == first.code, second
        assert "Traceback" not in second.stderr
        assert command.left(odd) == command.left(usual)
        if command.name in ("a wrong file", "a wrong recipe"):
            told_in_a_line(second)

    trials.each(f"a console of {encoding}", speaking(foreign), attempt)


@group
def test_the_help_of_every_verb_fits_every_console(trials, writing):
    commands = (
        "build",
        "audit",
        "preview",
        "distill",
        "train",
        "predict",
        "evaluate",
        "report",
        "compare",
        "export",
        "import",
        "propose",
    )

    def attempt(case):
        command, encoding = case
        (ended,) = writing.nursery.run(Run([command, "--help"], encoding=encoding))
        assert ended.code == 0, ended

    trials.each("a console: help", [(command, encoding) for command in commands for encoding in ENCODINGS[:3]], attempt)


def test_files_are_read_as_people_save_them(trials, foreign, tmp_path):
    def entries(path: Path):
        return read_encyclopedia(path).entries

    (foreign / "encyclopedia.jsonl").write_text('{"name": "Zoë"}\n{"name": "北京"}\n', encoding="utf-8")
    readers = {"test.jsonl": read_samples, "прогноз.jsonl": read_predictions, "encyclopedia.jsonl": entries}
    changes = {
        "a byte-order mark": lambda content: codecs.BOM_UTF8 + content,
        "line ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
        "no line end at the end": lambda content: content.rstrip(b"\n"),
        "blank lines": lambda content: b"\n \t\n" + content.replace(b"\n", b"\n\n"),
    }

    def attempt(case):
        name, change = case
        path = tmp_path / "file.jsonl"
        path.write_bytes(changes[change]((foreign / name).read_bytes()))
        assert readers[name](path) == readers[name](foreign / name)

    trials.each("a file saved elsewhere", [(name, change) for name in readers for change in changes], attempt)
