"""Pictures that are gone, cut off or something else when a step comes to them, whatever was found before."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from chat_server import ChatServer, completion
from faults.odd_pictures import encoded
from test_distill import recipe as distill_recipe
from tiny_base import LEARNED, make_recipe

from data_builders.audit import audit
from eval.report.page import write_report
from rivegs_mllm.data import images
from rivegs_mllm.data.jsonl import SPLITS, read_predictions, read_split, write_records
from rivegs_mllm.distill.config import DistillData
from rivegs_mllm.distill.runner import distill
from rivegs_mllm.distill.tasks import CaptionTask
from rivegs_mllm.prediction.run import predict
from rivegs_mllm.train import train
from rivegs_mllm.training.preview import write_preview
from rivegs_mllm.types import Prediction, UserError

LONGEST = 4000


def gone(path: Path) -> None:
    """Nothing is left."""


def cut(path: Path) -> None:
    """Half of it is left."""
    path.write_bytes(encoded()[:300])


def emptied(path: Path) -> None:
    """An empty file is left."""
    path.touch()


def resized(path: Path) -> None:
    """A picture of another size is there."""
    path.write_bytes(encoded(size=(33, 44)))


def a_pipe(path: Path) -> None:
    """A pipe is there, which nobody writes to."""
    os.mkfifo(path)


WAYS = [gone, cut, emptied, resized, a_pipe]


class Vanishing:
    """Changes one picture of a folder in one way before any picture is opened for the ``turn``-th time."""

    def __init__(self, folder: Path, way, turn: int, rng: random.Random):
        self.path = rng.choice(sorted((folder / "images").iterdir()))
        self.way = way
        self.turn = turn
        self.opened = 0

    def happen(self) -> None:
        """Called before each picture is opened."""
        self.opened += 1
        if self.opened == self.turn and self.path.exists():
            self.path.unlink()
            self.way(self.path)


@pytest.fixture
def data(tmp_path, learned) -> Path:
    """Four posts to train on and two each of the other splits, each with its picture."""
    samples = [sample for sample in read_split(learned / "data", "train") if sample.image][:8]
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    placed = []
    for sample in samples:
        shutil.copy(learned / "data" / sample.image, folder / "images" / f"{sample.id}.jpg")
        placed.append(dataclasses.replace(sample, image=f"images/{sample.id}.jpg", knowledge=()))
    for split, some in zip(SPLITS, (placed[:4], placed[4:6], placed[6:]), strict=True):
        write_records(folder / f"{split}.jsonl", some)
    return folder


@contextmanager
def vanishing(monkeypatch, change: Vanishing):
    real = images._file

    def opened(picture):
        change.happen()
        return real(picture)

    with monkeypatch.context() as patch:
        patch.setattr(images, "_file", opened)
        yield


def try_each(trials, monkeypatch, data: Path, tmp_path: Path, name: str, step, count: int, turns: int) -> None:
    """Calls ``step(folder)`` on copies of the data while a picture vanishes."""

    def attempt(case):
        way, turn, number = case
        folder = shutil.copytree(data, tmp_path / f"{name}-{number}")
        change = Vanishing(folder, way, turn, random.Random(number))
        with vanishing(monkeypatch, change):
            step(folder)
        assert change.opened >= turn, "nothing vanished"
        shutil.rmtree(folder)

    cases = [(trials.rng.choice(WAYS), trials.rng.randrange(1, turns), number) for number in range(count)]
    trials.each(f"vanished pictures: {name}", cases, attempt)


def told(messages) -> None:
    for message in messages:
        assert message.isprintable()
        assert len(message) < LONGEST


pytestmark = pytest.mark.timeout(200)

COUNTS = [3, pytest.param(40, marks=pytest.mark.faults)]


@pytest.mark.parametrize("count", COUNTS)
def test_while_a_dataset_is_audited(trials, monkeypatch, data, tmp_path, count):
    def step(folder):
        told(finding.message for finding in audit(folder).findings)

    try_each(trials, monkeypatch, data, tmp_path, "audit", step, 5 * count, 24)


@pytest.mark.parametrize("count", COUNTS)
def test_while_pages_are_written(trials, monkeypatch, data, tmp_path, learned, count):
    recipe = make_recipe(tmp_path / "recipe", learned / "base", data, LEARNED)

    def step(folder):
        gold = read_split(folder, "train")
        said = {"one": [Prediction(sample.id, entities=sample.entities) for sample in gold]}
        told(write_report(folder / "report.html", gold, said, folder))
        recipe.data.folder = folder
        told(write_preview(recipe, folder / "preview.html"))

    try_each(trials, monkeypatch, data, tmp_path, "report and preview", step, count, 12)


@pytest.mark.parametrize("count", COUNTS)
def test_while_posts_are_answered(trials, monkeypatch, data, tmp_path, learned, count):
    recipe = make_recipe(tmp_path / "recipe", learned / "base", data, LEARNED, "--predict.batch_size=2")

    def step(folder):
        samples = read_split(folder, "train")
        predict(recipe, samples, folder, folder / "said.jsonl", None)
        answers = read_predictions(folder / "said.jsonl")
        assert [answer.id for answer in answers] == [sample.id for sample in samples]
        told(error for answer in answers for error in answer.errors)

    try_each(trials, monkeypatch, data, tmp_path, "predict", step, count, 5)


@pytest.mark.parametrize("count", COUNTS)
def test_while_a_model_is_trained(trials, monkeypatch, data, tmp_path, learned, count):
    def step(folder):
        overrides = [LEARNED, "--train.max_steps=2", "--train.per_device_train_batch_size=2"]
        try:
            train(make_recipe(folder / "recipe", learned / "base", folder, *overrides))
        except UserError as error:
            told(str(error).split("\n"))
            whole = "images/" in str(error)
        else:
            whole = (folder / "recipe" / "run" / "adapter_model.safetensors").is_file()
        assert whole

    try_each(trials, monkeypatch, data, tmp_path, "train", step, count, 9)


@pytest.mark.parametrize("count", COUNTS)
def test_while_a_teacher_is_asked(trials, monkeypatch, data, tmp_path, count):
    def step(folder):
        with ChatServer(lambda *_: completion("a person")) as server:
            plain = distill_recipe(folder / "run", server, task=CaptionTask())
            report = distill(dataclasses.replace(plain, data=DistillData(folder)))
        assert report.answered + report.failed + report.reused == 4

    try_each(trials, monkeypatch, data, tmp_path, "questions to a teacher", step, count, 9)
