"""Attention over many pictures or windows of one packed sequence, equally long ones in one call.

Qwen's vision towers put the patches of all pictures of a batch, window by window, into one sequence, and no patch
attends to another picture or window. Without FlashAttention transformers calls scaled dot-product attention once a
window, 7,072 times a forward pass at batch 4 in Qwen2.5-VL. Windows have few lengths: here each length is a call.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

PACKED = "packed_sdpa_called_as_flash"
"""Its name in transformers, which by the word "flash" in it hands over the boundaries and not the windows."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention within the chunks of a packed sequence, in the interface of transformers' attention functions.

    ``query``, ``key`` and ``value`` are (1, heads, length, width); ``cu_seq_lens_q`` (chunks + 1,) are the chunks'
    boundaries, from 0 to the length. Returns (1, length, heads, width), and None for the weights. What is handed over
    beside these says the same in other ways.
    """
    starts, lengths = cu_seq_lens_q[:-1].long(), cu_seq_lens_q.diff().long()
    heads = [states[0].transpose(0, 1) for states in (query, key, value)]  # (length, heads, width)
    out = torch.empty_like(heads[0])
    for length in lengths.unique().tolist():
        places = starts[lengths == length, None] + torch.arange(length, device=starts.device)
        chunks = [states[places].transpose(1, 2) for states in heads]  # (chunks, heads, length, width)
        own = scaled_dot_product_attention(*chunks, dropout_p=dropout, scale=scaling)
        out[places] = own.transpose(1, 2)
    return out[None], None


def attend_packed(model: PreTrainedModel) -> None:
    """Lets the vision tower of a model with scaled dot-product attention attend by FlashAttention where it is installed
    and can be used, else by the function above."""
    tower = model.model.visual
    if torch.cuda.is_available() and is_flash_attn_2_available() and tower.dtype != torch.float32:
        tower.set_attn_implementation("flash_attention_2")
    else:
        tower.config._attn_implementation = PACKED  # the method would look for a package of that name


AttentionInterface.register(PACKED, packed_attention)
