"""Configs of the bases that the recipes name, from the numbers their makers published: no weights, and no hub."""

from __future__ import annotations

from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen3VLConfig

_QWEN2_5_TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
_ROPE2_5 = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_ROPE3 = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}


def qwen2_5_vl(
    hidden: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int, tied: bool
) -> PreTrainedConfig:
    """A Qwen2.5-VL config (arXiv 2502.13923, table 1)."""
    text = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "rope_parameters": _ROPE2_5,
    }
    tower = {**_QWEN2_5_TOWER, "out_hidden_size": hidden}
    return Qwen2_5_VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=tied)


def qwen3_vl_8b() -> PreTrainedConfig:
    """Qwen3-VL-8B (arXiv 2511.21631)."""
    text = {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "rope_parameters": _ROPE3,
    }
    tower = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}
    return Qwen3VLConfig(text_config=text, vision_config=tower, tie_word_embeddings=False)


BASES = {
    "Qwen/Qwen2.5-VL-7B-Instruct": lambda: qwen2_5_vl(3584, 28, 28, 4, 18944, 152064, tied=False),
    "Qwen/Qwen2.5-VL-3B-Instruct": lambda: qwen2_5_vl(2048, 36, 16, 2, 11008, 151936, tied=True),
    "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl_8b,
}
