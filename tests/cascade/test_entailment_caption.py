"""The entailment ``caption``: the stage suite, what is learned, what is cut, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cascade_suite import StageSuite, drafted
from entailment_training import save_colours, train
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.entailment.base import entailment_metrics
from rivegs_mllm.cascade.entailment.caption import CaptionEntailment, CaptionScorer, CaptionTraining, CrossEncoder
from rivegs_mllm.cascade.entailment.classifier import ClassifierEntailment
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.text_encoders import tiny_tokenizer
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.types import TYPES, Entity, Prediction, Sample, UserError

STAGE = "{{type: caption, encoder: tiny, captions: [{captions}], max_length: {length}}}"


def write_captions(path: Path, captions: dict[str, str]) -> Path:
    """A file as RiVEG publishes them."""
    path.write_text("".join(f"imgid:{post}###{text}\n" for post, text in captions.items()))
    return path


@pytest.fixture(scope="module")
def captions(emblems, tmp_path_factory) -> Path:
    """What the pictures show, of all posts of Emblems but the second of dev."""
    said = {}
    for split in ("train", "dev", "test"):
        for sample in read_split(emblems, split):
            shown = [entity.expression for entity in sample.entities if entity.visible]
            said[sample.id] = f"A picture of {' and '.join(shown) or 'nothing much'}."
    del said[read_split(emblems, "dev")[1].id]
    return write_captions(tmp_path_factory.mktemp("captions") / "all.txt", said)


@pytest.fixture(scope="module")
def trained(captions, emblems, tmp_path_factory) -> Path:
    stage = STAGE.format(captions=captions, length=128)
    return train(tmp_path_factory.mktemp("run"), emblems, stage)


class TestCaption(StageSuite):
    slot = "entailment"

    @pytest.fixture(scope="class")
    def choice(self, trained, captions):
        return CaptionEntailment(trained, [captions])

    def test_every_entity_is_decided_on(self, answers):
        for place, answer in enumerate(answers):
            for entity in answer.entities:
                assert entity.visible is (entity.visible_score >= 0.5)
                assert (entity.visible_score > 0) is (place != 1)

    def test_a_post_without_caption_says_so_once(self, answers):
        assert answers[1].entities
        assert answers[1].errors == ("entailment (caption): no caption of the post's picture",)
        assert not any(answer.errors for place, answer in enumerate(answers) if place != 1)


def test_it_learns_what_the_caption_says(tmp_path):
    """Four colours, which caption and expression name: by mention and type alone half would be right."""
    colours = save_colours(tmp_path / "data")
    samples = read_split(colours, "test")
    said = {sample.id: f"the wall is {sample.id.partition('-')[0]} today" for sample in samples}
    captions = write_captions(tmp_path / "captions.txt", said)
    trained = train(tmp_path, colours, STAGE.format(captions=captions, length=40), steps=80, rate=2e-3)
    accuracy = json.loads((trained / "metrics.json").read_text())["dev"]["accuracy"]
    assert accuracy > 0.9
    stage = CaptionEntailment(trained, [captions])
    assert entailment_metrics(stage.load(colours), samples)["accuracy"] == accuracy
    drop_mentions = CaptionEntailment(trained, [captions], query_fields=["mention", "type"])
    assert entailment_metrics(drop_mentions.load(colours), samples)["accuracy"] <= 0.6
    other = write_captions(tmp_path / "other.txt", dict.fromkeys(said, "the wall is red today"))
    assert entailment_metrics(CaptionEntailment(trained, [other]).load(colours), samples)["accuracy"] <= 0.8
    assert entailment_metrics(CaptionEntailment(trained, [captions, other]).load(colours), samples)["accuracy"] > 0.9


def test_needs_the_expressions_that_it_is_given(trained, captions):
    assert CaptionEntailment(trained, [captions]).requires() == ("expander",)
    assert CaptionEntailment(trained, [captions], query_fields=["mention"]).requires() == ()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["a red car and a blue boat on the quiet lake"] * 20)


def reader(tokenizer, length: int) -> CaptionScorer:
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    return CaptionScorer(CrossEncoder(BertModel(config), 0.0), tokenizer, length)


TEXTS = st.text(st.sampled_from("abc é\n\t🙏-"), max_size=60)


@settings(max_examples=60, deadline=None)
@given(caption=TEXTS, text=TEXTS.filter(bool), length=st.integers(5, 40))
@example(caption="", text="aaaa", length=7)
@example(caption=" ", text="aaaa", length=7)
def test_pairs_fit_and_what_was_cut_is_said(tokenizer, caption, text, length):
    pair, note = reader(tokenizer, length).pair(caption, text)
    ids = pair.inputs["input_ids"]
    assert len(ids) <= length
    whole = tokenizer(caption, text).input_ids
    assert ids == whole or note
    if len(whole) <= length:
        assert ids == whole
        assert not note


def test_the_caption_is_cut_first_and_behind_a_word(tokenizer):
    own = reader(tokenizer, 12)
    pair, note = own.pair("a red car and a blue boat on the quiet lake", "the quiet lake")
    first, second = (
        tokenizer.decode([token for token, part in zip(*columns, strict=True) if part == place])
        for columns in [(pair.inputs["input_ids"], pair.inputs["token_type_ids"])]
        for place in (0, 1)
    )
    assert first == "[CLS] a red car and a blue [SEP]"
    assert second == "the quiet lake [SEP]"
    assert "longer than 12 tokens" in note


def test_a_caption_that_is_cut_is_said_in_the_draft(trained, captions, emblems):
    stage = CaptionEntailment(trained, [captions]).load(emblems)
    sample = Sample("dev-00000", ("Ann",))
    partial = Prediction(sample.id, entities=(Entity("Ann", "PER", expression="word " * 300),))
    (answer,) = stage([sample], [partial])
    assert len(answer.errors) == 1
    assert "longer than 128 tokens" in answer.errors[0]


def test_captions_of_a_picture_that_several_posts_have(tmp_path):
    captions = Captions([write_captions(tmp_path / "a.txt", {"17": "A dog."})])
    assert captions.of(Sample("17#2", ("Rex",))) == "A dog."
    assert captions.of(Sample("x", ("Rex",), image="images/17.jpg")) == "A dog."
    assert captions.of(Sample("18", ("Rex",))) == ""


# Bad input


@pytest.mark.parametrize("length", [4, 257])
def test_a_length_that_the_encoder_cannot_read(length, captions, emblems, tmp_path):
    with pytest.raises(StageError, match=r"entailment \(caption\): max_length .* reads 5 to 256 tokens"):
        train(tmp_path, emblems, STAGE.format(captions=captions, length=length))


def test_captions_of_other_posts(emblems, tmp_path):
    other = write_captions(tmp_path / "other.txt", {"elsewhere": "A cat."})
    with pytest.raises(UserError, match=r"of 0 entities of posts with a caption .* `captions` must know"):
        train(tmp_path, emblems, STAGE.format(captions=other, length=64))


def test_posts_without_caption_are_left_out_and_counted(captions, emblems, capsys):
    samples = read_split(emblems, "train")
    wholly = sum(len(sample.entities) for sample in samples)
    first = next(sample for sample in samples if len(sample.entities) == 2)
    lines = [line for line in captions.read_text().splitlines() if not line.startswith(f"imgid:{first.id}#")]
    fewer = captions.with_name("fewer.txt")
    fewer.write_text("\n".join(lines))
    trainable = CaptionTraining("tiny", [fewer]).prepare(StageData(samples, (), emblems, TYPES, 0))
    assert len(trainable.train) == wholly - 2
    assert f"2 of {wholly} entities are of posts without caption" in capsys.readouterr().out


def test_a_file_that_is_not_captions(trained, emblems, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary\n")
    with pytest.raises(UserError, match=r"notes\.txt:1"):
        CaptionEntailment(trained, [path]).load(emblems)


def test_of_another_type_set(trained, captions, emblems):
    with pytest.raises(StageError, match=r"entailment \(caption\).*PER, LOC, ORG, OTHER.*PER, LOC"):
        CaptionEntailment(trained, [captions], types=["PER", "LOC"]).load(emblems)


def test_a_folder_of_another_stage(trained, emblems):
    with pytest.raises(StageError, match=r"type 'caption'; name it with `type: caption`"):
        ClassifierEntailment(trained).load(emblems)


def test_a_folder_that_is_damaged(trained, captions, emblems, tmp_path):
    for path in trained.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(StageError, match=r"damaged.*train the stage again"):
        CaptionEntailment(tmp_path, [captions]).load(emblems)


def test_parts_that_do_not_exist(trained, captions):
    with pytest.raises(UserError, match="query_fields"):
        CaptionEntailment(trained, [captions], query_fields=["name"])
    with pytest.raises(UserError, match="query_fields"):
        CaptionTraining("tiny", [captions], query_fields=[])


def test_a_post_without_entities_needs_no_caption(trained, captions, emblems):
    stage = CaptionEntailment(trained, [captions]).load(emblems)
    sample = read_split(emblems, "dev")[1]
    bare = Prediction(sample.id)
    assert stage([sample], [bare]) == [bare]
    assert stage([sample], [drafted("entailment", sample)])[0].errors
