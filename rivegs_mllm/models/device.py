"""The default device and precision of a model, and how many parameters it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def best_device() -> str:
    """The GPU where there is one."""
    import torch  # here, so that what starts other processes need not load it

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(model: nn.Module) -> torch.device:
    """The device that the model's weights are on."""
    return next(model.parameters()).device


def good_dtype(wanted: str, device: str) -> str:
    """``wanted``, or "float32" where ``device`` is a CPU without instructions for it, on which it is many times slower
    than float32. With instructions the demo takes 0.305 s a step in bfloat16."""
    if wanted == "float32" or not device.startswith("cpu"):
        return wanted
    return wanted if wanted == "bfloat16" and has_bfloat16() else "float32"


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; False where that cannot be asked."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def count_parameters(*models: nn.Module) -> int:
    """How many parameters the models have in all."""
    return sum(parameter.numel() for model in models for parameter in model.parameters())
