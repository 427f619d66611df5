"""Tiny untrained models of the architectures that grounders use, each saved with a processor of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BartTokenizerFast,
    BertTokenizerFast,
    CLIPImageProcessor,
    CLIPTokenizerFast,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
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

_POST = {"phrase_grounding": {"banned_grounding_tokens": ["the image"]}}


def bert_tokenizer() -> BertTokenizerFast:
    """A tokenizer of letters and digits, with BERT's special tokens where BERT has them."""
    letters = iter([f"{start}{own}" for start in ("", "##") for own in "abcdefghijklmnopqrstuvwxyz0123456789()-,'@#"])
    words = [_STOPS.get(place) or next(letters, f"[unused{place}]") for place in range(1030)]
    return BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})


def save_grounding_dino(folder: Path) -> Path:
    """A Grounding DINO of 20 queries for pictures of about 96 pixels; of 64, its norms would have one cell."""
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
    images = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
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
    model = Owlv2ForObjectDetection(config)
    for head in (model.class_head, model.box_head):  # transformers leaves them so large that sigmoids saturate
        for value in head.parameters():
            value.data.mul_(0.25)
    model.save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    Owlv2Processor(images, clip_tokenizer()).save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizerFast:
    """A tokenizer of single letters; no token is 0, which OWL takes for padding."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789()-,.'@#")
    words = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(vocab={word: place for place, word in enumerate(words)}, merges=[], pad_token="!")


def save_florence2(folder: Path) -> Path:
    """A Florence-2 for pictures of 64 pixels, of which it sees 4 cells and their mean."""
    vision = {
        "embed_dim": (8, 8, 16, 16),
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 2, 2),
        "num_groups": (1, 1, 2, 2),
        "window_size": 4,
        "projection_dim": 16,
    }
    tokenizer = bart_tokenizer()
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
    torch.manual_seed(0)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    images.image_seq_length = 5
    Florence2Processor(images, tokenizer, post_processor_config=_POST).save_pretrained(folder)
    return folder


def bart_tokenizer() -> BartTokenizerFast:
    """A tokenizer of single bytes and Florence-2's locations."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = BartTokenizerFast(
        vocab={word: place for place, word in enumerate(words)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([f"<loc_{place}>" for place in range(1000)])
    return tokenizer
