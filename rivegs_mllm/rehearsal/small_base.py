"""A base like the real one that a laptop can train: the same code, sizes of heads, patches and precision; fewer layers,
narrower ones, and random weights.

Its processor is the real one where the machine has it. A stand-in cuts pictures as the real one does, by the family's
patches; its tokens are those of a vocabulary trained on the posts, by which texts are rather too long.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from rivegs_mllm.tiny.architecture import CHAT_TEMPLATE, as_pretrained, train_bpe

LAYERS = 2
VOCABULARY = 9_000
"""With as many, the posts of Twitter-GMNER have 7 % more tokens than by the vocabulary of Qwen, and 2 % more with their
knowledge, which is the safe side."""
SPARE_ROWS = 271
"""The embedding of Qwen2.5-VL has 151,936 rows for 151,665 tokens."""

_FAMILIES = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor, (56 * 56, 28 * 28 * 1280)),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, (56 * 56, 28 * 28 * 16384)),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor, (256 * 256, 4096 * 4096)),
}
"""The classes of a family's processor, and the limits of a picture's area that its makers ship it with."""
_SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_FLAT = ("qwen2_vl", "qwen2_5_vl")
"""Families whose chat template begins with ``_SYSTEM_TURN``, and whose config.json on the hub has the language model's
settings beside the others, in no section."""


def stand_in_processor(config: PreTrainedConfig, texts: Iterable[str]) -> ProcessorMixin:
    """A processor of the family of ``config`` that cuts pictures as its own does, with a vocabulary of ``texts``."""
    processor, video, (least, most) = _FAMILIES[config.model_type]
    tower = config.vision_config
    geometry = {
        "patch_size": tower.patch_size,
        "merge_size": tower.spatial_merge_size,
        "temporal_patch_size": tower.temporal_patch_size,
        "size": {"shortest_edge": least, "longest_edge": most},
    }
    return processor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=as_pretrained(train_bpe(texts, VOCABULARY)),
        video_processor=video(**geometry),
        chat_template=(_SYSTEM_TURN if config.model_type in _FLAT else "") + CHAT_TEMPLATE,
    )


def save_small_base(folder: Path, config: PreTrainedConfig, processor: ProcessorMixin, dtype: str) -> None:
    """A small base like the one of ``config``, with weights of ``dtype``, and its processor."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(shrink(config, processor.tokenizer), dtype=dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if config.model_type in _FLAT:
        _flatten(folder / "config.json")


def shrink(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedConfig:
    """The config with two layers in language model and tower, two heads of the real size in each, and as many rows in
    the embedding as the tokenizer needs, some to spare."""
    small = copy.deepcopy(config)
    text, tower = small.get_text_config(), small.vision_config
    # Qwen3's heads are not as wide as hidden size and their number say.
    head = text.to_dict().get("head_dim") or text.hidden_size // text.num_attention_heads
    text.hidden_size, text.intermediate_size = 2 * head, 4 * head
    text.num_attention_heads, text.num_key_value_heads = 2, 1
    text.num_hidden_layers = LAYERS
    if "layer_types" in text.to_dict():  # Qwen3 has none
        text.layer_types = text.layer_types[:LAYERS]
    text.vocab_size = len(tokenizer) + SPARE_ROWS
    text.bos_token_id, text.eos_token_id, text.pad_token_id = None, tokenizer.eos_token_id, tokenizer.pad_token_id
    _shrink_tower(small.model_type, tower, text.hidden_size)
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    for key, token in names.items():
        setattr(small, key, tokenizer.convert_tokens_to_ids(token))
    return small


def _shrink_tower(family: str, tower: PreTrainedConfig, width: int) -> None:
    """``width`` is the language model's."""
    own = "embed_dim" if family == "qwen2_vl" else "hidden_size"
    hidden = 2 * (vars(tower)[own] // tower.num_heads)
    setattr(tower, own, hidden)
    tower.depth, tower.num_heads = LAYERS, 2
    if family == "qwen2_vl":
        tower.hidden_size = width
        return
    tower.intermediate_size, tower.out_hidden_size = 2 * hidden, width
    if family == "qwen2_5_vl":
        tower.fullatt_block_indexes = [LAYERS - 1]
    else:
        tower.deepstack_visual_indexes = [0]


def _flatten(path: Path) -> None:
    content = json.loads(path.read_text())
    text = {key: value for key, value in content.pop("text_config").items() if key != "model_type"}
    path.write_text(json.dumps({**text, **content}))
