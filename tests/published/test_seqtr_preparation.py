"""What SeqTR is fed, against what the original code prepared (tests/data/published/seqtr)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_seqtr import CASE, DATA, TOY, toy, weights

from rivegs_mllm.published.seqtr.checkpoint import (
    SIZES,
    VOCABULARY,
    WEIGHTS,
    load,
    load_published,
    read_vocabulary,
    save,
)
from rivegs_mllm.published.seqtr.contours import area, largest_outline
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.optimisation import WithAveragedWeights, learning_rate_factor
from rivegs_mllm.published.seqtr.preparation import batch_images, clean, outline_of, prepare_image, vocabulary, word_ids
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK, Sizes
from rivegs_mllm.published.seqtr.words import main
from rivegs_mllm.types import UserError

TEXT = json.loads((DATA / "text.json").read_text())


def test_words():
    said = [text for split in TEXT["vocabulary_from"].values() for one in split for text in one["expressions"]]
    known = vocabulary(said)
    assert known == TEXT["vocabulary"]
    for case in TEXT["expressions"]:
        assert " ".join(clean(case["raw"])) == case["clean"]
        row, cut = word_ids(case["raw"], known)
        assert row == (case["ids"] if case["clean"] else [1] + [0] * 14)
        assert cut == max(0, len(case["clean"].split()) - 15)


def test_a_picture_and_its_box():
    image = CASE["prep.in.bgr"].numpy()[..., ::-1]
    made = prepare_image(image, side=96)
    theirs = CASE["prep.out.img_hwc_rgb"].permute(2, 0, 1).float()
    assert made.frame == theirs.shape[1:]
    assert made.shape == (61, 96)
    assert made.pixels.equal(theirs)
    assert made.factors * 2 == pytest.approx(CASE["prep.out.scale_factor"].tolist(), rel=1e-6)
    box = CASE["prep.in.bbox"] * torch.tensor(made.factors * 2, dtype=torch.float64)
    torch.testing.assert_close(box, CASE["prep.out.bbox"], rtol=1e-6, atol=0)


def test_outlines():
    mask = CASE["prep.in.mask"].numpy().astype(bool)
    assert outline_of(mask, 6, (61, 96)) == CASE["prep.out.vertices"].T.flatten().tolist()
    square = np.zeros((64, 96), dtype=bool)
    square[10:12, 20:22] = True
    assert outline_of(square, 6) == CASE["prep.out.vertices_small"].T.flatten().tolist()
    line = np.zeros((64, 96), dtype=bool)
    line[5, 3:40] = True
    assert outline_of(line, 6) == CASE["prep.out.vertices_line"].T.flatten().tolist()
    assert outline_of(np.zeros((8, 8), dtype=bool), 2) == [-1.0] * 4


def test_the_largest_of_several_outlines():
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:3, 1:3] = True
    mask[5:11, 4:10] = True
    mask[7:9, 6:8] = False
    found = largest_outline(mask)
    assert found[0].tolist() == [4, 5]
    assert area(found) == 25
    assert len(found) == 20


def test_pictures_of_several_shapes_in_a_batch():
    made = [prepare_image(np.full((40, 80, 3), 9, np.uint8), 96), prepare_image(np.full((80, 40, 3), 9, np.uint8), 96)]
    whole = batch_images(made)
    assert whole["pictures"].shape == (2, 3, 96, 96)
    assert whole["shapes"].tolist() == [[48, 96], [96, 48]]
    assert [one.frame for one in made] == [(64, 96), (96, 64)]
    assert not whole["pictures"][0, :, 48:].any()


def test_averaged_weights():
    model = toy(BOX)
    averaged = WithAveragedWeights(model)
    for step in range(3):
        with torch.no_grad():
            model.head.predictor[2].fc.bias += 1
            model.vis_enc.darknet[0].bn.running_mean += 2
            model.vis_enc.darknet[0].bn.num_batches_tracked += 1
        averaged.follow()
        for name in (name for name in CASE if name.startswith(f"ema.{step}.")):
            torch.testing.assert_close(averaged.mean.state_dict()[name.removeprefix(f"ema.{step}.")], CASE[name])


def test_rates():
    epochs = {BOX: (0, 4, 5, 48, 49), MASK: (0, 4, 5, 73, 74)}
    for task, count in ((BOX, 60), (MASK, 90)):
        found = [learning_rate_factor(epoch / count, task) for epoch in epochs[task]]
        assert found == pytest.approx([1 / 6, 5 / 6, 1, 1, 0.1])


@pytest.mark.parametrize("task", [BOX, MASK, BOTH])
def test_a_folder_is_written_and_read_back(tmp_path, task):
    words = {f"word{number}": number for number in range(20)}
    model = toy(task)
    save(model, words, tmp_path)
    again, known = load(tmp_path)
    assert known == words
    assert again.sizes == model.sizes
    assert all(value.equal(again.state_dict()[name]) for name, value in model.state_dict().items())


def test_folders_that_are_no_model(tmp_path):
    save(toy(BOX), {f"word{number}": number for number in range(20)}, tmp_path)
    (tmp_path / VOCABULARY).write_text('{"a": 0, "b": 1}')
    with pytest.raises(UserError, match=r"vocabulary\.json: its numbers are not 0\.\.19"):
        load(tmp_path)
    sizes = json.loads((tmp_path / SIZES).read_text())
    (tmp_path / SIZES).write_text(json.dumps({**sizes, "width": 32}))
    with pytest.raises(UserError, match=r"model\.safetensors: is of another size: .*\[160, 64\]|another size"):
        load(tmp_path)
    (tmp_path / SIZES).write_text(json.dumps({**sizes, "task": "boxes"}))
    with pytest.raises(UserError, match=r"sizes\.json: task: .*box, mask, both"):
        load(tmp_path)
    (tmp_path / SIZES).unlink()
    with pytest.raises(UserError, match=r"sizes\.json: cannot be read"):
        load(tmp_path)


@pytest.fixture(scope="module")
def published_names() -> dict[str, tuple[int, ...]]:
    """The shapes of a model of the published sizes."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in SeqTR(Sizes(words=50)).state_dict().items()}


def test_the_published_sizes_have_the_published_names(published_names):
    layers = re.compile(r"coder\.layers\.\d+")
    assert {layers.sub("", name) for name in published_names} == {layers.sub("", name) for name in weights(BOX)}
    assert published_names["vis_enc.darknet.13.conv.weight"] == (1024, 512, 3, 3)
    assert published_names["fusion.top_project.0.conv.weight"] == (1792, 1792, 3, 3)
    assert published_names["head.predictor.2.fc.weight"] == (1001, 256)


def test_a_published_checkpoint_of_another_size(tmp_path):
    path = tmp_path / "det.pth"
    named = {f"module.{name}": value for name, value in weights(BOX).items()}
    torch.save({"epoch": 3, "ema_state_dict": named, "state_dict": {}}, path)
    with pytest.raises(UserError, match=r"det\.pth: .*another size: .* where .* is wanted"):
        load_published(path)
    torch.save({"state_dict": {"a": torch.ones(1)}}, path)
    with pytest.raises(UserError, match=r"det\.pth: holds no SeqTR"):
        load_published(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_files_that_are_no_checkpoint(tmp_path, content):
    if content is not None:
        (tmp_path / "det.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"det\.pth: cannot be loaded as a checkpoint"):
        load_published(tmp_path / "det.pth")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"state_dict": Path}, tmp_path / "det.pth")
    with pytest.raises(UserError, match="cannot be loaded as a checkpoint"):
        load_published(tmp_path / "det.pth")


def test_the_names_of_a_published_checkpoint_are_read(tmp_path, monkeypatch):
    """At toy size: the sizes that shapes do not tell are set to the toy's."""
    import rivegs_mllm.published.seqtr.checkpoint as checkpoint

    monkeypatch.setattr(checkpoint, "Sizes", lambda words, task, points=6: Sizes(**{**TOY, "task": task}))
    for task in (BOX, MASK, BOTH):
        named = {f"module.{name}": value for name, value in weights(task).items()}
        torch.save({"ema_state_dict": named}, tmp_path / "det.pth")
        model = load_published(tmp_path / "det.pth")
        assert model.sizes.task == task
        assert model.head.predictor[2].fc.bias.equal(weights(task)["head.predictor.2.fc.bias"])
    save_file(weights(BOX), tmp_path / WEIGHTS)
    assert load_published(tmp_path / WEIGHTS).sizes.task == BOX
    assert load_published(tmp_path).sizes.task == BOX
    assert load_file(tmp_path / WEIGHTS).keys() == weights(BOX).keys()


def test_words_of_annotations(tmp_path, capsys):
    path, out = tmp_path / "instances.json", tmp_path / "words.json"
    path.write_text(json.dumps(TEXT["vocabulary_from"]))
    assert main([str(path), str(out)]) == 0
    assert read_vocabulary(out, len(TEXT["vocabulary"])) == TEXT["vocabulary"]
    for content, said in (("[]", "not a JSON object"), ('{"train": [{}]}', "holds no splits"), ("{", "not JSON")):
        path.write_text(content)
        assert main([str(path), str(out)]) == 2
        assert said in capsys.readouterr().err
