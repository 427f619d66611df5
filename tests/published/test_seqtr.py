"""SeqTR against numbers that the original code gave for a toy model (tests/data/published/seqtr)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file

from rivegs_mllm.published.seqtr.decoding import fill_outline, generate, outline_tokens, resize_mask
from rivegs_mllm.published.seqtr.model import SeqTR, product
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK, Sizes
from rivegs_mllm.published.seqtr.tokens import decoder_inputs, quantise, restore, targets

DATA = Path(__file__).parents[1] / "data" / "published" / "seqtr"
CASE = load_file(DATA / "case.safetensors")
RESULTS = json.loads((DATA / "results.json").read_text())
NAMES = {BOX: "det", MASK: "segm", BOTH: "multi"}
TOY = {
    "words": 20,
    "points": 6,
    "bins": 160,
    "word_width": 12,
    "gru": 16,
    "darknet": (4, 6, 8, 10, 16, 32),
    "width": 64,
    "heads": 4,
    "ffn": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
}
PADDED = CASE["in.pad_shape"][:, :2]
SHAPES = CASE["in.img_shape"][:, :2]
WORDS = CASE["in.ref_expr_inds"]
PICTURES = CASE["in.img"].float()


def weights(task: str) -> dict[str, torch.Tensor]:
    whole = load_file(DATA / "weights.safetensors")
    own = {name: value for name, value in whole.items() if not name.startswith("@")}
    mark = f"@{NAMES[task]}/"
    return own | {name.removeprefix(mark): value for name, value in whole.items() if name.startswith(mark)}


def toy(task: str) -> SeqTR:
    model = SeqTR(Sizes(task=task, **TOY), as_published=True)
    model.load_state_dict(weights(task))
    return model.eval()


def close(ours: torch.Tensor, name: str, tolerance: float) -> None:
    torch.testing.assert_close(ours, CASE[name].reshape(ours.shape), atol=tolerance, rtol=0)


def sequence(task: str) -> torch.Tensor:
    sizes = Sizes(task=task, **TOY)
    outlines = CASE["in.gt_mask_vertices"].transpose(1, 2).flatten(1)
    return targets(quantise(CASE["in.gt_bbox"], PADDED, sizes), quantise(outlines, PADDED, sizes), sizes)


@pytest.mark.parametrize("task", NAMES)
def test_sequences_to_be_written(task):
    assert sequence(task).equal(CASE[f"{NAMES[task]}.targets"])


def test_the_picture_s_maps():
    model = toy(BOX)
    with torch.no_grad():
        maps = model.vis_enc(PICTURES)
        for number, own in enumerate(maps):
            close(own, f"out.vis.{number}", 2e-4)
        close(model.lan_enc(WORDS), "out.lang", 2e-5)
        close(model.fuse(PICTURES, WORDS), "out.fused", 2e-4)
        given = [CASE[f"out.vis.{number}"] for number in range(3)]
        close(model.fusion(given), "out.fusion.top", 1e-5)
        close(product(model.fusion(given), CASE["out.lang"][:, 0]), "out.fused", 1e-5)


@torch.no_grad()
def test_a_picture_is_looked_at_once_for_all_expressions():
    model, runs = toy(BOX), []
    model.vis_enc.register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    together = generate(model, model.encode(PICTURES[:1], WORDS, SHAPES[:1])).scores
    assert runs == [1]
    alone = [generate(model, model.encode(PICTURES[:1], WORDS[row : row + 1], SHAPES[:1])).scores for row in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_the_places_of_the_picture():
    memory = toy(BOX).encode_fused(CASE["out.fused"], SHAPES, (128, 96))
    assert memory.padding.equal(CASE["out.x_mask"])
    close(memory.values, "out.memory", 2e-5)
    close(memory.keys - memory.values, "out.x_pos", 2e-5)


@pytest.mark.parametrize("task", NAMES)
def test_scores_and_loss(task):
    model, name = toy(task), NAMES[task]
    with torch.no_grad():
        tokens = decoder_inputs(sequence(task), model.sizes)
        close(model.embed(tokens), f"{name}.seq_in_embeds", 0)
        memory = model.encode_fused(CASE["out.fused"], SHAPES, (128, 96))
        close(model.score(tokens, memory), f"{name}.logits", 2e-5)
        out = model(PICTURES, WORDS, SHAPES, sequence(task))
    close(out["scores"], f"{name}.logits", 1.5e-3)
    close(out["loss"], f"{name}.loss", 1e-4)


@pytest.mark.parametrize("task", NAMES)
def test_gradients(task):
    model = toy(task)
    model(PICTURES, WORDS, SHAPES, sequence(task))["loss"].backward()
    norms = {name: float(own.grad.norm()) for name, own in model.named_parameters() if own.requires_grad}
    wanted = RESULTS["gradient_norms"][NAMES[task]]
    assert norms.keys() == wanted.keys()
    assert norms == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    if task == BOX:
        for name, value in model.named_parameters():
            if f"grad.{name}" in CASE:
                torch.testing.assert_close(value.grad, CASE[f"grad.{name}"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("task", NAMES)
def test_greedy_decoding(task):
    model, name = toy(task), NAMES[task]
    written = generate(model, model.encode(PICTURES, WORDS, SHAPES))
    close(written.scores, f"{name}.greedy.step_logits", 1.5e-3)
    if task != MASK:
        assert written.boxes.equal(CASE[f"{name}.greedy.seq_out_bbox"])
        boxes = restore(written.boxes, PADDED, model.sizes)
        close(boxes, f"{name}.greedy.boxes_padded", 0)
        close(boxes / CASE["in.scale_factor"], f"{name}.greedy.boxes_rescaled", 1e-12)
    if task != BOX:
        assert written.outlines.equal(CASE[f"{name}.greedy.seq_out_mask"])
        wanted = RESULTS["masks_of_greedy"][name]
        for row, tokens in enumerate(written.outlines):
            original = ((80, 60), (200, 128))[row]
            assert_masks(tokens, PADDED[row], original, wanted["padded"][row], wanted["rescaled"][row])


def assert_masks(tokens, padded, original, wanted, wanted_rescaled) -> None:
    sizes = Sizes(task=MASK, **TOY)
    kept = torch.tensor([outline_tokens(tokens.tolist(), sizes.end)], dtype=torch.long)
    points = restore(kept, padded[None], sizes)[0].tolist()
    mask = fill_outline(points, tuple(padded.tolist()), as_published=True)
    for own, theirs in ((mask, wanted), (resize_mask(mask, original), wanted_rescaled)):
        coded = coco.encode(np.asfortranarray(own, dtype=np.uint8))
        assert coded["counts"].decode() == theirs["counts"]
        assert own.sum() == theirs["area"]


@pytest.mark.parametrize("number", range(6))
def test_masks_of_given_tokens(number):
    given = RESULTS["masks_of_given_tokens"]
    case = given["cases"][number]
    padded, original = torch.tensor(given["pad_shape"]), tuple(given["ori_shape"])
    assert_masks(torch.tensor(case["tokens"]), padded, original, case["padded"], case["rescaled"])


def test_two_points_enclose_nothing_by_default():
    assert not fill_outline([10, 10, 40, 40], (60, 60)).any()
    assert fill_outline([10, 10, 40, 40], (60, 60), as_published=True).any()


def test_tokens_of_coordinates():
    sizes = Sizes(task=BOX, **TOY)
    padded = PADDED[:1].expand(3, -1)
    found = quantise(CASE["quant.in"], padded, sizes, as_published=True)
    assert found.equal(CASE["quant.out"])
    assert targets(found, found, sizes).equal(CASE["quant.targets"])
    assert (quantise(CASE["quant.in"], padded, sizes) < sizes.end).all()
    long = torch.tensor([[320, 320]])
    outline = torch.tensor([[-1.0, -1.0, 300.0, 200.0]])
    assert quantise(outline, long, sizes, as_published=True).equal(CASE["quant.minus_one_pad320"])
    assert quantise(outline, long, sizes).tolist() == [[160, 160, 150, 100]]


def test_a_step_of_training():
    model = toy(BOX).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=5e-4, betas=(0.9, 0.98), eps=1e-9, amsgrad=True)
    loss = model(PICTURES, WORDS, SHAPES, sequence(BOX))["loss"]
    loss.backward()
    close(loss.detach(), "train.loss", 1e-4)
    norm = torch.nn.utils.clip_grad_norm_(trained, 0.15)
    torch.testing.assert_close(norm, CASE["train.grad_norm_before_clip"], rtol=1e-3, atol=0)
    optimizer.step()
    state = model.state_dict()
    for name in (name for name in CASE if name.startswith("train.after.")):
        close(state[name.removeprefix("train.after.")], name, 1e-4)


def test_frozen_items_keep_their_statistics_by_default():
    model = SeqTR(Sizes(task=BOX, **TOY))
    model.load_state_dict(weights(BOX))
    model.train()(PICTURES, WORDS, SHAPES, sequence(BOX))
    state, before = model.state_dict(), weights(BOX)
    assert state["vis_enc.darknet.0.bn.running_mean"].equal(before["vis_enc.darknet.0.bn.running_mean"])
    assert not state["vis_enc.darknet.13.bn.running_mean"].equal(before["vis_enc.darknet.13.bn.running_mean"])
