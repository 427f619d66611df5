"""Tiny untrained vision-language encoders, one a family of the classifier's, each saved with its own processor."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_grounders import bert_tokenizer, clip_tokenizer
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    ViltConfig,
    ViltImageProcessor,
    ViltModel,
    ViltProcessor,
)

_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_SEES = {**_SMALL, "image_size": 32, "patch_size": 16}


def save_clip(folder: Path) -> Path:
    """A CLIP for pictures of 32 pixels and texts of 40 tokens."""
    tokenizer = clip_tokenizer()
    text = {
        **_SMALL,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config=_SEES, projection_dim=12)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _save(folder, CLIPModel(config), CLIPProcessor(images, tokenizer))


def save_siglip(folder: Path) -> Path:
    """A SigLIP for pictures of 32 pixels and texts of 40 tokens."""
    text = {**_SMALL, "vocab_size": 1030, "max_position_embeddings": 40}
    config = SiglipConfig(text_config=text, vision_config=_SEES)
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, SiglipModel(config), SiglipProcessor(images, bert_tokenizer()))


def save_blip(folder: Path) -> Path:
    """A BLIP with its head for image-text matching, for pictures of 32 pixels."""
    text = {**_SMALL, "vocab_size": 1030, "encoder_hidden_size": 16, "max_position_embeddings": 64, "bos_token_id": 101}
    config = BlipConfig(text_config=text, vision_config=_SEES, projection_dim=12, image_text_hidden_size=12)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, BlipForImageTextRetrieval(config), BlipProcessor(images, bert_tokenizer()))


def save_vilt(folder: Path) -> Path:
    """A ViLT for pictures whose short side is 384 pixels, as it has it itself: smaller ones shrink to nothing.

    Its weights are drawn wide: from narrow ones it often stays where it tells no picture from the other.
    """
    sees = {"image_size": 384, "patch_size": 32, "initializer_range": 0.2}
    config = ViltConfig(**_SMALL, **sees, vocab_size=1030, max_position_embeddings=40)
    images = ViltImageProcessor(size={"shortest_edge": 384}, size_divisor=32)
    return _save(folder, ViltModel(config), ViltProcessor(images, bert_tokenizer()))


def _save(folder: Path, model, processor) -> Path:
    torch.manual_seed(0)
    model.init_weights()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
