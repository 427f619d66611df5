"""Training from features that the frozen vision tower computed once: the same losses as from the pixels."""

import dataclasses

import pytest
import torch
from tiny_base import make_recipe
from transformers import set_seed

from rivegs_mllm.train import AnswerTrainer, make_trainer
from rivegs_mllm.types import UserError

CACHED = "--model.cache_pictures=true"
VISION = r"--lora.target_modules='.*\.(qkv|q_proj)'"


def trainer(folder, base, data, *overrides: str) -> AnswerTrainer:
    set_seed(0)
    return make_trainer(make_recipe(folder, base, data, "--data.train=dev", *overrides))


def loss(run: AnswerTrainer, rows: list[dict]) -> torch.Tensor:
    batch = run.data_collator(rows)
    return run.compute_loss(run.model, batch, num_items_in_batch=torch.tensor(50))


@pytest.fixture(scope="module")
def both(tmp_path_factory, base, emblems) -> tuple[AnswerTrainer, AnswerTrainer]:
    """The trainer with features, and the one with pixels."""
    folder = tmp_path_factory.mktemp("features")
    return trainer(folder, base, emblems, CACHED), trainer(folder, base, emblems)


def test_losses_are_those_from_pixels(both):
    cached, plain = both
    assert any(sample.image for sample in plain.train_dataset.samples)
    for _ in range(2):  # the second time from the prompts that were kept
        rows = [[run.train_dataset[index] for index in range(6)] for run in both]
        assert any("image_features" in row for row in rows[0])
        assert not any("pixel_values" in row for row in rows[0])
        assert any("pixel_values" in row for row in rows[1])
        torch.testing.assert_close(loss(cached, rows[0]), loss(plain, rows[1]), rtol=1e-5, atol=1e-6)


def test_every_picture_is_encoded_and_no_picture_is_opened_again(both, monkeypatch):
    cached, _ = both
    dataset = cached.train_dataset
    assert dataset.features.keys() == {sample.image for sample in dataset.samples if sample.image}
    rows = [dataset[index] for index in range(len(dataset))]
    monkeypatch.setattr(dataset, "folder", dataset.folder / "gone")
    again = [dataset[index] for index in range(len(dataset))]
    for before, after in zip(rows, again, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("count", [2, 4])  # none with a picture, and both kinds mixed
def test_posts_without_a_picture_are_trained_on(both, monkeypatch, count):
    cached, plain = both
    rows = []
    for run in both:
        samples = run.train_dataset.samples
        bare = [dataclasses.replace(sample, image="", size=None) for sample in samples[:2]]
        monkeypatch.setattr(run.train_dataset, "samples", [*bare, *samples[2:4]])
        rows.append([run.train_dataset[index] for index in range(count)])
    torch.testing.assert_close(loss(cached, rows[0]), loss(plain, rows[1]), rtol=1e-5, atol=1e-6)


def test_made_up_names_are_read_with_the_features_of_their_picture(tmp_path, base, emblems):
    run = trainer(tmp_path, base, emblems, CACHED, "--augment.name_augmentation=1")
    dataset = run.train_dataset
    first = [dataset[index] for index in range(6)]
    dataset.set_epoch(1)
    second = [dataset[index] for index in range(6)]
    pictured = [(one, other) for one, other in zip(first, second, strict=True) if "image_features" in one]
    assert pictured
    assert all(torch.equal(one["image_features"], other["image_features"]) for one, other in pictured)
    assert any(not torch.equal(one["input_ids"], other["input_ids"]) for one, other in pictured)


def test_a_tower_that_is_trained_cannot_be_cached(tmp_path, base, emblems):
    with pytest.raises(UserError, match=r"model\.cache_pictures: .*vision tower"):
        trainer(tmp_path, base, emblems, CACHED, VISION)
