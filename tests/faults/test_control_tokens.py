"""Whatever comes from a post is text to every model: no special or added token of a tokenizer is read in it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_grounders import save_florence2, save_grounding_dino, save_owlv2
from tiny_scorers import save_blip, save_clip, save_siglip, save_vilt
from transformers import AutoProcessor

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.prompt import messages
from rivegs_mllm.answer.serialization import escape, parse, render
from rivegs_mllm.cascade.entailment.scorer_pretrained import PretrainedScorerRecipe
from rivegs_mllm.cascade.grounding.detector import load_detector
from rivegs_mllm.cascade.grounding.florence2 import Florence2Grounder
from rivegs_mllm.cascade.grounding.vlm import VlmLocator
from rivegs_mllm.models.base_model import TINY_BASE, load_base
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.models.plain_text import escape_special_tokens, ignore_special_tokens, truncate_words
from rivegs_mllm.models.text_encoders import tiny_bart_tokenizer, tiny_tokenizer
from rivegs_mllm.types import TYPES, Entity, Sample

QWEN = [
    "<|im_end|>",
    "<|image_pad|>",
    "<loc_3>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<tool_response>",
]


@pytest.fixture(scope="module")
def processor():
    """The tiny base's, with the tokens of all its relatives."""
    processor = AutoProcessor.from_pretrained(TINY_BASE)
    processor.tokenizer.add_tokens(QWEN)
    return processor


def added(tokenizer) -> set[int]:
    return set(tokenizer.get_added_vocab().values())


def test_no_added_token_is_read_in_a_prompt_or_an_answer(processor):
    tokenizer, encoder = processor.tokenizer, SampleEncoder(processor)
    own = added(tokenizer)
    answer_format = AnswerFormat(
        "qwen2_5_vl", "loc", 3136, 50176, 28, 64, segments=("knowledge", "entities", "expressions")
    )
    usual = set(encoder.prompt(messages(Sample("a", ("a",)), "{text}", TYPES), None)["input_ids"][0].tolist()) & own
    for token in tokenizer.get_added_vocab():
        sample = Sample("a", ("see", token))
        ids = set(encoder.prompt(messages(sample, "{text}", TYPES), None)["input_ids"][0].tolist())
        assert ids & own <= usual, token
        entity = Entity(token, "PER", (1, 2), f"a {token}")
        pieces = render(sample.tokens, f"about {token}", (entity,), answer_format, None)
        assert not set(encoder.answer(pieces, end=False)["answer"].tolist()) & own, token
        read = parse("a", "".join(piece.text for piece in pieces), sample.tokens, answer_format, None)
        assert (read.knowledge, read.entities) == (f"about {token}", (entity,))
        assert not set(tokenizer(escape(token)).input_ids) & own


def test_text_for_chat_models_is_defused(processor):
    tokenizer = processor.tokenizer
    for token in tokenizer.get_added_vocab():
        assert not set(
            tokenizer(escape_special_tokens(f"a {token}{token} b", tokenizer), add_special_tokens=False).input_ids
        ) & added(tokenizer), token
    assert escape_special_tokens("a plain text < 3 | ok", tokenizer) == "a plain text < 3 | ok"


@pytest.mark.parametrize("make", [tiny_tokenizer, tiny_bart_tokenizer])
def test_special_tokens_of_encoders_are_words(make):
    tokenizer = make(["Ada met Bob"])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        words = tokenizer(["see", token], is_split_into_words=True, add_special_tokens=False)
        assert not set(words.input_ids) & special, token
        assert not set(tokenizer(f"see {token} there", add_special_tokens=False).input_ids) & special, token


@pytest.mark.parametrize("save", [save_clip, save_siglip, save_blip, save_vilt])
def test_special_tokens_in_what_a_classifier_reads(tmp_path, save):
    scorer = PretrainedScorerRecipe(str(save(tmp_path))).build()
    assert_words(scorer.tokenizer)


@pytest.mark.parametrize("save", [save_owlv2, save_grounding_dino])
def test_special_tokens_in_what_a_detector_reads(tmp_path, save):
    detector = load_detector(str(save(tmp_path)), None)
    assert_words(detector.processor.tokenizer)
    (tokens, _) = detector.tokenize(["a dog"])
    plain = tokens["input_ids"][0].tolist()
    for token in detector.processor.tokenizer.all_special_tokens:
        ids = detector.tokenize([f"a {token} dog"])[0]["input_ids"][0].tolist()
        special = set(detector.processor.tokenizer.all_special_ids) - {detector.processor.tokenizer.unk_token_id}
        assert sum(one in special for one in ids) == sum(one in special for one in plain), token


def assert_words(tokenizer) -> None:
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        assert not set(tokenizer(f"see {token} there", add_special_tokens=False).input_ids) & special, token


def test_florence2_answers_whatever_an_expression_holds(tmp_path):
    stage = Florence2Grounder(str(save_florence2(tmp_path))).load(tmp_path)
    locate, image = stage.locate, Image.new("RGB", (64, 64))
    tokenizer = locate.processor.tokenizer
    texts = [f"a {token} dog" for token in [*tokenizer.all_special_tokens, "<loc_5>", "<image>"]]
    found = locate(image, [*texts, "dog " * 3000])
    assert len(found) == len(texts) + 1
    assert found[-1].notes[0].startswith("cut to ")
    assert not any(note.startswith("cut to") for own in found[:-1] for note in own.notes)


def test_a_chat_model_is_asked_with_text_alone(trained):
    from rivegs_mllm.config.answering import read_answering

    system = load_base(read_answering(trained.recipe))
    asker = VlmLocator(system.model.eval(), system.processor, system.answer_format, "Where is {text}?", 4)
    torch.manual_seed(0)
    found = asker(
        Image.new("RGB", (64, 64)), ["a <|im_end|> dog", "a <|image_pad|> dog", "a <loc_3> dog", "dog " * 2000]
    )
    assert len(found) == 4
    assert found[-1].notes[0].startswith("cut to ")


def test_a_text_is_cut_behind_a_word():
    tokenizer = ignore_special_tokens(tiny_tokenizer(["Ada met Bob"]))
    assert truncate_words(tokenizer, "Ada met Bob", 100) == "Ada met Bob"
    short = truncate_words(tokenizer, "Ada met Bob " * 50, 12)
    assert (
        short.split()
        == ["Ada", "met", "Bob"] * (len(short.split()) // 3) + ["Ada", "met", "Bob"][: len(short.split()) % 3]
    )
    assert len(tokenizer(short).input_ids) <= 12
