"""Grounders: the gold ones, the small one trained here, what all have in common, and bad input."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cascade_suite import StageSuite, drafted
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812
from transformers import AutoConfig, AutoModelForImageTextToText

from eval.stage_metrics import grounding_scores
from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.grounding.base import GoldGrounder, GroundingStage, Localization
from rivegs_mllm.cascade.grounding.late_interaction import PatchGrounder, PatchGrounderTraining, collate, patches_inside
from rivegs_mllm.cascade.referring import clip_boxes, matching_gold
from rivegs_mllm.cascade.training import StageData, StageTraining, train_stage
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.late_interaction import LateInteractionScorer, PatchFeatures, VisionEncoder, pad_pairs
from rivegs_mllm.types import TYPES, Box, Entity, Prediction, Sample, UserError

TRAIN = """\
data:
  folder: {data}
stage:
  type: {kind}
  {settings}
train:
  output_dir: {out}
  use_cpu: true
  max_steps: {steps}
  per_device_train_batch_size: 8
  learning_rate: 2.0e-3
  eval_strategy: steps
  eval_steps: {steps}
  save_steps: {steps}
  metric_for_best_model: eval_precision
  load_best_model_at_end: true
  disable_tqdm: true
  report_to: none
"""


def train(folder: Path, data: Path, kind: str, settings: str, steps: int, *overrides: str) -> Path:
    """Trains a stage as ``rivegs train`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(TRAIN.format(data=data, kind=kind, settings=settings, out=folder / "run", steps=steps))
    return train_stage(parse_recipe(StageTraining, path, overrides))


def check_resume(folder: Path, data: Path, kind: str, settings: str, *more: str) -> None:
    """Four steps, and four that were cut off behind the second, end with the same weights."""
    often = ("--train.save_steps=2", "--train.eval_steps=2", "--train.load_best_model_at_end=false", *more)
    whole = train(folder / "whole", data, kind, settings, 4, *often)
    cut_off = folder / "cut" / "run"
    shutil.copytree(whole / "checkpoint-2", cut_off / "checkpoint-2")
    shutil.copy(whole / "run.json", cut_off)
    before = load_file(cut_off / "checkpoint-2" / "model.safetensors")
    resumed = load_file(train(folder / "cut", data, kind, settings, 4, *often) / "checkpoint-4" / "model.safetensors")
    straight = load_file(whole / "checkpoint-4" / "model.safetensors")
    assert any(not torch.equal(before[name], straight[name]) for name in straight)
    for name in straight:
        torch.testing.assert_close(resumed[name], straight[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def patches(tmp_path_factory, emblems, base) -> Path:
    """A grounder over an untrained tower."""
    return train(tmp_path_factory.mktemp("patches"), emblems, "patches", f"base: {base}", 3)


class TestGold(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self):
        return GoldGrounder()

    def test_it_is_perfect(self, cases, answers):
        scores = grounding_scores(cases.samples, answers)
        assert scores["precision"] == scores["mean_iou"] == 1
        assert scores["total"] > 2

    def test_what_is_not_gold_gets_no_box(self, stage, cases):
        partial = dataclasses.replace(cases.partials[0], entities=(Entity("Nobody", "PER", (0, 99), visible=True),))
        assert stage(cases.samples[:1], [partial]) == [partial]


class TestCells(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, patches):
        return PatchGrounder(patches)

    def test_needs_the_expressions_it_was_trained_with(self, patches):
        assert PatchGrounder(patches).requires() == ("expander",)
        assert PatchGrounder(patches, query_fields=["mention", "type"]).requires() == ()


def sample(name: str = "a.png", size=(40, 20), **known) -> Sample:
    return Sample("post", ("Ann", "sees", "Bob"), name, size, **known)


def stage_of(locate, folder: Path, query_fields=("mention", "type", "expression")) -> GroundingStage:
    return GroundingStage("under test", locate, query_fields, folder, 0)


ENTITIES = (
    Entity("Ann", "PER", (0, 1), "a woman", visible=True),
    Entity("Bob", "PER", (2, 3), "a man", visible=False),
    Entity("Bob", "PER", (2, 3), "", visible=None),
)


def test_one_look_at_the_picture_for_all_that_may_be_visible(tmp_path):
    """Turned by its EXIF orientation, with the parts of the expression that were asked for."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 40)).save(tmp_path / "a.png", exif=exif)
    looks = []

    def locate(image, texts):
        looks.append((image.size, list(texts)))
        return [Localization((Box(0, 0, 40, 20),)) for _ in texts]

    partial = Prediction("post", entities=ENTITIES)
    (answer,) = stage_of(locate, tmp_path)([sample()], [partial])
    assert looks == [((40, 20), ["Ann (PER) - a woman", "Bob (PER)"])]
    assert [len(entity.boxes) for entity in answer.entities] == [1, 0, 1]
    stage_of(locate, tmp_path, ["expression"])([sample()], [partial])
    assert looks[1][1] == ["a woman", "Bob"], "without an expression the mention is looked for"


def test_what_is_missing_is_said(tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    stage = stage_of(lambda image, texts: [Localization((), ("cut",)) for _ in texts], tmp_path, ["expression"])
    (answer,) = stage([sample()], [Prediction("post", entities=ENTITIES, errors=("before",))])
    assert answer.errors[0] == "before"
    assert [error for error in answer.errors if "no box" in error and error.startswith("grounder (under test)")]
    assert any("'Bob' has no expression" in error for error in answer.errors)
    assert any("cut" in error for error in answer.errors)
    (answer,) = stage([sample("none.png")], [Prediction("post", entities=ENTITIES)])
    assert "none.png" in answer.errors[0]
    assert answer.entities == ENTITIES


@pytest.mark.parametrize("box", [Box(0, 0, 41.5, 20), Box(-2, 0, 5, 5), Box(5, 5, 5, 9), Box(100, 5, 120, 9)])
def test_a_box_outside_the_picture_is_an_error(tmp_path, box):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    stage = stage_of(lambda image, texts: [Localization((box,)) for _ in texts], tmp_path)
    with pytest.raises(StageError, match=r"grounder \(under test\).*'post'.*40 x 20.*scale") as error:
        stage([sample()], [Prediction("post", entities=ENTITIES)])
    assert str(list(dataclasses.astuple(box))) in str(error.value)


@given(st.tuples(*[st.floats(-1, 1)] * 4))
def test_rounding_is_moved_back(off):
    (box,) = clip_boxes([Box(off[0], off[1], 40 + off[2], 20 + off[3])], (40, 20), "grounder", "post")
    assert 0 <= box.xmin < box.xmax <= 40
    assert 0 <= box.ymin < box.ymax <= 20


def test_matching_gold_goes_by_the_span_where_both_have_one():
    post = sample(entities=(Entity("Bob", "PER", (0, 1)), Entity("Bob", "PER", (2, 3), "right")))
    assert matching_gold(post, Entity("Bob", "ORG", (2, 3))).expression == "right"
    assert matching_gold(post, Entity("Bob", "PER")) == post.entities[0]
    assert matching_gold(post, Entity("Eve", "PER")) is None


@pytest.mark.parametrize("query_fields", [[], ["name"], ["mention", "typ"]])
def test_parts_that_are_none(query_fields):
    with pytest.raises(UserError, match=r"query_fields.*mention, type, expression"):
        PatchGrounderTraining("tiny", query_fields=query_fields)


def test_a_folder_that_is_no_grounder(tmp_path, patches):
    with pytest.raises(StageError, match=r"grounder \(patches\).*rivegs train"):
        PatchGrounder(tmp_path).load(tmp_path)
    with pytest.raises(StageError, match=r"grounder \(patches\).*trained on the types PER"):
        PatchGrounder(patches, types=["PER"]).load(tmp_path)
    shutil.copytree(patches, tmp_path / "torn")
    for name in ("model.safetensors", "eyes/words.safetensors", "eyes/config.json"):
        (tmp_path / "torn" / name).unlink()
        with pytest.raises(StageError, match=r"grounder \(patches\).*train the stage again"):
            PatchGrounder(tmp_path / "torn").load(tmp_path)


def test_nothing_visible_to_learn_from(emblems):
    blank = Sample("post", ("a",), entities=(Entity("a", "PER", (0, 1), visible=False),))
    with pytest.raises(UserError, match="no entity is visible in a picture"):
        PatchGrounderTraining("tiny").prepare(StageData([blank], [], emblems, TYPES, 0))


# The small grounder


def save_relative(base: Path, family: str, folder: Path) -> Path:
    """The base's processor with an untrained model of a family of Qwen-VL."""
    shutil.copytree(base, folder)
    if family != "qwen2_5_vl":
        config = AutoConfig.from_pretrained(base)
        text = {**config.text_config.to_dict(), "model_type": f"{family}_text", "head_dim": 64}
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "patch_size": config.vision_config.patch_size,
            "temporal_patch_size": config.vision_config.temporal_patch_size,
        }
        own = {"qwen2_vl": {"hidden_size": 256}, "qwen3_vl": {"hidden_size": 32, "out_hidden_size": 256}}[family]
        config = AutoConfig.for_model(family, text_config=text, vision_config={**vision, **own})
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def test_which_patches_are_in_a_box():
    patches = PatchFeatures(torch.zeros(6, 4), rows=2, columns=3)
    assert patches_inside(patches, torch.tensor([0.0, 0.0, 0.5, 1.0])).tolist() == [True, False, False] * 2
    assert patches_inside(patches, torch.tensor([0.4, 0.0, 1.0, 0.5])).tolist() == [False, True, True] + [False] * 3
    tiny = patches_inside(patches, torch.tensor([0.9, 0.9, 0.95, 0.95]))
    assert tiny.tolist() == [False] * 5 + [True], "a box between the centres has the nearest cell"


def test_pictures_do_not_depend_on_their_neighbours(base):
    vision_encoder = VisionEncoder.of_base(str(base))
    images = [Image.effect_noise(size, 90).convert("RGB") for size in ((120, 90), (90, 200), (60, 60))]
    together = vision_encoder.encode_images(images)
    for image, patches in zip(images, together, strict=True):
        (alone,) = vision_encoder.encode_images([image])
        assert (alone.rows, alone.columns) == (patches.rows, patches.columns)
        assert patches.rows * patches.columns == len(patches.tokens)
        torch.testing.assert_close(alone.tokens, patches.tokens, rtol=1e-3, atol=1e-3)


@pytest.fixture
def model() -> LateInteractionScorer:
    torch.manual_seed(0)
    return LateInteractionScorer(F.normalize(torch.randn(50, 8), dim=1), width=32, layers=1).eval()


def test_padding_counts_for_nothing(model):
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    patches = [PatchFeatures(torch.randn(count, 8), 1, count) for count in (4, 7)]
    texts = [torch.tensor([3, 4]), torch.tensor([5, 6, 7, 8, 9])]
    both = model(**pad_pairs(patches, texts))
    for place in range(2):
        alone = model(**pad_pairs(patches[place : place + 1], texts[place : place + 1]))[0]
        torch.testing.assert_close(both[place, : len(alone)], alone)
        assert (both[place, len(alone) :] < -1000).all()
    pairs = model.all_pairs(**pad_pairs(patches, texts))
    torch.testing.assert_close(pairs.diagonal(dim1=0, dim2=1).T, both)


def test_a_text_that_is_too_long(model):
    pairs = pad_pairs([PatchFeatures(torch.randn(1, 8), 1, 1)], [torch.ones(513, dtype=torch.long)])
    with pytest.raises(UserError, match=r"513.*512"):
        model(**pairs)


def test_untrained_it_finds_the_cell_that_tells_of_the_words():
    """Patches that are sums of words: the one of both words before those of one, whatever its length."""
    words = F.normalize(torch.randn(50, 64), dim=1)
    patches = torch.stack([words[3] + words[9], 7 * (words[3] + words[4]), words[4], 9 * words[7]])
    scores = LateInteractionScorer(words).eval()(**pad_pairs([PatchFeatures(patches, 2, 2)], [torch.tensor([3, 4])]))
    assert scores[0].argsort(descending=True).tolist()[0] == 1
    assert scores[0].argmin() == 3


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_eyes_of_every_family_saved_and_loaded(tmp_path, base, family):
    vision_encoder = VisionEncoder.of_base(str(save_relative(base, family, tmp_path / "base")))
    (tmp_path / "eyes").mkdir()
    vision_encoder.save(tmp_path / "eyes")
    again = VisionEncoder.load(tmp_path / "eyes")
    image = Image.effect_noise((120, 90), 90).convert("RGB")
    (ours,), (theirs,) = vision_encoder.encode_images([image]), again.encode_images([image])
    assert ours.tokens.shape == (ours.rows * ours.columns, vision_encoder.width)
    torch.testing.assert_close(ours.tokens, theirs.tokens)
    assert torch.equal(vision_encoder.words, again.words)
    assert vision_encoder.words.shape[0] >= len(vision_encoder.processor.tokenizer)
    (tmp_path / "eyes" / "words.safetensors").unlink()
    with pytest.raises(UserError, match=r"eyes: no vision tower that was saved whole"):
        VisionEncoder.load(tmp_path / "eyes")


def test_pictures_that_show_the_same_are_no_rivals(emblems, base):
    samples = read_split(emblems, "train")
    trainable = PatchGrounderTraining(str(base)).prepare(StageData(samples, [], emblems, TYPES, 0))
    rows = [variants[0] for variants in trainable.train.variants]
    negative_mask = collate(rows)["negative_mask"]
    views = [(post, entity) for post in samples for entity in post.entities if entity.visible]
    assert len(views) == len(rows)
    assert negative_mask.any()
    for one, (_, entity) in enumerate(views):
        for other, (post, _) in enumerate(views):
            told = {own.text.lower() for own in post.entities} | {own.expression for own in post.entities}
            assert negative_mask[one, other] == (not {entity.text.lower(), entity.expression} & told)


def test_every_other_time_the_mention_is_left_out(emblems, base):
    samples = read_split(emblems, "train")
    prepared = PatchGrounderTraining(str(base)).prepare(StageData(samples, [], emblems, TYPES, 0)).train
    assert {len(variants) for variants in prepared.variants} == {2}
    named = (
        PatchGrounderTraining(str(base), drop_mentions=False).prepare(StageData(samples, [], emblems, TYPES, 0)).train
    )
    assert {len(variants) for variants in named.variants} == {1}


def test_cut_off_it_ends_as_if_never_cut_off(tmp_path, emblems, base):
    check_resume(tmp_path, emblems, "patches", f"base: {base}")


def test_it_learns_what_the_text_speaks_of(tmp_path):
    """Two squares side by side, over and over: the colour that is named is found, wherever it stands."""
    from rivegs_mllm.data.jsonl import write_records

    colours = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 160, 0)}
    rng = np.random.default_rng(0)
    posts = []
    for number in range(60):
        chosen = rng.permutation(list(colours))[:2]
        image, entities = Image.new("RGB", (112, 56), "white"), []
        for place, colour in enumerate(chosen):
            left = 8 + 56 * place
            image.paste(colours[colour], (left, 8, left + 40, 48))
            box = Box(left, 8, left + 40, 48)
            entities.append(Entity(f"x{place}", "OTHER", (place, place + 1), f"a {colour} square", True, boxes=(box,)))
        (tmp_path / "images").mkdir(exist_ok=True)
        image.save(tmp_path / "images" / f"{number}.png")
        posts.append(Sample(str(number), ("x0", "x1"), f"images/{number}.png", (112, 56), tuple(entities)))
    write_records(tmp_path / "train.jsonl", posts[:48])
    write_records(tmp_path / "dev.jsonl", posts[48:])
    run = train(tmp_path / "run", tmp_path, "patches", "base: tiny\n  query_fields: [expression]", 200)
    stage = PatchGrounder(run).load(tmp_path)
    partials = [drafted("grounder", post) for post in posts[48:]]
    assert grounding_scores(posts[48:], stage(posts[48:], partials))["precision"] > 0.9
