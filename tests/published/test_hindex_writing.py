"""What H-Index writes and what is read of it, against the original code (tests/data/published/hindex)."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_hindex import CASE, DATA, FEATURES, IDS, INDICES, RESULTS, SHARES, TOY, WEIGHTS, close, toy
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BartConfig, BartModel, PreTrainedTokenizerFast

from rivegs_mllm.published.hindex.checkpoint import SIZES, load, load_published, save, start_from_bart
from rivegs_mllm.published.hindex.model import HIndex
from rivegs_mllm.published.hindex.regions import (
    Regions,
    overlap_shares,
    overlaps,
    pad_regions,
    read_regions,
    write_regions,
)
from rivegs_mllm.published.hindex.sizes import END, LABELS
from rivegs_mllm.published.hindex.text import (
    TargetEntity,
    init_label_embeddings,
    pad_posts,
    pad_sequences,
    target_sequence,
    tokenize_post,
)
from rivegs_mllm.published.hindex.writing import generate, parse_sequence
from rivegs_mllm.types import UserError

TEXT = json.loads((DATA / "text.json").read_text())
BOXES = 4
UNCOVERED = BOXES + 1


def test_greedy_decoding():
    model = toy()
    written = generate(model, model.encode(IDS, FEATURES), max_indices=10)
    assert written.indices.equal(CASE["gen.tokens"])
    ends = (written.indices == END).int().argmax(1)
    for row, end in enumerate(ends.tolist()):
        before = torch.zeros(written.scores.shape[:2], dtype=torch.bool)
        before[row, :end] = True
        close(written.scores, "gen.step_logits", 5e-5, before)
        close(written.box_scores, "gen.step_region_logits", 5e-5, before)
        if row != 2:
            assert written.boxes[row, : end + 1].equal(CASE["gen.regions"][row, : end + 1, 0])


def test_the_length_is_bounded():
    model = toy()
    with torch.no_grad():
        model.table.weight[2] = 0
        model.decoder.decoder.layers[-1].final_layer_norm.bias += 1
        model.table.weight[118:124] += 1
    written = generate(model, model.encode(IDS, FEATURES), max_indices=3)
    limits = 3 + (CASE["out.decoder_memory_mask"].sum(1) * 0.6).long()
    lengths = (written.indices == END).int().argmax(1) + 1
    assert lengths.tolist() == limits.tolist()


def pairs(indices, boxes, as_published=True) -> list[dict]:
    said = parse_sequence(indices, boxes, words=8, as_published=as_published).mentions
    return [
        {
            "span": [8 + place for place in one.places],
            "region": [BOXES if one.box is None else one.box],
            "type": [one.type],
        }
        for one in said
    ]


def right(ours: list[dict], gold: list[dict]) -> int:
    """How many are right as the original counts: an entity that the detector missed never is."""
    known = {tuple(one["span"]): one for one in gold}
    found = [(one, known.get(tuple(one["span"]))) for one in ours]
    return sum(bool(own) and one["type"] == own["type"] and one["region"][0] in own["region"] for one, own in found)


@pytest.mark.parametrize("case", RESULTS["hand_made"]["cases"], ids=lambda case: str(case["pred"]))
def test_reading_as_published(case):
    assert pairs(case["pred"], case["regions"]) == case["pairs"]
    assert parse_sequence(case["pred"], case["regions"], 8, as_published=True).unreadable == case["error_lines"]
    assert right(case["pairs"], RESULTS["hand_made"]["gold"]) == case["counts"]["tp"]


def test_what_the_toy_says():
    rows = list(zip(CASE["gen.tokens"].tolist(), CASE["gen.regions"][..., 0].tolist(), strict=True))
    said = [pairs(*row) for row in rows]
    assert said == RESULTS["greedy"]["pairs"]
    score, gold = RESULTS["greedy"]["score"], RESULTS["greedy"]["gold"]
    hits = sum(right(ours, own) for ours, own in zip(said, gold, strict=True))
    assert (hits, sum(map(len, said)) - hits) == (score["tp"], score["fp"])
    later = [pairs(*row, as_published=False) for row in rows]
    hits = sum(right(ours, own) for ours, own in zip(later, gold, strict=True))
    assert hits == RESULTS["greedy_regions_one_step_later"]["tp"]


def test_reading_by_default():
    """The box of the step behind; a type must be one; what cannot be read is counted."""
    boxes = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert pairs([0, 9, 10, 2, 5, 13, 3, 4, 1, 1], boxes, False) == [
        {"span": [9, 10], "region": [0], "type": [5]},
        {"span": [13], "region": [4], "type": [4]},
    ]
    for row in ([0, 9, 2, 17, 1], [0, 9, 2, 1], [0, 9, 9, 2, 5, 1], [0, 9, 1], [0, 9, 5, 1]):
        assert parse_sequence(row, boxes, 8).unreadable == 1
        assert not parse_sequence(row, boxes, 8).mentions
    assert parse_sequence([0, 9, 2, 5, 1], boxes, 8).mentions[0].box == 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    merges = [tuple(line.split()) for line in TEXT["merges"][1:] if line]
    plain = Tokenizer(models.BPE(vocab=TEXT["vocab"], merges=merges))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_sources_and_sequences(tokenizer):
    posts = [tokenize_post(words, tokenizer, 64) for words in TEXT["words"]]
    assert [tokenizer.convert_ids_to_tokens(post.ids) for post in posts] == TEXT["src_tokens"]
    assert pad_posts(posts).equal(IDS)
    own = iter(SHARES.tolist())
    rows, every = [], []
    for post, spans in zip(posts, TEXT["target_span"], strict=True):
        wanted = []
        for *places, marker, kind in spans:
            first = post.first.index(places[0] - 8)
            wanted.append(TargetEntity(first, first + len(places), kind, tuple(next(own)) if marker == 2 else ()))
        indices, found = target_sequence(post, wanted, words=8)
        rows.append(indices)
        every += found
    assert pad_sequences(rows).equal(INDICES)
    assert torch.tensor(every).equal(SHARES)


def test_words_that_do_not_fit(tokenizer):
    post = tokenize_post(TEXT["words"][0], tokenizer, 10)
    assert len(post.ids) <= 10
    assert len(post.first) == 1
    assert target_sequence(post, [TargetEntity(0, 1, 5), TargetEntity(0, 2, 5)], 8) == ([0, 9, 3, 5, 1], [])


def test_rows_of_labels(tokenizer):
    ids = CASE["init.embed_before.ids"].tolist()
    subwords = {118 + row: TEXT["label_subwords"][name] for row, name in enumerate(LABELS)}
    assert [tokenizer(name.strip("<>")).input_ids for name in LABELS] == list(subwords.values())
    for as_published in (True, False):
        table = torch.nn.Embedding(129, 32)
        with torch.no_grad():
            table.weight[ids] = CASE["init.embed_before"]
        init_label_embeddings(table, subwords, as_published)
        changed = [one for row, one in enumerate(ids) if not table.weight[one].equal(CASE["init.embed_before"][row])]
        assert changed == (TEXT["rows_changed_by_label_init"] if as_published else [])
        if as_published:
            torch.testing.assert_close(table.weight[118:124], CASE["init.label_rows"], atol=1e-6, rtol=0)
            torch.testing.assert_close(table.weight[ids], CASE["init.embed_after"], atol=1e-6, rtol=0)


def raw(post: int) -> Regions | None:
    name = f"raw.O_{post}"
    if f"{name}.box_features" not in CASE:
        return None
    return Regions(CASE[f"{name}.bounding_boxes"].numpy(), CASE[f"{name}.box_features"].numpy())


def test_regions_as_the_model_sees_them():
    for post in range(1, 6):
        made = pad_regions(raw(post), BOXES, 16)
        np.testing.assert_allclose(made.features, FEATURES[post - 1].numpy(), atol=3e-8)


def test_shares_of_boxes():
    gold = {1: [[11, 12, 59, 92]], 2: [[0, 70, 20, 90]], 5: [[21, 19, 61, 60]]}
    for post, boxes in gold.items():
        wanted = CASE["in.region_label"][post - 1, 0, :4].tolist()
        assert overlap_shares(pad_regions(raw(post), BOXES, 16).boxes, boxes) == (
            pytest.approx(wanted) if any(wanted) else ()
        )
    both = overlap_shares(pad_regions(raw(4), BOXES, 16).boxes, [[6, 4, 44, 62], [1, 58, 31, 97], [60, 0, 70, 5]])
    alone = [overlap_shares(pad_regions(raw(4), BOXES, 16).boxes, [box]) for box in ([6, 4, 44, 62], [1, 58, 31, 97])]
    assert both == pytest.approx([max(own) for own in zip(*alone, strict=True)])


def test_overlaps_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]], np.float32)
    assert overlaps(boxes, [0, 0, 10, 10]).tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_files_of_regions(tmp_path):
    path = tmp_path / "1.jpg.npz"
    write_regions(path, raw(1))
    again = read_regions(path)
    assert (again.boxes == raw(1).boxes).all()
    assert (again.features == raw(1).features).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"box_features": np.ones((2, 3))}, "has no bounding_boxes"),
        ({"bounding_boxes": np.ones((2, 3)), "box_features": np.ones((2, 3))}, r"\[2, 3\] boxes"),
        ({"bounding_boxes": np.ones((1, 4)), "box_features": np.ones((2, 3))}, r"\[1, 4\] boxes and \[2, 3\]"),
        ({"bounding_boxes": np.full((2, 4), np.nan), "box_features": np.ones((2, 3))}, "not finite"),
        ({"bounding_boxes": np.full((2, 4), "a"), "box_features": np.ones((2, 3))}, "are no numbers"),
        ({"bounding_boxes": np.array([print]), "box_features": np.ones((2, 3))}, "cannot be read as regions"),
        (b"no archive", "cannot be read as regions"),
        (b"", "cannot be read as regions"),
    ],
)
def test_files_that_hold_no_regions(tmp_path, content, said):
    path = tmp_path / "1.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(UserError, match=rf"1\.npz: .*{said}|1\.npz: {said}"):
        read_regions(path)


def test_a_folder_is_written_and_read_back(tmp_path):
    save(toy(), tmp_path)
    again = load(tmp_path, as_published=True)
    assert again.sizes == TOY
    assert all(value.equal(again.state_dict()[name]) for name, value in toy().state_dict().items())
    (tmp_path / SIZES).write_text("{}")
    with pytest.raises(UserError, match=r"hindex\.safetensors: lacks .*another size"):
        load(tmp_path)


def test_the_names_of_a_published_checkpoint_are_read(tmp_path):
    path = tmp_path / "best.pt"
    whole = {**WEIGHTS, "seq2seq_model.decoder.causal_masks": torch.zeros(512, 512)}
    torch.save(whole, path)
    model = load_published(path, TOY, as_published=True)
    assert model.decoder.mapping.tolist() == [0, 2, 118, 119, 120, 121, 122, 123]
    with pytest.raises(UserError, match=r"best\.pt: lacks .* another size: .* is \[66, 32\] where \[1026, 768\]"):
        load_published(path)
    torch.save({**whole, "seq2seq_model.decoder.decoder.embed_tokens.weight": torch.zeros(129, 32)}, path)
    with pytest.raises(UserError, match="do not have the same words"):
        load_published(path, TOY)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"best\.pt: holds no H-Index"):
        load_published(path, TOY)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="cannot be loaded as a checkpoint"):
        load_published(path, TOY)


@torch.no_grad()
def test_it_starts_from_bart(tmp_path):
    """Its text states are then those of transformers' BART."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=118,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
    )
    bart = BartModel(config).eval()
    model = HIndex(TOY, 118).eval()
    start_from_bart(model, bart.state_dict(), tmp_path)
    memory = model.encode(IDS, FEATURES[:, :0])
    mask = (IDS != 1).long()
    theirs = bart(input_ids=IDS, attention_mask=mask, decoder_input_ids=IDS, decoder_attention_mask=mask)
    seen = mask.bool()
    torch.testing.assert_close(memory.states[seen], theirs.encoder_last_hidden_state[seen], atol=2e-5, rtol=0)
    ours = model.decoder.decoder(IDS, model.table(IDS), memory.states, memory.mask)
    torch.testing.assert_close(ours[seen], theirs.last_hidden_state[seen], atol=2e-5, rtol=0)
    wider = HIndex(dataclasses.replace(TOY, width=64), 118)
    with pytest.raises(UserError, match="another size"):
        start_from_bart(wider, bart.state_dict(), tmp_path)
    halved = {name: value for name, value in bart.state_dict().items() if not name.startswith("decoder.layers.1")}
    with pytest.raises(UserError, match=r"lacks decoder\.decoder\.layers\.1"):
        start_from_bart(model, halved, tmp_path)
