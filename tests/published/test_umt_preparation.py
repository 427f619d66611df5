"""What UMT is fed, against what the original code prepared (tests/data/published/umt); its files; its optimiser."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_umt import CASE, DATA, RESULTS, TOY, WEIGHTS, toy
from transformers import BertTokenizerFast

from rivegs_mllm.published.umt.checkpoint import SIZES, load, load_published, save
from rivegs_mllm.published.umt.labels import TYPES, chunks, labels
from rivegs_mllm.published.umt.model import UMT
from rivegs_mllm.published.umt.optimisation import BertAdam, groups, learning_rate_factor
from rivegs_mllm.published.umt.pictures import (
    ResNet,
    load_resnet,
    normalize,
    pool_patches,
    random_crop,
    resize_to_square,
)
from rivegs_mllm.published.umt.sizes import Sizes
from rivegs_mllm.published.umt.text import batch, rename_types, tags_of_words, targets, word_pieces
from rivegs_mllm.types import UserError


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizerFast:
    words = (DATA / "vocab.txt").read_text().splitlines()
    return BertTokenizerFast(vocab={word: place for place, word in enumerate(words)}, do_lower_case=False)


@pytest.fixture(scope="module")
def tweets() -> list[tuple[list[str], list[str]]]:
    """Words and tags of the tweets."""
    posts = [post.splitlines()[1:] for post in (DATA / "tweets.txt").read_text().strip().split("\n\n")]
    rows = [[line.split("\t") for line in post] for post in posts]
    return [([word for word, _ in row], rename_types([tag for _, tag in row], {"OTHER": "MISC"})) for row in rows]


def test_pieces_and_labels(tokenizer, tweets):
    rows = [word_pieces(words, tags, tokenizer, 16) for words, tags in tweets]
    assert [tokenizer.convert_ids_to_tokens(row.ids) for row in rows] == RESULTS["tokens"]
    inputs, wanted = batch(rows), targets(rows, labels(TYPES))
    for name, theirs in (("input_ids", "input_ids"), ("token_type_ids", "segment_ids"), ("mask", "input_mask")):
        assert inputs[name].equal(CASE[f"in.{theirs}"])
    assert wanted["tags"].equal(CASE["in.labels"])
    assert wanted["auxiliary_tags"].equal(CASE["in.auxlabels"])


def test_predicted_labels_at_the_words(tokenizer, tweets):
    """Those of the original's filter, with PAD, X and the special labels taken for O."""
    paths = [[own for own in row if own >= 0] for row in CASE["out.viterbi.main"].tolist()]
    for (words, tags), path, filtered in zip(tweets, paths, RESULTS["after_filter"], strict=True):
        row = word_pieces(words, tags, tokenizer, 16)
        theirs = [own if own[:2] in ("B-", "I-") else "O" for own in filtered["predicted"]]
        assert tags_of_words(path, row, labels(TYPES)) == theirs[: len(row.first)]
        assert len(row.first) <= len(words)


def test_what_does_not_fit_is_cut(tokenizer):
    row = word_pieces(["the"] * 20, ["O"] * 20, tokenizer, 16)
    assert len(row.ids) == 16
    assert len(row.first) == 14
    assert row.ids[-1] == tokenizer.sep_token_id
    assert word_pieces(["\u200b", "in"], [], tokenizer).first == (1, 2)


def test_entities_of_words():
    assert list(chunks(["I-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-ORG"])) == [
        ("PER", 0, 2),
        ("LOC", 3, 4),
        ("LOC", 4, 5),
        ("ORG", 5, 6),
    ]


def test_a_folder_is_written_and_read_back(tmp_path):
    save(toy(), tmp_path)
    again = load(tmp_path)
    assert again.sizes == TOY
    assert all(value.equal(again.state_dict()[name]) for name, value in WEIGHTS.items())
    (tmp_path / SIZES).write_text(json.dumps({"width": 0}))
    with pytest.raises(UserError, match=r"umt\.json: width: "):
        load(tmp_path)


def test_the_names_of_a_published_checkpoint_are_read(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({f"module.{name}": value for name, value in WEIGHTS.items()}, path)
    assert load_published(path, TOY).crf.transitions.equal(WEIGHTS["crf.transitions"])
    with pytest.raises(
        UserError, match=r"pytorch_model\.bin: lacks bert\.encoder\.layer\.2.*another size: .*\[100, 32\]"
    ):
        load_published(path)
    torch.save({name: value for name, value in WEIGHTS.items() if name != "gate.bias"}, path)
    with pytest.raises(UserError, match=r"lacks gate\.bias"):
        load_published(path, TOY)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be loaded as a checkpoint"):
        load_published(path)


def test_the_published_sizes():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in UMT(Sizes()).state_dict().items()}
    assert shapes["bert.embeddings.word_embeddings.weight"] == (28_996, 768)
    assert shapes["vismap2text.weight"] == (768, 2048)
    assert {name for name in shapes if ".layer." not in name} == {name for name in WEIGHTS if ".layer." not in name}


def test_places_of_a_resnet(tmp_path):
    """Against torchvision's own pass: the mean of the regions is what its last layer is given."""
    torch.manual_seed(0)
    model = ResNet("resnet18").train()
    image = Image.effect_noise((300, 260), 90).convert("RGB")
    picture = normalize(resize_to_square(image))[None]
    regions = model(picture)
    assert regions.shape == (1, 49, 512)
    torch.testing.assert_close(regions.mean(1), model.resnet(picture), atol=1e-5, rtol=1e-5)
    plain = {name.removeprefix("resnet."): value for name, value in model.state_dict().items()}
    plain = {name: value for name, value in plain.items() if "num_batches" not in name}
    save_file({**plain, "fc.weight": torch.ones(1000, 512)}, tmp_path / "resnet.safetensors")
    assert load_resnet("resnet18", tmp_path / "resnet.safetensors")(picture).equal(regions)
    with pytest.raises(UserError, match=r"resnet\.safetensors: lacks resnet\.layer"):
        load_resnet("resnet34", tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match="'vgg' is none of resnet18"):
        ResNet("vgg")


def test_parts_of_pictures_as_published():
    image = Image.fromarray(np.arange(300 * 250 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 250, 3))
    drawn = [random_crop(image, seed) for seed in "abcdabcd"]
    assert drawn[:4] == drawn[4:]
    assert drawn[0] != drawn[1]
    assert normalize(random_crop(image.resize((40, 30)), "a")).shape == (3, 224, 224)


def test_patches_of_another_tower():
    patches = torch.arange(14 * 21, dtype=torch.float)[:, None].repeat(1, 3)
    regions = pool_patches(patches, 14, 21)
    assert regions.shape == (49, 3)
    assert regions[0, 0] == patches.reshape(14, 21, 3)[:2, :3].mean()
    assert regions[1, 0] == patches.reshape(14, 21, 3)[:2, 3:6].mean()


def test_the_published_optimiser():
    """Two steps of a single number, worked out by hand: the gradient counts as 1, and nothing corrects the means."""
    value = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = BertAdam([{"params": [value]}], lr=0.1)
    value.grad = torch.tensor([3.0])
    optimizer.step()
    first = 2 - 0.1 * (0.1 / (0.001**0.5 + 1e-6) + 0.01 * 2)
    assert value.item() == pytest.approx(first, rel=1e-5)
    value.grad = torch.tensor([3.0])
    optimizer.step()
    assert value.item() == pytest.approx(first - 0.1 * (0.19 / (0.001999**0.5 + 1e-6) + 0.01 * first), rel=1e-5)
    assert [learning_rate_factor(share) for share in (0.0, 0.05, 0.1, 0.6)] == pytest.approx([0, 0.5, 0.9, 0.4])
    decayed, free = (len(group["params"]) for group in groups(toy()))
    assert decayed + free == len(list(toy().parameters()))
