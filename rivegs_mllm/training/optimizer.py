"""Muon in place of transformers' own optimisers, for runs of few steps."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from rivegs_mllm.types import UserError


def muon(model: torch.nn.Module, arguments: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, object]]:
    """torch's Muon (Jordan et al., 2024) and its options, as Trainer takes them.

    An update's singular values are made equal, so that a matrix of LoRA moves in all of its directions and not only
    in the few that the gradient favours. Its size is that of an AdamW update (arXiv 2502.16982), so that
    ``train.learning_rate`` means the same. Raises UserError under DeepSpeed, and where something is trained that is
    not a matrix of an adapter.
    """
    if arguments.deepspeed is not None or arguments.deepspeed_plugin is not None:
        raise UserError(
            "muon: DeepSpeed splits matrices between processes, which Muon needs undivided; set it to false"
        )
    for name, value in model.named_parameters():
        if value.requires_grad and (value.ndim != 2 or ".lora_" not in name):
            raise UserError(f"muon: is for the matrices of LoRA, and {name} is trained too; set it to false")
    return torch.optim.Muon, {"lr": arguments.learning_rate, "adjust_lr_fn": "match_rms_adamw"}
