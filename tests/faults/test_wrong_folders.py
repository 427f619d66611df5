"""Folders of trained models whose files were changed: one line that names the file and, where there is one, the key."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from stage_training import make_recipe

from eval.analysis.calibration import FILE_NAME as CALIBRATION
from eval.analysis.calibration import read_calibration
from rivegs_mllm.answer.format import FILE_NAME as ANSWER_FORMAT
from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cascade.config import CascadeRecipe, steps_of
from rivegs_mllm.cascade.tagging.crf import CrfTagger, load_predictor
from rivegs_mllm.cascade.training import train_stage
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.models.adapter import check_adapter_config, load_adapter
from rivegs_mllm.types import TYPES, UserError

LONGEST = 1000
CONTENTS = [b"", b"{", b"[]", b"{}", b"3", b"null", b"\xff\xfe{", b"[" * 100_000, b'{"a": ' * 50_000, b"\0" * 100]
SIZES = [CONTENTS[1:2], pytest.param(CONTENTS, marks=pytest.mark.faults)]
NAN, INF = float("nan"), float("inf")
WRONG = [None, True, -1, 0, 1.5, 10**30, NAN, INF, "", "word", "x" * 5000, "a\0b", [], [1], [[]], [None], {}, {"a": 1}]


def told(call, path: Path) -> str:
    """The one line that a call is refused with, "" where it is not."""
    start = time.monotonic()
    try:
        call()
    except UserError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < LONGEST
        assert str(path) in message
        return message
    assert time.monotonic() - start < 20
    return ""


def other(value: object, wrong: object) -> bool:
    """Whether a wrong value is another one than the right one."""
    return type(value) is not type(wrong) or value != wrong


def test_every_field_of_the_answer_format(trials, tmp_path):
    right = AnswerFormat("qwen2_5_vl", "loc", 3136, 50176, 28, 64)
    right.save(tmp_path)
    path = tmp_path / ANSWER_FORMAT
    fields = json.loads(path.read_text())

    def attempt(case):
        key, value = case
        path.write_text(json.dumps({**fields, key: value}))
        message = told(lambda: AnswerFormat.load(tmp_path), path)
        assert key in message or (key in ("min_pixels", "max_pixels") and "pixels" in message)

    cases = [(key, value) for key in fields for value in WRONG if other(fields[key], value)]
    trials.each("answer format: a field's wrong value", cases, attempt)
    left_out = [{name: value for name, value in fields.items() if name != key} for key in fields]

    def attempt_content(content):
        path.write_bytes(content)
        assert told(lambda: AnswerFormat.load(tmp_path), path)

    trials.each(
        "answer format: another file", [*CONTENTS, *(json.dumps(one).encode() for one in left_out)], attempt_content
    )


def test_every_field_of_the_adapter_s_config_and_of_the_calibration(trials, tmp_path):
    path = tmp_path / "adapter_config.json"
    fields = {"base_model_name_or_path": "x", "peft_type": "LORA", "r": 4}

    def attempt(case):
        key, value = case
        path.write_text(json.dumps({**fields, key: value}))
        assert f"{key}: " in told(lambda: check_adapter_config(tmp_path), path)

    fits = {"base_model_name_or_path": lambda value: type(value) is str and value, "r": lambda value: value == 10**30}
    cases = [(key, value) for key in fields for value in WRONG if not (key in fits and fits[key](value))]
    trials.each("adapter: a wrong value in its config", cases, attempt)

    def attempt_content(content):
        path.write_bytes(content)
        assert told(lambda: check_adapter_config(tmp_path), path)
        (tmp_path / CALIBRATION).write_bytes(content)
        assert told(lambda: read_calibration(tmp_path), tmp_path / CALIBRATION)

    trials.each("adapter: a config that is none", CONTENTS, attempt_content)
    right = {"version": 1, "temperature": 1.0, "threshold": 0.5}
    (tmp_path / CALIBRATION).write_text(json.dumps(right))
    assert read_calibration(tmp_path).threshold == 0.5

    def attempt_calibration(case):
        key, value = case
        (tmp_path / CALIBRATION).write_text(json.dumps({**right, key: value}))
        if not told(lambda: read_calibration(tmp_path), tmp_path / CALIBRATION):
            assert type(value) in (int, float)  # a number that fits

    trials.each(
        "calibration: a wrong value",
        [(key, value) for key in right for value in WRONG if value != right[key]],
        attempt_calibration,
    )


FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
         "processor_config.json", "instruction.txt", ANSWER_FORMAT)  # fmt: skip


def linked(source: Path, folder: Path) -> Path:
    """A copy of a folder whose files can be replaced one by one."""
    shutil.copytree(source, folder, copy_function=os.link)
    return folder


@pytest.mark.parametrize("contents", SIZES, ids=["few", "all"])
def test_every_file_of_an_adapter_s_folder(trials, trained, tmp_path, contents):
    recipe = read_recipe(trained.recipe)
    source = Path(recipe.train.output_dir)

    def attempt(case):
        name, content = case
        folder = linked(source, tmp_path / f"{FILES.index(name)}-{contents.index(content)}")
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        message = told(lambda: load_adapter(folder, recipe), folder)
        assert message or name in ("processor_config.json", "tokenizer_config.json")

    cases = [(name, content) for name in FILES for content in contents]
    trials.each("adapter: a file that is damaged", cases, attempt)

    def attempt_missing(name):
        folder = linked(source, tmp_path / f"without-{FILES.index(name)}")
        (folder / name).unlink()
        told(lambda: load_adapter(folder, recipe), folder)

    trials.each("adapter: a file that is missing", FILES, attempt_missing)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory, emblems) -> Path:
    """A trained tagger's folder."""
    return train_stage(make_recipe(tmp_path_factory.mktemp("tagger"), emblems, "--train.max_steps=1"))


def test_every_field_of_a_stage_s_card(trials, tagger, tmp_path):
    folder = linked(tagger, tmp_path / "run")
    path = folder / "stage.json"
    card = json.loads(path.read_text())
    path.unlink()

    def attempt(case):
        section, key, value = case
        wrong = {**card, "settings": {**card["settings"], key: value}} if section else {**card, key: value}
        path.write_text(json.dumps(wrong))
        message = told(lambda: load_predictor(folder, TYPES, 4), folder)
        if message:
            assert key in message or "trained on the types" in message or "of format" in message or "of type" in message
        else:
            assert section  # a setting that fits, or that the weights do not depend on

    cases = [("", key, value) for key in card for value in WRONG if other(card[key], value)]
    cases += [("settings", key, value) for key in card["settings"] for value in WRONG]
    trials.each("stage: a wrong value in its card", cases, attempt)


STAGE_FILES = ("stage.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("contents", SIZES, ids=["few", "all"])
def test_every_file_of_a_stage_s_folder(trials, tagger, tmp_path, contents):
    assert all((tagger / name).is_file() for name in STAGE_FILES)

    def attempt(case):
        name, content = case
        folder = linked(tagger, tmp_path / f"{STAGE_FILES.index(name)}-{contents.index(content)}")
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        [step] = steps_of(CascadeRecipe(tagger=CrfTagger(folder)), tmp_path)
        message = told(lambda: step.load({}), folder)
        assert message or name == "tokenizer_config.json"

    cases = [(name, content) for name in STAGE_FILES for content in contents]
    trials.each("stage: a file that is damaged", cases, attempt)
