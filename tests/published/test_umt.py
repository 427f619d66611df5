"""UMT against numbers that the original code gave for a toy model (tests/data/published/umt)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rivegs_mllm.published.umt.labels import TYPES, auxiliary_label_weights, chunks, labels
from rivegs_mllm.published.umt.model import UMT, features
from rivegs_mllm.published.umt.sizes import Sizes

DATA = Path(__file__).parents[1] / "data" / "published" / "umt"
CASE = load_file(DATA / "case.safetensors")
WEIGHTS = load_file(DATA / "weights.safetensors")
RESULTS = json.loads((DATA / "results.json").read_text())
TOY = Sizes(words=100, width=32, layers=2, heads=4, ffn=64, positions=20, channels=24)
MASK = CASE["in.input_mask"]
INPUTS = {
    "input_ids": CASE["in.input_ids"],
    "token_type_ids": CASE["in.segment_ids"],
    "mask": MASK,
    "regions": CASE["in.visual_embeds_att"].flatten(2).transpose(1, 2),
}
TAGS = {"tags": CASE["in.labels"], "auxiliary_tags": CASE["in.auxlabels"]}


def toy() -> UMT:
    model = UMT(TOY)
    model.load_state_dict(WEIGHTS)
    return model.eval()


def close(ours: torch.Tensor, name: str, tolerance: float) -> None:
    """Equal where there are words."""
    theirs = CASE[name]
    if theirs.shape[:2] == MASK.shape:
        ours, theirs = ours[MASK.bool()], theirs[MASK.bool()]
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@torch.no_grad()
def test_states():
    model, found = toy(), {}
    names = {
        "self_attention": "out.self_attention",
        "self_attention_v2": "out.self_attention_v2",
        "vismap2text": "out.vismap2text",
        "vismap2text_v2": "out.vismap2text_v2",
        "txt2img_attention": "out.txt2img",
        "img2txt_attention": "out.img2txt",
        "txt2txt_attention": "out.txt2txt",
        "gate": "out.gate_before_sigmoid",
        "bert": "out.bert.layer.1",
    }
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.__setitem__(name, getattr(out, "last_hidden_state", out))
        )
    states = model.encode(**INPUTS)
    for name, theirs in names.items():
        close(found[name], theirs, 2e-5)
    close(states.scores, "out.emissions.main", 5e-5)
    close(states.auxiliary, "out.emissions.aux", 5e-5)
    close(model.classifier(states.fused), "out.emissions.main_before_mixing", 5e-5)


@torch.no_grad()
def test_losses_and_paths():
    model = toy()
    losses, states = model(**INPUTS, **TAGS), model.encode(**INPUTS)
    for ours, theirs in (("loss", "out.loss"), ("main", "out.loss.main"), ("auxiliary", "out.loss.aux")):
        close(losses[ours], theirs, 1e-4)
    close(model.crf(states.scores, TAGS["tags"], MASK.bool(), "none"), "out.loglik.main", 1e-4)
    close(model.aux_crf(states.auxiliary, TAGS["auxiliary_tags"], MASK.bool(), "none"), "out.loglik.aux", 1e-4)
    for paths, name in (
        (model.decode(states, MASK), "out.viterbi.main"),
        (model.aux_crf.decode(states.auxiliary, MASK.bool()), "out.viterbi.aux"),
    ):
        assert paths == [[own for own in row if own >= 0] for row in CASE[name].tolist()]


def test_gradients():
    model = toy()
    model(**INPUTS, **TAGS)["loss"].backward()
    norms = {name: 0.0 if own.grad is None else float(own.grad.norm()) for name, own in model.named_parameters()}
    wanted = {name: value or 0.0 for name, value in RESULTS["gradient_norms"].items()}
    assert norms == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    for name, value in model.named_parameters():
        if f"grad.{name}" in CASE:
            torch.testing.assert_close(value.grad, CASE[f"grad.{name}"], atol=1e-4, rtol=1e-4)


def test_labels():
    assert labels(TYPES) == RESULTS["labels"]
    assert list(TOY.auxiliary) == RESULTS["auxlabels"]
    assert auxiliary_label_weights(TYPES).double().equal(CASE["in.trans_matrix"])


@pytest.mark.parametrize("case", RESULTS["chunks"], ids=lambda case: " ".join(case["labels"]))
def test_chunks(case):
    assert [list(chunk) for chunk in chunks(case["labels"])] == case["chunks"]


def test_scores_of_chunks():
    check, names = RESULTS["evaluate_check"], labels(TYPES)
    rows = [[{*chunks([names[own] for own in row])} for row in check[side]] for side in ("predicted", "gold")]
    right = sum(len(ours & theirs) for ours, theirs in zip(*rows, strict=True))
    precision, recall = (right / sum(map(len, side)) for side in rows)
    _, f1, theirs_precision, theirs_recall = check["acc_f1_p_r"]
    assert (precision, recall) == (theirs_precision, theirs_recall)
    assert 2 * precision * recall / (precision + recall) == f1


@torch.no_grad()
def test_features_do_not_depend_on_padding_or_neighbours():
    model = toy()
    whole = features(model.encode(**INPUTS), MASK)
    assert whole.text.shape == whole.image.shape == (3, 32)
    assert whole.fused.shape == (3, 64)
    for row, length in enumerate(MASK.sum(1)):
        own = {name: value[row : row + 1, :length] for name, value in INPUTS.items() if name != "regions"}
        alone = features(model.encode(**own, regions=INPUTS["regions"][row : row + 1]), own["mask"])
        for name in ("text", "image", "fused"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(whole, name)[row], atol=2e-5, rtol=0)
    changed = features(model.encode(**{**INPUTS, "regions": INPUTS["regions"] + 1}), MASK)
    assert changed.text.equal(whole.text)
    assert not changed.fused.allclose(whole.fused)
