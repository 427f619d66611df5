"""The tiny base's architecture: a Qwen2.5-VL of 8.2 million parameters with a tokenizer and a processor of its own."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from rivegs_mllm.answer.format import AnswerFormat, loc_tokens
from rivegs_mllm.tiny.induction_init import init_induction_heads

PATCH = 14
MERGE = 2
BINS = 64  # of at most 168 pixels: a step is 2.6 pixels
MIN_PIXELS = 84 * 84  # 9 picture tokens
MAX_PIXELS = 168 * 168  # 36
VOCABULARY = 3072  # location tokens among them: embeddings are 0.8 of the 8.2 million parameters
LOCATION_SMOOTHING = 4.0  # bins over which locations start alike
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# ChatML as Qwen has it, without the system turn: every token costs on a laptop.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_answer_format() -> AnswerFormat:
    """The answer format of the scenes that the base is pre-trained on."""
    return AnswerFormat("qwen2_5_vl", "loc", MIN_PIXELS, MAX_PIXELS, PATCH * MERGE, BINS)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens and the location tokens of the ``loc`` box encoding."""
    tokenizer = train_bpe(texts, VOCABULARY - len(loc_tokens(BINS)))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in loc_tokens(BINS)])
    return as_pretrained(tokenizer)


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of ``size`` tokens, Qwen's special ones among them, which splits texts as Qwen's does."""
    tokenizer = Tokenizer(models.BPE())
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_pretrained(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers takes it, an answer ending as Qwen's do."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """The processor: pictures of 84 to 168 pixels a side, 9 to 36 picture tokens."""
    geometry = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 1,  # Qwen's 2 would see every picture twice, as a film of two frames
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**geometry),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model. Weights are drawn from torch's generator: seed it first."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            # Time, height and width share the 32 frequencies of a head of 64.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
            "window_size": PATCH * MERGE * 4,
            "fullatt_block_indexes": [0, 1, 2, 3],  # all: 144 patches need no windows
            "out_hidden_size": 256,
        },
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    smooth_location_embeddings(model.get_input_embeddings().weight, token(loc_tokens(BINS)))
    init_induction_heads(model.model.language_model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@torch.no_grad()
def smooth_location_embeddings(embedding: torch.Tensor, ids: list[int]) -> None:
    """Makes the rows of neighbouring locations start alike, so that a box that is almost correct gives a gradient, too.

    Each column becomes a draw of a Gaussian process along the bins; ``embedding`` is (tokens, width).
    """
    places = torch.arange(len(ids), dtype=torch.float32)
    alike = torch.exp(-((places[:, None] - places) ** 2) / (2 * LOCATION_SMOOTHING**2))
    # The small diagonal keeps the matrix positive definite in float32.
    embedding[ids] = torch.linalg.cholesky(alike + 1e-3 * torch.eye(len(ids))) @ embedding[ids]
