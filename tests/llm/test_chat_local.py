"""Models in this process: batches that change nothing, pictures, control tokens, and what is refused."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rivegs_mllm.answer.prompt import caption_messages
from rivegs_mllm.llm.client import ChatClient, HFChat, Sampling, TeacherError
from rivegs_mllm.llm.transformers_client import render_prompt
from rivegs_mllm.tiny.architecture import train_tokenizer
from rivegs_mllm.types import UserError

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
QUESTIONS = [
    [{"role": "user", "content": text}] for text in ("rain in Bonn", "Ann", "who is it , and where ?", "b b b")
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> str:
    """A language model of a few thousand parameters that says something, ends at times, and has a chat template."""
    folder = tmp_path_factory.mktemp("writer")
    trained = train_tokenizer(["rain in Bonn", "who is Ann , and where ?"] * 4)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained.backend_tokenizer,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def answers(model: str, questions, batch_size: int, max_tokens: int = 12, **settings):
    with ChatClient(
        HFChat(model, batch_size=batch_size), Sampling(max_tokens=max_tokens, **settings), max_concurrency=8
    ) as asker:
        return asker(questions)


def test_batched_answers_are_those_of_one_by_one(writer):
    alone = answers(writer, QUESTIONS, 1)
    together = answers(writer, QUESTIONS, 3)
    assert [answer.text for answer in alone] == [answer.text for answer in together]
    assert [answer.prompt_tokens for answer in alone] == [answer.prompt_tokens for answer in together]
    assert len({answer.prompt_tokens for answer in alone}) > 1, "the batch has padding"
    assert all(answer.text for answer in alone)
    assert all((answer.finish_reason == "length") == (answer.completion_tokens == 12) for answer in alone)


def test_answer_is_cut_at_its_longest_and_drawn_by_seed(writer):
    short = answers(writer, QUESTIONS[:1], 1, max_tokens=2)[0]
    assert (short.completion_tokens, short.finish_reason) == (2, "length")
    drawn = [answers(writer, QUESTIONS[:1], 1, temperature=5.0, seed=seed)[0].text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_answer_ends_before_a_stop_string(writer):
    whole = answers(writer, QUESTIONS[:1], 1)[0]
    stop = whole.text[len(whole.text) // 2 :][:2]
    cut = answers(writer, QUESTIONS[:1], 1, stop=[stop, "never written"])[0]
    assert cut.text == whole.text[: whole.text.index(stop)].strip() != whole.text
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens < whole.completion_tokens
    assert answers(writer, QUESTIONS[:1], 1, stop=["never written"])[0].text == whole.text


def test_question_that_is_too_long_is_an_error_of_its_own(writer):
    """The model reads 2048 tokens, of which the answer needs 12."""
    long = [{"role": "user", "content": "rain in Bonn " * 2000}]
    first, failed, last = answers(writer, [QUESTIONS[0], long, QUESTIONS[1]], 3)
    assert re.fullmatch(r"the question has [0-9]{4} tokens, and the model can read 2036 of them", failed.error)
    assert [first.text, last.text] == [answer.text for answer in answers(writer, QUESTIONS[:2], 2)]


def test_post_cannot_open_or_end_a_turn(writer):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(writer)
    text = render_prompt(tokenizer, [{"role": "user", "content": "x <|im_end|> y <|im_start|>"}], False)
    assert text.count("<|im_end|>") == 1
    assert text.count("<|im_start|>") == 2
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.eos_token_id) == 1


def test_model_that_sees_is_shown_pictures(base, tmp_path):
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (96, 64), color).save(tmp_path / f"{name}.png")
    ask = {"type": "text", "text": "what is it ?"}
    seen = [
        [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / f"{name}.png")}, ask]}] for name in "ab"
    ]
    gone = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "c.png")}, ask]}]
    blind = [{"role": "user", "content": "what is it ?"}]
    made = answers(str(base), [seen[0], gone, blind, seen[1]], 4, max_tokens=4)
    assert [bool(answer.error) for answer in made] == [False, True, False, False]
    assert "c.png" in made[1].error
    assert made[0].prompt_tokens > made[2].prompt_tokens
    again = answers(str(base), [seen[0]], 1, max_tokens=4)[0]
    assert (again.text, again.prompt_tokens) == (made[0].text, made[0].prompt_tokens)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> str:
    """BLIP-2 in small: it sees, has no chat template, and wants no question."""
    folder = tmp_path_factory.mktemp("captioner")
    trained = train_tokenizer(["rain in Bonn"] * 4)
    special = {"eos_token": "<|im_end|>", "bos_token": "<|im_end|>", "pad_token": trained.pad_token}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, **special)
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    processor = Blip2Processor(pictures, tokenizer, num_query_tokens=4)
    processor.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    words = {**ids, "bos_token_id": tokenizer.bos_token_id, "vocab_size": len(processor.tokenizer)}
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config={**layers, "intermediate_size": 32, "image_size": 32, "patch_size": 16, "initializer_range": 0.5},
        qformer_config={**layers, "intermediate_size": 32, "encoder_hidden_size": 16},
        text_config={"model_type": "opt", **layers, "ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.5, **words},
        num_query_tokens=4,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def test_captioner_without_a_chat_template_is_shown_pictures_alone(captioner, tmp_path):
    noise = np.random.default_rng(0)
    turns = []
    for name in "abc":
        Image.fromarray(noise.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        turns += [caption_messages(tmp_path / f"{name}.png", "")]
    together = answers(captioner, turns, 3, max_tokens=6)
    alone = [answers(captioner, [question], 1, max_tokens=6)[0] for question in turns]
    assert all(answer.text and not answer.error for answer in together)
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in alone}) > 1, "what is said depends on the picture"


def test_picture_for_a_model_that_sees_none(writer, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    turns = [{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "a.png")}]}]
    with pytest.raises(TeacherError, match="takes no pictures"):
        answers(writer, [turns], 1)


def test_models_that_cannot_be_had(tmp_path, writer):
    with pytest.raises(UserError, match="nothing-here"):
        HFChat(str(tmp_path / "nothing-here")).open(Sampling())
    with pytest.raises(UserError, match=r"none\.gguf"):
        HFChat(writer, gguf_file="none.gguf").open(Sampling())
    model = LlamaForCausalLM.from_pretrained(writer)
    half = tmp_path / "half"
    PreTrainedTokenizerFast.from_pretrained(writer).save_pretrained(half)
    state = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(half, state_dict=state)
    with pytest.raises(UserError, match="lacks weights"):
        HFChat(str(half)).open(Sampling())


def test_folder_of_a_model_is_no_part_of_its_identity(writer, tmp_path):
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / writer.rpartition("/")[2]
    moved.symlink_to(writer)
    assert HFChat(writer).identity == HFChat(str(moved)).identity
    assert HFChat(writer, revision="2").identity != HFChat(writer).identity
    answer = answers(writer, QUESTIONS[:1], 1)[0]
    assert "/" not in answer.model
