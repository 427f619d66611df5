"""Faults that people met once, each with a small input of its own: what the tests of single rooms do not try."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from faults.forks import ROOT
from faults.writing import CASCADE
from PIL import Image
from safetensors.torch import save_file
from tiny_base import make_recipe

from data_builders.audit import audit
from data_builders.formats.conll import read_knowledge_posts
from data_builders.formats.riveg_rows import read_riveg_gold
from data_builders.formats.riveg_text import read_captions
from data_builders.formats.text_files import read_text
from data_builders.twitter_smner import _find_files, _owners
from eval.report.page import write_report
from rivegs_mllm.answer.format import AnswerFormat, AnswerFormatError
from rivegs_mllm.cascade.knowledge.encyclopedia import read_encyclopedia
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.llm.few_shot import read_examples
from rivegs_mllm.models.adapter import add_adapter
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.training.preview import write_preview
from rivegs_mllm.training.run.folder import _is_complete
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

ADA = Entity("Ada", "PER", (0, 1), visible=False)
POST = Sample("post", ("Ada", "met", "Bob"), entities=(ADA,))


def answers(posts: list[Sample], kind: str = "PER") -> list[Prediction]:
    """What a system says that gives every entity this type."""
    return [Prediction(one.id, entities=tuple(replace(own, type=kind) for own in one.entities)) for one in posts]


@pytest.fixture
def five(tmp_path, monkeypatch) -> Path:
    """A working folder with a dataset of five posts a split, a system that is right, one that is wrong, and cascades
    under two names."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev", "test"):
        posts = [replace(POST, id=f"{split}-{number}", tokens=("Ada", "met", f"{number}")) for number in range(5)]
        write_records(tmp_path / "data" / f"{split}.jsonl", posts)
    write_records(tmp_path / "right.jsonl", answers(posts))
    write_records(tmp_path / "wrong.jsonl", answers(posts, "LOC"))
    for name in ("test", "other"):
        (tmp_path / f"{name}.yaml").write_text(CASCADE)
    return tmp_path


def refused(capsys, *arguments: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("error: ")
    return shown


# Files of people's own


def write_conll(folder: Path, lines: str, train: str = "") -> Path:
    """A raw folder whose splits have these lines, and the training split ``train`` behind them."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        more = train if split == "train" else ""
        (folder / f"{split}.txt").write_text(f"IMGID:{split}\n{split}\tO\n{lines}{more}\n")
    return folder


BUILDS = {
    "emblems": ["--train", "1", "--dev", "1", "--test", "1"],
    "twitter-2017": ["--raw", "raw", "--without-images"],
}


@pytest.mark.parametrize("name", BUILDS)
def test_another_build_leaves_what_it_did_not_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_conll(Path("raw"), "Ada\tB-PER\n")
    command = ["build", name, "--out", "data", *BUILDS[name]]
    assert main(command) == 0
    own = [Path("data") / file for file in ("mine.jsonl", "test.said.jsonl", "other.jsonl.partial", "a.txt")]
    for path in own:
        path.write_text("years of work")
    assert main(command) == 0
    assert [path.read_text() for path in own] == ["years of work"] * 4


# Line ends and names

ENDS = {
    "rows of RiVEG": (
        read_riveg_gold,
        ["1.jpg###Ada(PER)###a woman###2###&[1.0, 2.0, 3.0, 4.0]", "2.jpg###Bob(PER)###a man###0###&[0, 0, 0, 0]"],
        lambda posts: [(one.id, one.entities[0].text) for one in posts] == [("1", "Ada"), ("2", "Bob")],
    ),
    "captions": (
        read_captions,
        ["imgid:1###a woman", "with a hat", "imgid:2###a man"],
        lambda texts: texts == {"1": "a woman\nwith a hat", "2": "a man"},
    ),
    "knowledge": (
        read_knowledge_posts,
        ["Ada\tB-PER", "<EOS>\tX", "one\tX", "", "Bob\tB-PER", "<EOS>\tX", "two\tX"],
        lambda posts: posts == [(("Ada",), "one"), (("Bob",), "two")],
    ),
    "plain text": (read_text, ["a", "", "b"], lambda text: text.rstrip("\n") == "a\n\nb"),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ENDS)
def test_lines_end_as_unix_windows_and_old_macs_end_them(tmp_path, name, end):
    read, lines, right = ENDS[name]
    path = tmp_path / "a.txt"
    for last in ("", end):
        path.write_bytes((end.join(lines) + last).encode())
        assert right(read(path))


# Types of one's own


def test_types_of_one_s_own_from_the_raw_file_to_the_scores(tmp_path, capsys):
    raw = write_conll(tmp_path / "raw", "Acme\tB-PRODUCT\nX1\tI-PRODUCT\n", "Bonn\tB-LOC\n" * 999 + "Kyiv\tB-LCO\n")
    out = tmp_path / "data"
    assert main(["build", "twitter-2015", "--raw", str(raw), "--without-images", "--out", str(out)]) == 0
    assert "'LCO' comes once among" in capsys.readouterr().out
    assert read_split(out, "dev")[0].entities == (Entity("Acme X1", "PRODUCT", (1, 3)),)
    assert main(["audit", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^PRODUCT +1 +1 +1$", shown, re.MULTILINE)
    assert "warning: rare type: 1" in shown
    test = str(out / "test.jsonl")
    assert main(["evaluate", test, test, "--subsets"]) == 0
    assert re.search(r"type:PRODUCT +MNER +100\.00", capsys.readouterr().out)


@pytest.mark.parametrize(
    "name", ["<loc_3>", "<|im_end|>", "</tool_call>", "<think>", "<image>", "<s>", "A|B", "A  B", "A\tB", " A", ""]
)
def test_no_type_s_name_is_a_control_token(name):
    with pytest.raises(AnswerFormatError, match="types"):
        AnswerFormat("qwen2_5_vl", "loc", 3136, 50176, 28, 64, types=("PER", name))


# Few posts


@pytest.mark.parametrize("systems", [["right.jsonl"], ["wrong.jsonl", "right.jsonl"]], ids=["one", "two"])
def test_five_posts_show_no_difference_and_have_no_interval(five, capsys, systems):
    assert main(["evaluate", "data", *systems, "--explain", "--json", "scores.json"]) == 0
    shown = capsys.readouterr().out
    assert "only 5 posts" in shown
    assert "none" in shown
    assert "100.00 to" not in shown
    if len(systems) == 2:
        row = json.loads((five / "scores.json").read_text())["comparison"]["right"]["strict"]["MNER"]
        assert (row["difference"], row["p"], row["low"]) == (1.0, 0.0625, None)  # 2 of the 32 ways to swap five posts
        assert row["verdict"] == "no difference shown"


@pytest.mark.parametrize("systems", [["right.jsonl"], ["wrong.jsonl", "right.jsonl"]], ids=["one", "two"])
def test_a_page_of_five_posts_shows_no_difference_and_has_no_interval(five, systems):
    assert main(["report", "data", *systems, "--out", "page.html"]) == 0
    page = (five / "page.html").read_text(encoding="utf-8")
    assert "only 5 posts" in page
    assert "no interval" in page
    assert ("No difference is shown in" in page) == (len(systems) == 2)


def test_equal_systems_over_five_posts_have_no_interval_either(five):
    write_records(five / "as_right.jsonl", answers(read_split(five / "data", "test")))
    assert main(["evaluate", "data", "right.jsonl", "as_right.jsonl", "--json", "scores.json"]) == 0
    row = json.loads((five / "scores.json").read_text())["comparison"]["as_right"]["strict"]["MNER"]
    assert (row["difference"], row["p"], row["low"], row["high"]) == (0.0, 1.0, None, None)


def test_a_comparison_of_recipes_over_five_posts_says_so(five, capsys):
    assert main(["compare", "test.yaml", "other.yaml", "--data", "data", "--out", "out"]) == 0
    assert "only 5 posts" in " ".join(capsys.readouterr().out.split())
    for name in ("compare.md", "compare.html"):
        assert "only 5 posts" in (five / "out" / name).read_text(encoding="utf-8")


def test_what_nobody_said_has_no_precision(five, capsys):
    write_records(five / "nothing.jsonl", [Prediction(one.id) for one in read_split(five / "data", "test")])
    assert main(["evaluate", "data", "nothing.jsonl"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "GMNER" in line]
    assert row[-6:] == ["–", "0.00", "0.00", "0", "0", "5"]


# Outputs that are read


def overwriting(*arguments: str) -> Callable[[Path], list[str]]:
    return lambda folder: [argument.format(folder) for argument in arguments]


OVERWRITING = {
    "report over its gold": ("data/test.jsonl", overwriting("report", "data", "right.jsonl", "--out", "{}")),
    "report over its predictions": ("right.jsonl", overwriting("report", "data", "right.jsonl", "--out", "{}")),
    "evaluate over its gold": ("data/test.jsonl", overwriting("evaluate", "data", "right.jsonl", "--json", "{}")),
    "evaluate over its predictions": ("wrong.jsonl", overwriting("evaluate", "data", "wrong.jsonl", "--json", "{}")),
    "predict over its posts": ("data/test.jsonl", overwriting("predict", "test.yaml", "--data", "data", "--out", "{}")),
    "compare over its posts": ("data/test.jsonl", overwriting("compare", "test.yaml", "--data=data", "--out", "data")),
    "preview over its recipe": ("other.yaml", overwriting("preview", "other.yaml", "--out", "{}")),
    "examples over a split": ("data/dev.jsonl", overwriting("distill-examples", "data", "--out", "{}")),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERWRITING)
def test_no_command_writes_over_what_it_reads(five, capsys, name):
    output, arguments = OVERWRITING[name]
    before = (five / output).read_bytes()
    for path in (five / output, five / "data" / ".." / output):
        assert re.search("is read too|not overwritten", refused(capsys, *arguments(path)))
        assert (five / output).read_bytes() == before


# Damaged work folders


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3\n", b'{"slot": 3}\n', b"[" * 100_000])
def test_a_cascade_s_costs_that_are_damaged_end_no_run(five, content):
    command = ["predict", "other.yaml", "--data", "data", "--out", "said.jsonl"]
    assert main(command) == 0
    whole = (five / "said.jsonl").read_bytes()
    (five / "said.jsonl").unlink()
    (five / "said.jsonl.stages" / "costs.jsonl").write_bytes(content)
    assert main(command) == 0
    assert (five / "said.jsonl").read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_cascade_s_run_that_is_no_json_is_told(five, capsys, content):
    command = ["predict", "other.yaml", "--data", "data", "--out", "said.jsonl"]
    assert main(command) == 0
    (five / "said.jsonl.stages" / "run.json").write_bytes(content)
    said = refused(capsys, *command)
    assert "run.json" in said
    assert "delete said.jsonl.stages" in said


# Recipes and arguments


@pytest.mark.parametrize(
    "command",
    [
        "predict right.jsonl --data data --out out",
        "preview right.jsonl",
        "train right.jsonl",
        "distill right.jsonl",
    ],
)
def test_predictions_in_a_recipe_s_place_are_sent_to_evaluate(five, capsys, command):
    said = refused(capsys, *command.split())
    assert "right.jsonl: not a recipe" in said
    assert "rivegs evaluate" in said


@pytest.mark.parametrize("rest", [[], ["--data", "data", "--out", "out"]])
def test_predictions_that_are_to_be_compared_are_sent_to_evaluate(five, capsys, rest):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "right.jsonl", "wrong.jsonl", *rest])
    assert ended.value.code == 2
    assert "right.jsonl: not a recipe; predictions" in capsys.readouterr().err


def test_a_limit_that_is_no_number_is_told_cut_short(five, capsys):
    with pytest.raises(SystemExit):
        main(["report", "data", "right.jsonl", "--limit", "9" * 5000])
    assert len(capsys.readouterr().err) < 1000


def test_a_limit_of_any_size_is_a_limit(five, capsys):
    assert main(["report", "data", "right.jsonl", "--limit", "9" * 30, "--out", "page.html"]) == 0
    assert "--limit -1" in refused(capsys, "report", "data", "right.jsonl", "--limit", "-1")


def test_an_adapter_that_is_of_no_part_of_the_base_is_refused(tmp_path, base, emblems):
    recipe = make_recipe(tmp_path, base, emblems, r"--lora.target_modules=.*\.no_such_layer")
    with pytest.raises(UserError, match=r"lora: .*no_such_layer"):
        add_adapter(load_base(recipe), recipe)


# Pictures


@pytest.mark.parametrize("name", ["f" * 10_000, "f/" * 3000 + "a.png", "a\0b.png", "\ud800.png", "pipe/", "~", "."])
def test_a_picture_s_name_that_is_none_is_a_fault_in_the_page_s_list(tmp_path, name):
    odd = replace(POST, image=name)
    (problem,) = write_report(tmp_path / "page.html", [odd], {"one": answers([odd])}, tmp_path)
    assert problem.isprintable()
    assert "post" in problem
    assert len(problem) < 1000
    assert "Parse and data warnings" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_preview_shows_no_picture_of_another_folder(tmp_path, base):
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (60, 40), "red").save(other / "secret.png")
    seen = replace(ADA, visible=True, boxes=(Box(5, 5, 50, 30),), expression="a woman")
    names = ["../other/secret.png", str(other / "secret.png"), "link.png"]
    posts = [
        Sample(f"post-{number}", ("Ada", f"{number}"), name, (60, 40), (seen,), ("one",))
        for number, name in enumerate(names)
    ]
    for split in ("train", "dev"):
        write_records(data / f"{split}.jsonl", posts)
    (data / "link.png").symlink_to("../other/secret.png")
    recipe = make_recipe(tmp_path / "recipe", base, data)
    page = tmp_path / "page.html"
    problems = write_preview(recipe, page, count=3)
    assert len([problem for problem in problems if "--image-root" in problem]) == 3
    assert "data:image" not in page.read_text(encoding="utf-8")
    assert write_preview(recipe, page, 3, other) == []
    shown = page.read_text(encoding="utf-8")
    assert shown.count("data:image") >= 3
    assert re.search(r"\d\.\d × \d\.\d px", shown)


def test_an_export_holds_no_picture_of_another_folder(five, capsys):
    Path("other").mkdir()
    Image.new("RGB", (60, 40), "red").save("other/secret.png")
    Path("data/link.png").symlink_to("../other/secret.png")
    command = ["export", "datasets", "data", "--split", "test", "--out", "out"]
    for name in ("../other/secret.png", str(five / "other" / "secret.png"), "link.png"):
        write_records(five / "data" / "test.jsonl", [replace(POST, image=name, size=(60, 40))])
        assert "--image-root" in refused(capsys, *command)
        assert not Path("out/dataset").exists()
    assert main([*command, "--image-root", "other"]) == 0
    assert Path("out/dataset").is_dir()


def test_a_cascade_s_costs_of_no_encoding_end_no_run(five):
    command = ["predict", "other.yaml", "--data", "data", "--out", "said.jsonl"]
    assert main(command) == 0
    (five / "said.jsonl").unlink()
    (five / "said.jsonl.stages" / "costs.jsonl").write_bytes(b"\xff\xfe\n")
    assert main(command) == 0


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "other.yaml", "--data", "data", "--out", "other.yaml"),
        ("predict", "other.yaml", "--data", "data", "--out", "data/train.jsonl"),
        ("report", "data", "right.jsonl", "--out", "data/train.jsonl"),
        ("evaluate", "data", "right.jsonl", "--json", "data/dev.jsonl"),
    ],
)
def test_no_output_takes_the_place_of_a_recipe_or_another_split(five, capsys, command):
    before = {path: path.read_bytes() for path in five.rglob("*") if path.is_file()}
    assert "is read too" in refused(capsys, *command)
    assert {path: path.read_bytes() for path in five.rglob("*") if path.is_file()} == before


def test_where_nothing_is_visible_a_comparison_has_no_bar(five):
    assert main(["compare", "other.yaml", "--data", "data", "--out", "out"]) == 0
    assert "</i>0.00" not in (five / "out" / "compare.html").read_text()


def test_masks_find_their_entities_however_they_are_written(tmp_path):
    (tmp_path / "1.JSON").write_text("{}")
    assert list(_find_files(tmp_path, [])) == ["1"]
    box = (Box(0, 0, 1, 1),)
    for label, entity in (
        ("Acme (PRODUCT)", Entity("Acme", "PRODUCT", (0, 1), visible=True, boxes=box)),
        ("Beyonce\u0301", Entity("Beyonc\u00e9", "PER", (0, 1), visible=True, boxes=box)),
        ("New\u200b York", Entity("New York", "LOC", (0, 2), visible=True, boxes=box)),
        ("Acme (MISC)", Entity("Acme", "OTHER", (0, 1), visible=True, boxes=box)),
    ):
        assert _owners(label, None, [entity], tmp_path, []) == [0], label


def test_an_audit_warns_of_what_training_would_refuse(tmp_path):
    entities = (Entity("Ada met", "A|B", (0, 2)), Entity("met", "PER", (1, 2)))
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    for split in ("train", "dev", "test"):
        write_records(
            tmp_path / f"{split}.jsonl", [replace(POST, id=split, image="1.png", size=(8, 8), entities=entities)]
        )
    found = [finding for finding in audit(tmp_path).findings if finding.place.startswith(str(tmp_path / "train.jsonl"))]
    assert {"undecided", "odd type", "overlap"} <= {finding.kind for finding in found}
    assert all(finding.level == "warning" for finding in found)


@pytest.mark.parametrize("content", ["a\tO\rb\tO\n", "1.jpg###x\r2.jpg###y\n"])
def test_line_ends_of_two_kinds_are_refused(tmp_path, content):
    path = tmp_path / "file.txt"
    path.write_bytes(content.encode())
    with pytest.raises(UserError, match=r"file\.txt:1: a line end of old Macs among others"):
        read_text(path)


def test_null_is_a_field_left_out_everywhere(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text('{"name": "Ada", "expression": null, "knowledge": null}\n')
    assert next(iter(read_encyclopedia(path).entries.values())).expression == ""
    entity = '{"text": "Ada", "type": "PER", "explanation": null, "shown": null}'
    fields = ", ".join(f'"{name}": null' for name in ("version", "image", "caption", "relation"))
    path.write_text(f'{{"id": "1", "text": "Ada", {fields}, "entities": [{entity}]}}\n')
    assert read_examples(path)[0].caption == ""


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04" + b"\0" * 200])
def test_a_damaged_checkpoint_is_none(tmp_path, name, content):
    torch.save({"a": torch.ones(3)}, tmp_path / "optimizer.pt")
    torch.save({"a": 1}, tmp_path / "rng_state.pth")
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text("{}")
    assert _is_complete(tmp_path)
    (tmp_path / name).write_bytes(content)
    assert not _is_complete(tmp_path)


def test_who_has_read_enough_is_no_error(five):
    command = f"{sys.executable} -m rivegs_mllm.cli.main audit data | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "Errno" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(("folder", "code"), [("data", 0), ("nothing", 2)])
def test_a_closed_output_ends_no_command_in_a_trace(five, folder, code):
    command = f"{sys.executable} -m rivegs_mllm.cli.main data {folder} >&-"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
