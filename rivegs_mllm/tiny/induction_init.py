"""A start for the language model from which it can copy at once.

Copying out of the prompt takes an induction circuit (Olsson et al. 2022, In-context Learning and Induction Heads): a
head that tells each token which one stands before it, and a later head that looks for the place whose predecessor is
the current token. Small models trained on the CPU find it after hours or not at all, and without it they memorise names
instead of copying them. Here two heads' weights are initialised as this circuit: the untrained model repeats a random
sequence. Training does the rest.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

FAST, SLOW = 8, 12
"""Rotary frequencies below FAST distinguish neighbours; those from SLOW on hardly turn within a post."""
NEIGHBOUR = 6.0  # of the bias that makes a head look one token back: others score below it by four and more
MATCH = 2.2  # of the projections whose product is the match of two tokens
COPY = 8.0  # by how much a copied token outweighs the current one
EMBEDDING = 2.0  # times the common start, so that tokens outweigh what other heads add to them


@torch.no_grad()
def init_induction_heads(language_model: PreTrainedModel) -> None:
    """Sets the first head of the first layer to look one token back, and that of the second to match and to copy.

    The embedding's last ``head_dim`` dimensions are cleared: the first of these heads writes there. What layers add to
    the residual stream starts smaller by the root of their number (Radford et al. 2019, section 2.3).
    """
    config = language_model.config
    size = config.hidden_size // config.num_attention_heads
    own = config.hidden_size - size
    pairs = size // 2
    embedding = language_model.embed_tokens.weight
    embedding *= EMBEDDING
    embedding[:, own:] = 0
    for layer in language_model.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight /= (2 * config.num_hidden_layers) ** 0.5
    scale = embedding[:, :own].std()
    read = torch.linalg.qr(torch.randn(own, size))[0].T
    copy = torch.linalg.qr(torch.randn(own, size))[0].T

    theta = config.rope_parameters["rope_theta"] ** (-torch.arange(FAST) / pairs)
    back = _clear_head(language_model.layers[0].self_attn, size)
    back.q_proj.bias[:FAST] = NEIGHBOUR * theta.cos()
    back.q_proj.bias[pairs : pairs + FAST] = -NEIGHBOUR * theta.sin()
    back.k_proj.bias[:FAST] = NEIGHBOUR
    back.v_proj.weight[:size, :own] = read
    back.o_proj.weight[own:, :size] = scale * torch.eye(size)

    slow = torch.cat([torch.arange(SLOW, pairs), torch.arange(pairs + SLOW, size)])
    match = _clear_head(language_model.layers[1].self_attn, size)
    match.q_proj.weight[slow, :own] = MATCH * read[slow]
    match.k_proj.weight[slow, own + slow] = MATCH
    match.v_proj.weight[:size, :own] = copy
    match.o_proj.weight[:own, :size] = COPY * scale * copy.T


def _clear_head(attention: torch.nn.Module, size: int) -> torch.nn.Module:
    """The attention with its first head (queries, keys, values and output, ``size`` dimensions) set to zero."""
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:size] = 0
        projection.bias[:size] = 0
    attention.o_proj.weight[:, :size] = 0
    return attention
