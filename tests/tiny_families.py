"""Untrained tiny bases of every family that the answer format knows, with the processor that each has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tiny_base import save_base
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from rivegs_mllm.tiny.architecture import CHAT_TEMPLATE, MAX_PIXELS, MERGE, MIN_PIXELS, PATCH, train_tokenizer

_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
_TOWER = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
_SIZE = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}


def save_family(folder: Path, family: str, corpus: Iterable[str], tied: bool = True) -> Path:
    """A base of that ``model_type``; ``tied``: whether the output layer is the embedding."""
    if family == "qwen2_5_vl":
        return save_base(folder, corpus, tied)
    tokenizer = train_tokenizer(corpus)
    token = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": tied,
    }
    own = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": tied,
    }
    torch.manual_seed(0)
    if family == "qwen2_vl":
        tower = {**_TOWER, "embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
        config = Qwen2VLConfig(text_config={**_TEXT, **own, "rope_parameters": _ROPE}, vision_config=tower, **ids)
        model = Qwen2VLForConditionalGeneration(config)
        kinds = Qwen2VLProcessor, Qwen2VLVideoProcessor
    else:
        rope = {**_ROPE, "mrope_interleaved": True}
        text = {**_TEXT, **own, "head_dim": 64, "rope_parameters": rope}
        tower = {**_TOWER, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128}
        tower |= {"num_position_embeddings": 144, "deepstack_visual_indexes": [0]}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=tower, **ids))
        kinds = Qwen3VLProcessor, Qwen3VLVideoProcessor
    model.save_pretrained(folder)
    geometry = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": _SIZE}
    processor, video = kinds
    processor(
        image_processor=Qwen2VLImageProcessor(**geometry),
        tokenizer=tokenizer,
        video_processor=video(**geometry),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder
