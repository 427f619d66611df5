"""SeqTR as grounder and as segmenter of a cascade: trained here, and from a checkpoint of the authors' names."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cascade_suite import StageSuite
from PIL import Image
from safetensors.torch import load_file, save_file
from test_grounding import check_resume, train
from test_seqtr import TOY, toy, weights

from eval.stage_metrics import grounding_scores, segmentation_scores
from rivegs_mllm.cascade.base import REQUIRED_SLOTS, StageError
from rivegs_mllm.cascade.config import CascadeRecipe, check_requirements
from rivegs_mllm.cascade.grounding.base import GoldGrounder
from rivegs_mllm.cascade.grounding.seqtr import SeqTRGrounder
from rivegs_mllm.cascade.grounding.seqtr_masks import ExpressionSegmentingStage
from rivegs_mllm.cascade.grounding.seqtr_predictor import PixelInput, SeqTRPredictor
from rivegs_mllm.cascade.grounding.seqtr_training import SeqTRTraining
from rivegs_mllm.cascade.segmentation.base import BoxSegmenter
from rivegs_mllm.cascade.segmentation.seqtr import SeqTRSegmenter
from rivegs_mllm.cascade.tagging.base import GoldTagger
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.data.masks import decode
from rivegs_mllm.published.seqtr.preparation import vocabulary
from rivegs_mllm.published.seqtr.sizes import BOTH, BOX, MASK, Sizes
from rivegs_mllm.types import TYPES, Box, Entity, Prediction, Sample, UserError

SMALL = "\n  ".join(("bins: 40", "points: 6", "gru: 8", "width: 32", "heads: 2", "ffn: 32", "encoder_layers: 1"))
OWN_EYES = f"{SMALL}\n  side: 64\n  darknet: [2, 4, 4, 4, 8, 16]\n  word_width: 8"


@pytest.fixture(scope="module")
def both(tmp_path_factory, emblems) -> Path:
    """Boxes and masks, on DarkNet-53 from nothing."""
    return train(tmp_path_factory.mktemp("both"), emblems, "seqtr", f"task: both\n  {OWN_EYES}", 2)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory, emblems, base) -> Path:
    """Boxes, over an untrained tower."""
    return train(
        tmp_path_factory.mktemp("boxes"), emblems, "seqtr", f"base: {base}\n  drop_mentions: true\n  {SMALL}", 2
    )


@pytest.fixture
def published(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A checkpoint under the authors' names, at toy size, and its words."""
    import rivegs_mllm.published.seqtr.checkpoint as checkpoint

    monkeypatch.setattr(checkpoint, "Sizes", lambda words, task, points=6: Sizes(**{**TOY, "task": task}))
    path, words = tmp_path / "det.pth", tmp_path / "words.json"
    torch.save({"ema_state_dict": {f"module.{name}": value for name, value in weights(BOX).items()}}, path)
    words.write_text(json.dumps({f"word{number}": number for number in range(20)}))
    return path, words


class TestGrounder(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, both):
        return SeqTRGrounder(both)

    def test_it_needs_the_expressions_it_was_trained_with(self, both):
        assert SeqTRGrounder(both).requires() == ("expander",)
        assert SeqTRGrounder(both, query_fields=["mention", "type"]).requires() == ()


class TestGrounderOfATower(StageSuite):
    slot = "grounder"

    @pytest.fixture(scope="class")
    def choice(self, boxes):
        return SeqTRGrounder(boxes)


class TestSegmenter(StageSuite):
    slot = "segmenter"

    @pytest.fixture(scope="class")
    def choice(self, both):
        return SeqTRSegmenter(both)

    def test_what_it_needs_comes_before_it(self, choice):
        assert (*choice.requires(), *choice.requires_only()) == ("expander", "tagger")


def test_a_segmenter_by_expressions_needs_no_grounder(both):
    check_requirements(CascadeRecipe(tagger=GoldTagger(), segmenter=SeqTRSegmenter(both, query_fields=["mention"])))
    with pytest.raises(StageError, match="needs what the slot 'expander' fills"):
        check_requirements(CascadeRecipe(tagger=GoldTagger(), segmenter=SeqTRSegmenter(both)))
    with pytest.raises(StageError, match="needs what the slot 'grounder' fills"):
        check_requirements(CascadeRecipe(tagger=GoldTagger(), segmenter=BoxSegmenter()))
    assert REQUIRED_SLOTS["segmenter"] == ("tagger", "grounder")
    check_requirements(
        CascadeRecipe(tagger=GoldTagger(), entailment=None, segmenter=SeqTRSegmenter(both, query_fields=["type"]))
    )
    assert GoldGrounder.SEES_GOLD


def picture(folder: Path) -> Sample:
    Image.effect_noise((60, 40), 90).convert("RGB").save(folder / "a.png")
    return Sample("post", ("Ann", "Bob", "Cleo"), "a.png", (60, 40))


def test_masks_with_and_without_boxes(tmp_path):
    """A mask an entity, repeated for each box; none for what is not in the picture; an empty one is told."""

    def outline(image, texts):
        masks = [np.full((40, 60), text != "Cleo - nothing") for text in texts]
        return masks, [("cut",) if text.startswith("Bob") else () for text in texts]

    entities = (
        Entity("Ann", "PER", visible=False),
        Entity("Bob", "PER", visible=True, boxes=(Box(0, 0, 5, 5), Box(1, 1, 9, 9))),
        Entity("Cleo", "PER", expression="nothing"),
    )
    stage = ExpressionSegmentingStage("under test", outline, ["mention", "expression"], tmp_path, 0)
    (answer,) = stage([picture(tmp_path)], [Prediction("post", entities=entities)])
    assert [len(entity.masks) for entity in answer.entities] == [0, 2, 1]
    assert decode(answer.entities[1].masks[0]).all()
    assert answer.errors == ("segmenter (under test): 'Bob': cut", "segmenter (under test): 'Cleo - nothing': no mask")
    (lost,) = stage([dataclasses.replace(picture(tmp_path), image="none.png")], [Prediction("post", entities=entities)])
    assert "none.png" in lost.errors[0]


def test_boxes_and_masks_are_those_of_the_original_picture(tmp_path):
    """Tokens worked out by hand: a picture of 60 x 30 in a square of 120 lies in 128 x 64 with its padding."""
    known = vocabulary(["a man"])
    model = toy(BOTH)
    model.as_published = False
    predictor = SeqTRPredictor(model, PixelInput(120), known, 4)
    (seen,) = predictor.image_input.prepare([Image.new("RGB", (60, 30))])
    assert (seen.shape, seen.frame, seen.factors) == ((60, 120), (64, 128), (2.0, 2.0))
    tokens = torch.tensor([[20, 40, 100, 80]])
    assert predictor._original(tokens, seen).tolist() == [[8.0, 8.0, 40.0, 16.0]]
    square = [20, 40, 100, 40, 100, 80, 20, 80, 160, 160, 160, 160, 160]
    mask = predictor._mask(square, seen, (30, 60))
    assert mask.shape == (30, 60)
    assert mask[8:16, 8:40].all()
    assert mask.sum() == 8 * 32
    squeezed = SeqTRPredictor(toy(BOTH), PixelInput(120), known, 4)._mask(square, seen, (30, 60))
    assert squeezed.sum() != mask.sum()
    assert predictor.tokenize(["a man and a dog in a car"])[1] == [("the last 4 words were not read",)]


def test_it_learns(emblems):
    """On the few posts of a test: a mask or box is written as told."""
    data = StageData(read_split(emblems, "train")[:8], [], emblems, TYPES, 0)
    settings = {"bins": 20, "points": 4, "gru": 16, "width": 32, "heads": 2, "ffn": 64, "encoder_layers": 1}
    own = SeqTRTraining(task=BOTH, side=64, darknet=[4, 4, 8, 8, 16, 32], word_width=16, **settings)
    trainable = own.prepare(data)
    assert all(value.requires_grad for value in trainable.model.parameters())
    batch = trainable.collate([row[0] for row in trainable.train.variants])
    optimizer = torch.optim.AdamW(trainable.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        losses.append(trainable.model(**batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert trainable.evaluate(data.train).keys() >= {"precision", "mean_iou", "mask_iou", "mask_precision"}


def test_a_run_is_taken_up_again(tmp_path, emblems, base):
    check_resume(tmp_path, emblems, "seqtr", f"base: {base}\n  {SMALL}")


def test_a_run_as_published_is_taken_up_again(tmp_path, emblems, base):
    """Its average too, which is what is saved."""
    check_resume(tmp_path, emblems, "seqtr", f"base: {base}\n  as_published: true\n  {SMALL}")
    run = tmp_path / "cut" / "run"
    last, saved = load_file(run / "checkpoint-4" / "model.safetensors"), load_file(run / "model.safetensors")
    assert last["steps"] == 4
    assert all(value.equal(last[f"mean.{name}"]) for name, value in saved.items())
    assert not all(value.equal(last[f"model.{name}"]) for name, value in saved.items())
    assert SeqTRGrounder(run).load(emblems).locate.__self__.model.as_published
    assert not SeqTRGrounder(run, as_published=False).load(emblems).locate.__self__.model.as_published


def test_logged_figures_are_those_of_the_stage(both, emblems):
    samples = read_split(emblems, "dev")
    partials = [Prediction(one.id, entities=one.entities) for one in samples]
    logged = json.loads((both / "metrics.json").read_text())["dev"]
    assert grounding_scores(samples, SeqTRGrounder(both).load(emblems)(samples, partials))["mean_iou"] == pytest.approx(
        logged["mean_iou"], abs=0.01
    )
    masked = SeqTRSegmenter(both).load(emblems)(samples, partials)
    assert segmentation_scores(samples, masked)["mean_iou"] == pytest.approx(logged["mask_iou"], abs=0.01)


def test_a_checkpoint_of_the_authors(published, emblems, tmp_path):
    path, words = published
    samples = read_split(emblems, "dev")
    partials = [Prediction(one.id, entities=one.entities) for one in samples]
    answers = SeqTRGrounder(path, words).load(emblems)(samples, partials)
    assert all(answer.errors or answer == partial for answer, partial in zip(answers, partials, strict=True))
    assert answers != partials
    assert SeqTRGrounder(path, words).requires() == ("expander",)
    (tmp_path / "folder").mkdir()
    save_file(weights(BOX), tmp_path / "folder" / "model.safetensors")
    assert SeqTRGrounder(tmp_path / "folder", words).load(emblems)(samples, partials) == answers
    with pytest.raises(StageError, match=r"grounder \(seqtr\): .*det\.pth has no vocabulary"):
        SeqTRGrounder(path).load(emblems)
    with pytest.raises(StageError, match=r"segmenter \(seqtr\): .*writes boxes alone"):
        SeqTRSegmenter(path, words).load(emblems)
    trainable = SeqTRTraining(start=path, words=words, frozen=12).prepare(
        StageData(read_split(emblems, "train"), [], emblems, TYPES, 0)
    )
    assert trainable.model.head.predictor[2].fc.bias.equal(weights(BOX)["head.predictor.2.fc.bias"])
    with pytest.raises(UserError, match=r"writes box; set stage\.task"):
        SeqTRTraining(start=path, words=words, task=MASK).prepare(
            StageData(read_split(emblems, "train"), [], emblems, TYPES, 0)
        )


def test_settings_that_do_not_fit(boxes, both, emblems, tmp_path):
    with pytest.raises(UserError, match=r"stage\.words"):
        SeqTRTraining(start=tmp_path)
    with pytest.raises(UserError, match="leave out base or start"):
        SeqTRTraining(start=tmp_path, words=tmp_path, base="tiny")
    with pytest.raises(UserError, match=r"gru: 10;.*half its width"):
        SeqTRTraining(gru=10).prepare(StageData(read_split(emblems, "train"), [], emblems, TYPES, 0))
    with pytest.raises(UserError, match=r"width: 100 is no multiple of heads, 8"):
        SeqTRTraining(width=100).prepare(StageData(read_split(emblems, "train"), [], emblems, TYPES, 0))
    with pytest.raises(UserError, match="5 widths"):
        SeqTRTraining(darknet=[1, 2, 3, 4, 5])
    with pytest.raises(StageError, match=r"segmenter \(seqtr\): .*writes boxes alone"):
        SeqTRSegmenter(boxes).load(emblems)
    with pytest.raises(StageError, match="trained on the types"):
        SeqTRGrounder(both, types=["PER"]).load(emblems)
    with pytest.raises(StageError, match=r"has no stage\.json"):
        SeqTRGrounder(tmp_path).load(emblems)


def test_damaged_folders(both, emblems, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(both, folder)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(StageError, match=r"grounder \(seqtr\): .*model\.safetensors"):
        SeqTRGrounder(folder).load(emblems)
    (folder / "vocabulary.json").unlink()
    with pytest.raises(StageError, match=r"grounder \(seqtr\)"):
        SeqTRGrounder(folder).load(emblems)


def test_data_without_masks(emblems):
    train_posts = [
        dataclasses.replace(one, entities=tuple(dataclasses.replace(own, masks=()) for own in one.entities))
        for one in read_split(emblems, "train")
    ]
    with pytest.raises(UserError, match="no entity is visible and has a mask"):
        SeqTRTraining(task=MASK).prepare(StageData(train_posts, [], emblems, TYPES, 0))
