"""H-Index against numbers that the original code gave for a toy model (tests/data/published/hindex)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rivegs_mllm.published.hindex.model import HIndex, Memory, overlap_loss, share_loss, token_loss
from rivegs_mllm.published.hindex.sizes import REGION, Sizes

DATA = Path(__file__).parents[1] / "data" / "published" / "hindex"
CASE = load_file(DATA / "case.safetensors")
RESULTS = json.loads((DATA / "results.json").read_text())
WEIGHTS = load_file(DATA / "weights.safetensors")
TOY = Sizes(rows=129, width=32, layers=2, heads=4, ffn=64, positions=64, region=16)
FIRST_LABEL = 118
IDS, FEATURES, INDICES = CASE["in.src_tokens"], CASE["in.image_feature"], CASE["in.tgt_tokens"]
SHARES = CASE["in.region_label"][(CASE["in.cover_flag"] == 1)[..., 0]][:, :4]
UNFINISHED = INDICES[:, :-1] != 1
"""The decoder's places up to the one that gives the end."""


def weights() -> dict[str, torch.Tensor]:
    """Under the names of the module, without what is in every checkpoint and never used."""
    used = {name: value for name, value in WEIGHTS.items() if "region_select" not in name}
    return {name.removeprefix("seq2seq_model."): value for name, value in used.items()}


def toy(as_published: bool = True) -> HIndex:
    model = HIndex(TOY, FIRST_LABEL, as_published)
    model.load_state_dict(weights())
    return model.eval()


def close(ours: torch.Tensor, name: str, tolerance: float, where: torch.Tensor | None = None) -> None:
    theirs = CASE[name]
    ours, theirs = (ours, theirs) if where is None else (ours[where], theirs[where])
    possible = theirs > -1e20
    assert ((ours > -1e20) == possible).all()
    torch.testing.assert_close(ours[possible], theirs[possible], atol=tolerance, rtol=0)


@torch.no_grad()
def test_states():
    model = toy()
    memory = model.encode(IDS, FEATURES)
    close(memory.regions, "out.img_proj", 2e-5)
    text = model.encoder.bart_encoder.placed(model.table(IDS))
    close(torch.cat((memory.regions, text), 1), "out.encoder_input", 2e-5)
    assert memory.mask.equal(CASE["out.decoder_memory_mask"])
    close(memory.states, "out.encoder", 2e-5)
    close(model.states(INDICES[:, :-1], memory), "out.decoder_hidden", 2e-5, UNFINISHED)


@torch.no_grad()
def test_scores_and_losses():
    model = toy()
    scores = model.score(INDICES[:, :-1], model.encode(IDS, FEATURES))
    close(scores.indices, "out.logits", 5e-5, UNFINISHED)
    boxes = scores.boxes[INDICES[:, :-1] == REGION]
    close(boxes, "out.region_logits", 5e-5)
    close(token_loss(scores.indices, INDICES), "out.loss", 1e-5)
    close(share_loss(boxes, SHARES), "out.region_loss.kl", 1e-5)
    close(overlap_loss(boxes, SHARES), "out.region_loss.bce", 1e-5)


def test_gradients():
    model = toy()
    out = model(IDS, FEATURES, INDICES, SHARES)
    out["loss"].backward()
    torch.testing.assert_close(out["loss"], CASE["out.loss"] + CASE["out.region_loss.kl"], atol=1e-5, rtol=0)
    norms = {f"seq2seq_model.{name}": float(own.grad.norm()) for name, own in model.named_parameters()}
    wanted = {name: value for name, value in RESULTS["gradient_norms"].items() if "region_select" not in name}
    assert norms == pytest.approx({name: value or 0.0 for name, value in wanted.items()}, rel=1e-3, abs=1e-6)
    close(model.table.weight.grad, "grad.embed_tokens", 1e-5)
    for name, value in model.named_parameters():
        if f"grad.seq2seq_model.{name}" in CASE:
            close(value.grad, f"grad.seq2seq_model.{name}", 1e-5)


@torch.no_grad()
def test_the_published_alternative_of_the_region_loss():
    model = HIndex(TOY, FIRST_LABEL, as_published=True, overlap=True)
    model.load_state_dict(weights())
    found = model.eval()(IDS, FEATURES, INDICES, SHARES)["loss"]
    torch.testing.assert_close(found, CASE["out.loss"] + CASE["out.region_loss.bce"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_regions_are_seen_by_default():
    """As published, a region changes no state of the text; by default it does, and missing ones do not."""
    larger, missing = FEATURES.clone(), FEATURES == 0
    larger[:, 0] *= 1.5
    for as_published in (True, False):
        model = toy(as_published)
        before, after = (model.encode(IDS, own).states[:, 4:] for own in (FEATURES, larger))
        assert after[0].equal(before[0]) == as_published
    model = toy(as_published=False)
    model.encoder.bart_encoder.img_proj.bias += 1
    moved = model.encode(IDS[2:3], FEATURES[2:3]).states[:, 4:]
    assert missing[2].all()
    torch.testing.assert_close(moved, toy(False).encode(IDS[2:3], FEATURES[2:3]).states[:, 4:])
    assert isinstance(model.encode(IDS, FEATURES), Memory)
