"""UMT as tagger of a cascade and as maker of features: trained here, and from a checkpoint of the authors' names."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cascade_suite import StageSuite
from safetensors.torch import save_file
from test_grounding import check_resume, train
from test_umt import DATA, TOY, WEIGHTS
from transformers import BertTokenizerFast

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.tagging.crf import span_metrics
from rivegs_mllm.cascade.tagging.umt import UmtTagger, UmtTraining
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.llm.embeddings import UmtFeatures, pairs_of
from rivegs_mllm.published.umt.pictures import ResNet
from rivegs_mllm.types import TYPES, Prediction, UserError

LOGGED = "--train.metric_for_best_model=eval_span_f1"


@pytest.fixture(scope="module")
def settings(base) -> str:
    return f"encoder: tiny\n  base: {base}\n  max_pieces: 64"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, emblems, settings) -> Path:
    return train(tmp_path_factory.mktemp("umt"), emblems, "umt", settings, 2, LOGGED)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Path:
    """An untrained ResNet-18."""
    path = tmp_path_factory.mktemp("resnet") / "resnet18.safetensors"
    torch.manual_seed(0)
    save_file(ResNet("resnet18").state_dict(), path)
    return path


class TestTagger(StageSuite):
    slot = "tagger"

    @pytest.fixture(scope="class")
    def choice(self, trained):
        return UmtTagger(trained)


class TestTaggerOfAResNet(StageSuite):
    slot = "tagger"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory, emblems, resnet):
        settings = f"encoder: tiny\n  resnet: resnet18\n  resnet_weights: {resnet}\n  max_pieces: 64"
        return UmtTagger(train(tmp_path_factory.mktemp("umt"), emblems, "umt", settings, 1, LOGGED))

    def test_a_part_of_a_picture_is_another_picture(self, choice, cases):
        """As published the regions are those of a part, drawn by the post's name: the same one each time."""
        first = dataclasses.replace(choice, as_published=True).predictor(cases.folder)
        regions, _ = first.encode_images(cases.samples)
        again, _ = first.encode_images(cases.samples)
        usual, _ = choice.predictor(cases.folder).encode_images(cases.samples)
        assert regions.equal(again)
        assert not regions.equal(usual)


def test_logged_figures_are_those_of_the_stage(trained, emblems):
    samples = read_split(emblems, "dev")
    answers = UmtTagger(trained).load(emblems)(samples, [Prediction(one.id) for one in samples])
    logged = json.loads((trained / "metrics.json").read_text())["dev"]
    found = [(answer.entities, answer.errors) for answer in answers]
    assert span_metrics(samples, found)["span_f1"] == pytest.approx(logged["span_f1"])


def test_a_run_is_taken_up_again(tmp_path, emblems, settings):
    check_resume(tmp_path, emblems, "umt", settings, LOGGED)


def test_a_run_as_published_is_taken_up_again(tmp_path, emblems, resnet):
    settings = f"encoder: tiny\n  resnet: resnet18\n  resnet_weights: {resnet}\n  max_pieces: 64\n  as_published: true"
    check_resume(tmp_path, emblems, "umt", settings, LOGGED)
    run = tmp_path / "whole" / "run"
    assert [UmtTagger(run, as_published=own).predictor(emblems).image_encoder.part for own in (None, True, False)] == [
        True,
        True,
        False,
    ]
    with pytest.raises(UserError, match="leave out base and head_learning_rate"):
        UmtTraining("tiny", resnet_weights=resnet, head_learning_rate=1.0, as_published=True)


def test_it_learns(emblems, base):
    """By heart, what a few posts say."""
    posts = read_split(emblems, "train")[:8]
    trainable = UmtTraining("tiny", base=str(base), max_pieces=64).prepare(StageData(posts, [], emblems, TYPES, 0))
    batch = trainable.collate([row[0] for row in trainable.train.variants])
    optimizer = torch.optim.AdamW(trainable.model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        losses.append(trainable.model(**batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_words_that_do_not_fit_and_pictures_that_are_lost(trained, emblems, capsys):
    (post,) = read_split(emblems, "dev")[:1]
    long = dataclasses.replace(post, tokens=(*post.tokens, *["and"] * 80), image="none.png")
    (answer,) = UmtTagger(trained).load(emblems)([long], [Prediction(post.id)])
    assert "none.png" in answer.errors[0]
    assert "words did not fit into 64 pieces" in answer.errors[1]
    half = dataclasses.replace(post, tokens=("and", "and" * 30), image=None)
    assert "the last word did not fit" in UmtTagger(trained).load(emblems)([half], [Prediction(post.id)])[0].errors[0]
    lone = dataclasses.replace(post, tokens=("Ann", "\ufe0f"))
    assert UmtTagger(trained).load(emblems)([lone], [Prediction(post.id)])[0].errors == ()
    UmtTraining("tiny", base="tiny", max_pieces=8).prepare(StageData([long], [], emblems, TYPES, 0))
    said = capsys.readouterr().out
    assert "1 of 1 posts do not fit into 8 pieces" in said
    assert "1 of 1 posts are read without their picture" in said


def test_a_checkpoint_of_the_authors(tmp_path, emblems, monkeypatch):
    """At toy size; the types are called as the recipe has them."""
    import rivegs_mllm.cascade.tagging.umt as umt
    import rivegs_mllm.published.umt.checkpoint as checkpoint

    words = (DATA / "vocab.txt").read_text().splitlines()
    BertTokenizerFast(vocab={word: place for place, word in enumerate(words)}).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    torch.save(ResNet("resnet18").state_dict(), tmp_path / "pytorch_encoder.bin")
    choice = UmtTagger(tmp_path / "pytorch_model.bin", str(tmp_path / "bert"), tmp_path / "pytorch_encoder.bin")
    with pytest.raises(StageError, match=r"tagger \(umt\): .*pytorch_encoder\.bin: lacks resnet\.layer"):
        choice.load(emblems)
    load_resnet = umt.load_resnet
    monkeypatch.setattr(umt, "load_resnet", lambda _, path: load_resnet("resnet18", path))
    with pytest.raises(StageError, match=r"tagger \(umt\): .*pytorch_model\.bin: lacks .*another size"):
        choice.load(emblems)
    monkeypatch.setattr(checkpoint, "Sizes", lambda: dataclasses.replace(TOY, channels=512))
    wide = {name: torch.zeros(32, 512) for name in ("vismap2text.weight", "vismap2text_v2.weight")}
    torch.save({**WEIGHTS, **wide}, tmp_path / "pytorch_model.bin")
    short = [dataclasses.replace(one, tokens=one.tokens[:4]) for one in read_split(emblems, "dev")]
    predictor = dataclasses.replace(choice.predictor(emblems), max_pieces=16)
    assert {entity.type for found, _ in predictor.tag(short) for entity in found} <= set(TYPES)
    with pytest.raises(StageError, match=r"pytorch_model\.bin .*set `encoder`"):
        UmtTagger(tmp_path / "pytorch_model.bin").load(emblems)


def test_settings_that_do_not_fit(trained, emblems, tmp_path, resnet, base):
    with pytest.raises(UserError, match=r"stage\.resnet_weights"):
        UmtTraining("tiny")
    with pytest.raises(UserError, match="and not both"):
        UmtTraining("tiny", base="tiny", resnet_weights=resnet)
    data = StageData(read_split(emblems, "train"), [], emblems, TYPES, 0)
    with pytest.raises(UserError, match=r"max_pieces: 9999; the encoder reads 256"):
        UmtTraining("tiny", base=str(base), max_pieces=9999).prepare(data)
    with pytest.raises(StageError, match="trained on the types"):
        UmtTagger(trained, types=["PER"]).load(emblems)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "umt.safetensors").write_bytes(b"")
    with pytest.raises(StageError, match=r"tagger \(umt\): .*umt\.safetensors"):
        UmtTagger(tmp_path / "run").load(emblems)


def test_features_for_examples(trained, emblems):
    contents = pairs_of(read_split(emblems, "dev"), emblems)
    made = {name: UmtFeatures(trained, name, batch_size=4).make(contents) for name in ("fused", "text", "image")}
    for vectors in made.values():
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert made["fused"].shape[1] == 2 * made["text"].shape[1] == 2 * made["image"].shape[1]
    alone = UmtFeatures(trained).make(contents[:1])
    np.testing.assert_allclose(alone, made["fused"][:1], atol=1e-5)
    other = dataclasses.replace(contents[0], picture=contents[1].picture)
    np.testing.assert_allclose(UmtFeatures(trained, "text").make([other]), made["text"][:1], atol=1e-5)
    assert np.abs(UmtFeatures(trained, "image").make([other]) - made["image"][:1]).max() > 1e-4
    with pytest.raises(UserError, match=r"none\.png"):
        UmtFeatures(trained).make([dataclasses.replace(other, picture=emblems / "none.png")])
