"""Tiny untrained models of the architectures that grounders use, each saved with a processor of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertTokenizerFast,
    CLIPTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
)

_STOPS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
"""Where BERT has them: Grounding DINO knows the ends of phrases by these numbers."""


def bert_tokenizer() -> BertTokenizerFast:
    """A tokenizer of letters and digits, with BERT's special tokens where BERT has them."""
    letters = iter([f"{start}{own}" for start in ("", "##") for own in "abcdefghijklmnopqrstuvwxyz0123456789()-,'@#"])
    words = [_STOPS.get(place) or next(letters, f"[unused{place}]") for place in range(1030)]
    return BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})


def save_grounding_dino(folder: Path) -> Path:
    """A Grounding DINO of 20 queries for pictures of about 64 pixels."""
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": 1030,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        num_queries=20,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, bert_tokenizer()).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path) -> Path:
    """An OWLv2 for pictures of 64 pixels, in patches of 16, and texts of at most 16 tokens."""
    config = Owlv2Config(
        text_config={
            "vocab_size": 300,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        projection_dim=16,
    )
    torch.manual_seed(0)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    Owlv2Processor(images, clip_tokenizer()).save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizerFast:
    """A tokenizer of single letters; no token is 0, which OWL takes for padding."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789()-,.'@#")
    words = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(vocab={word: place for place, word in enumerate(words)}, merges=[], pad_token="!")
