"""What the pages tell readers to run runs: programs in Python, records, command lines, and the files that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from pages import PAGES, ROOT, Command, blocks, commands, named
from PIL import Image
from typed import faults_of, is_there

from rivegs_mllm.data.jsonl import prediction_from_json

IN_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
LANGUAGES = {"python", "json", "text", "xml", "{eval-rst}", ""}

AFTERWARDS = {
    "README.md": 'assert Path("out.png").is_file()',
    "docs/format.md": 'assert [one.id for one in read_predictions("predictions.jsonl")] == ["1030751"]',
    "docs/evaluation.md": "assert found['f1'] == 1.0",
    "docs/cascade.md": """
samples = [Sample("1", ("Ada", "met", "Wilhelmina"), entities=(
    Entity("Ada", "PER", (0, 1), visible=False), Entity("Wilhelmina", "PER", (2, 3), visible=True)))]
recipe = Path("recipe.yaml")
recipe.write_text("tagger: {type: gold}\\nentailment: {type: long_names, letters: 4}\\n")
predictions, _ = run_cascade(read_cascade(recipe), samples, Path(), Path("work"))
assert [entity.visible for entity in predictions[0].entities] == [False, True]
""",
}
"""What must be so when the blocks of a page have run."""
NEEDED = """
from pathlib import Path

from rivegs_mllm.cascade.config import read_cascade, run_cascade
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.types import Sample
"""


@pytest.fixture
def folder(tmp_path: Path, trained) -> Path:
    """Where the examples can be run: the demo's model and pictures by the names that they have there."""
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/model").symlink_to(trained.recipe.parent / "run")
    (tmp_path / "eval").symlink_to(ROOT / "eval")
    for name in ("match.jpg", "1.jpg"):
        Image.new("RGB", (64, 48), "red").save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("page", IN_PYTHON, ids=named)
def test_the_python_of_a_page_runs(page, folder):
    """All blocks as one program, in a process of its own, since a stage of one's own would be known to other tests."""
    program = "\n".join(block.text for block in blocks(page) if block.language == "python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hub")}
    command = [sys.executable, "-c", f"{program}\n{NEEDED}\n{AFTERWARDS[named(page)]}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_are_of_languages_that_are_looked_at(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES


def test_records_are_records():
    records = [block.text for block in blocks(ROOT / "docs/format.md") if block.language == "json"]
    assert len(records) > 1
    assert {prediction_from_json(orjson.loads(text)).id for text in records} == {"1030751"}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_understood(page, capsys):
    faults = [f"{command}: {fault}" for command in commands(page) for fault in faults_of(command)]
    capsys.readouterr()
    assert faults == []


def test_a_command_that_is_not_understood_is_found():
    for words in (
        "rivegs tell RECIPE",
        "rivegs evaluate GOLD PREDICTIONS --protocols strict",
        "rivegs train recipes/tiny/none.yaml",
        "rivegs train recipes/tiny/e2e.yaml --train.learnig_rate=1",
        "rivegs compare recipes/cascade/tiny.yaml --only small --data DIR --out DIR",
        "rivegs predict recipes/tiny/e2e.yaml",
        "accelerate launch --config_file accelerate_configs/zero9.yaml -m rivegs_mllm.train RECIPE",
        "accelerate launch -m rivegs_mllm.trains RECIPE",
        "rivegs memory RECIPE --gpus 2 --zero 4",
        "python benchmarks/none.py",
        "python -m pytest tests/none",
        "make none",
        "pip install -e .[none]",
    ):
        assert list(faults_of(Command(tuple(words.split()), whole=True))), words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_and_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    folders = "recipes|rivegs_mllm|eval|tests|data_builders|benchmarks|accelerate_configs|environment|docs"
    paths = {found.rstrip(".") for found in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./*-]*", text)}
    paths = {path for path in paths if not re.search("NAME|mine", path)}
    assert [path for path in sorted(paths) if not any(ROOT.glob(path))] == []
    names = set(re.findall(r"(?<![\w/.])(?:rivegs_mllm|eval|data_builders)(?:\.[A-Za-z_]\w*)+", text))
    assert [name for name in sorted(names) if not is_there(name)] == []
