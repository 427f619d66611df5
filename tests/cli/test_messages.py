"""Mistakes of a command line, a recipe or a path: one line in plain words, before a library of models is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks.message_time import MISTAKES, ROOT, make_folder

INSIDES = re.compile(
    r"argparse|pydantic|omegaconf|draccus|dataclass|namespace|TrainingArguments|LoraConfig|Recipe\b(?! is)|\bPath\b|"
    r"Posix|Traceback|invalid|NoneType|usage:|KeyError|ValueError",
)
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "torchvision")

TRY_ALL = f"""
import contextlib, io, json, sys
from rivegs_mllm.cli.main import main
for words, without in json.loads(sys.argv[1]):
    said = io.StringIO()
    if without:
        sys.modules[without] = None
    with contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    sys.modules.pop(without, None)
    print(json.dumps([code, said.getvalue(), [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, list]:
    """Exit code, message and the libraries of models that are imported by then, by command."""
    folder = tmp_path_factory.mktemp("messages")
    make_folder(folder)
    commands = [(mistake.words.split(), mistake.without) for mistake in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", TRY_ALL, json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip((own.words for own in MISTAKES), map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda own: own.words)
def test_a_mistake_is_one_line_in_plain_words_before_models_are_imported(told, mistake):
    code, message, imported = told[mistake.words]
    assert code == 2
    assert re.search(".*".join(map(re.escape, mistake.says.split(".*"))), message), message
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert not INSIDES.search(message), message
    assert imported == []
