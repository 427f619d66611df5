"""Pictures of every kind and size: every step takes one, or names it in one line; what audit passes, all take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_grounders
import tiny_scorers
import tiny_segmenters
import torch
from exporting_files import exported
from faults.odd_pictures import damaged, named_pictures
from tiny_base import LEARNED, make_recipe

from data_builders.audit import audit
from eval.report.page import write_report
from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.cascade.entailment.base import DecisionRule
from rivegs_mllm.cascade.entailment.classifier import ClassifierStage, ClassifierTraining
from rivegs_mllm.cascade.entailment.scorer_late_interaction import PatchScorerRecipe
from rivegs_mllm.cascade.entailment.scorer_pretrained import PretrainedScorerRecipe
from rivegs_mllm.cascade.grounding.base import GroundingStage
from rivegs_mllm.cascade.grounding.detector import ZeroShotGrounder, ZeroShotTraining
from rivegs_mllm.cascade.grounding.late_interaction import PatchGrounderTraining
from rivegs_mllm.cascade.grounding.seqtr_masks import ExpressionSegmentingStage
from rivegs_mllm.cascade.grounding.seqtr_predictor import PixelInput, SeqTRPredictor
from rivegs_mllm.cascade.segmentation.base import BoxSegmenter, BoxStage
from rivegs_mllm.cascade.segmentation.sam import SamSegmenter
from rivegs_mllm.cascade.segmentation.segment_anything_training import SegmentAnythingTraining
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.data.images import PictureError, file_stamp, open_picture, picture_digest, picture_size
from rivegs_mllm.data.jsonl import SPLITS, write_records
from rivegs_mllm.data.masks import encode, filled
from rivegs_mllm.llm.client import load_image, question_digest
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.sizes import Sizes
from rivegs_mllm.training.pictures import check_pictures
from rivegs_mllm.training.preview import write_preview
from rivegs_mllm.types import TYPES, Box, Entity, Prediction, Sample, UserError

LONGEST = 2000
BOX = Box(0, 0, 1, 1)
ADA = Entity("Ada", "PER", (0, 1), "a woman", visible=True, boxes=(BOX,))
SAMPLE = Sample("odd", ("Ada", "smiles"), "p.jpg", entities=(ADA,))
QUICK = [False, pytest.param(True, marks=pytest.mark.faults)]
PICTURE_KINDS = {"missing picture", "unreadable picture", "size differs", "too thin picture", "box outside"}


@pytest.fixture(scope="module")
def generator(tmp_path_factory, learned) -> Generator:
    recipe = make_recipe(tmp_path_factory.mktemp("recipe"), learned / "base", learned / "data", LEARNED)
    system = load_base(recipe)
    system.model.eval()
    return Generator(system, Path(), 4)


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> list[Stage]:
    """A stage of each slot that sees."""
    folder = tmp_path_factory.mktemp("stages")
    detectors = [tiny_grounders.save_grounding_dino(folder / "dino"), tiny_grounders.save_owlv2(folder / "owl")]
    choices = [ZeroShotGrounder(str(path)) for path in detectors]
    choices.append(SamSegmenter(str(tiny_segmenters.save_sam_of_transformers(folder / "sam"))))
    loaded = [choice.load(folder) for choice in choices]
    scorer = PretrainedScorerRecipe(str(tiny_scorers.save_clip(folder / "clip"))).build()
    scorer.model.eval()
    writer = untrained_seqtr()
    seqtr = [
        GroundingStage("seqtr", writer.locate, ["mention"], folder, 0),
        ExpressionSegmentingStage("seqtr", writer.segment, ["mention"], folder, 0),
    ]
    return [*loaded, *seqtr, ClassifierStage(scorer, ["mention"], DecisionRule(), folder), BoxSegmenter().load(folder)]


def untrained_seqtr() -> SeqTRPredictor:
    """SeqTR of boxes and masks, with its own eyes."""
    torch.manual_seed(0)
    small = {"bins": 20, "points": 3, "width": 32, "heads": 2, "ffn": 32, "encoder_layers": 1, "decoder_layers": 1}
    sizes = Sizes(words=9, task="both", word_width=4, gru=4, darknet=(2, 2, 4, 4, 4, 8), **small)
    return SeqTRPredictor(SeqTR(sizes).eval(), PixelInput(64), {}, 4)


def one_line(error: PictureError) -> None:
    message = str(error)
    assert message.isprintable()
    assert len(message) < LONGEST
    assert SAMPLE.image in message


def laid_out(folder: Path, put) -> Path:
    """A dataset whose one picture is ``put``; the other splits have another post."""
    write_records(folder / "train.jsonl", [SAMPLE])
    for split in SPLITS[1:]:
        write_records(folder / f"{split}.jsonl", [Sample(split, (split,))])
    put(folder / SAMPLE.image)
    return folder


def faults_of(folder: Path) -> list[str]:
    """What audit says of the picture, each on one line."""
    findings = [finding for finding in audit(folder).findings if finding.level == "error"]
    assert {finding.kind for finding in findings} <= PICTURE_KINDS
    assert all(finding.message.isprintable() for finding in findings)
    return [finding.kind for finding in findings]


def refused_by_training(folder: Path) -> bool:
    try:
        (checked,) = check_pictures([SAMPLE], folder)
    except UserError as error:
        return "\n  odd: " in str(error)
    assert checked.size == picture_size(folder / SAMPLE.image)
    return False


@pytest.mark.parametrize("large", QUICK)
def test_what_audit_passes_training_takes_and_what_it_finds_training_names(trials, tmp_path, large):
    pictures = named_pictures(large)

    def attempt(name):
        folder = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name])
        found = faults_of(folder)
        assert refused_by_training(folder) == bool(set(found) - {"box outside"})
        if not found:
            image = open_picture(folder / SAMPLE.image)
            assert (image.mode, image.size) == ("RGB", picture_size(folder / SAMPLE.image))

    trials.each("pictures of every kind and size: audit and training", pictures, attempt)


@pytest.mark.parametrize("large", QUICK)
def test_no_picture_ends_a_prediction(trials, tmp_path, generator, large):
    pictures = named_pictures(large)
    blind = Sample("blind", ("Ada", "smiles"))
    (said,) = generator.answer([blind])

    def attempt(name):
        generator.folder = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name])
        refused = refused_by_training(generator.folder)
        answer, other = generator.answer([SAMPLE, blind])
        assert [entity.text for entity in other.entities] == [entity.text for entity in said.entities]
        assert all(error.isprintable() and len(error) < LONGEST for error in answer.errors)
        assert any(error.startswith("no picture: ") for error in answer.errors) == refused

    trials.each("pictures of every kind and size: predict", pictures, attempt)


@pytest.mark.parametrize("large", QUICK)
def test_no_picture_ends_a_cascade(trials, tmp_path, stages, large):
    pictures = named_pictures(large)
    partial = Prediction("odd", entities=(ADA,))

    def attempt(name):
        folder = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name])
        refused = refused_by_training(folder)
        for stage in stages:
            stage.folder = folder
            (after,) = stage([SAMPLE], [partial])
            assert after.id == "odd"
            assert all(error.isprintable() and len(error) < LONGEST for error in after.errors)
            if refused and not isinstance(stage, BoxStage):
                assert any("no picture: " in error for error in after.errors)

    trials.each("pictures of every kind and size: stages of a cascade", pictures, attempt)


@pytest.mark.parametrize("large", QUICK)
def test_no_picture_ends_a_page(trials, tmp_path, learned, large):
    pictures = named_pictures(large)
    pictures = pictures if large else dict(list(pictures.items())[::6])
    recipe = make_recipe(tmp_path / "recipe", learned / "base", tmp_path, LEARNED)
    good = Sample("good", ("Ada",), entities=())

    def attempt(name):
        folder = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name])
        said = [Prediction("odd", entities=(ADA,)), Prediction("good")]
        problems = write_report(folder / "report.html", [SAMPLE, good], {"one": said}, folder)
        assert all(problem.isprintable() and len(problem) < LONGEST for problem in problems)
        assert "Parse and data warnings" in (folder / "report.html").read_text(encoding="utf-8") or not problems
        write_records(folder / "train.jsonl", [SAMPLE, good])
        recipe.data.folder = folder
        problems = write_preview(recipe, folder / "preview.html")
        assert all(problem.isprintable() and len(problem) < LONGEST for problem in problems)
        problems = [problem for problem in problems if "shares of it" not in problem]  # of one pixel, as the box is
        assert bool(problems) == refused_by_training(folder)
        exported("coco", folder / "coco", [SAMPLE], {"one": said[:1]})

    trials.each("pictures of every kind and size: report, preview and export", pictures, attempt)


@pytest.mark.parametrize("large", QUICK)
def test_stages_are_trained_with_what_audit_passes(trials, tmp_path, large):
    pictures = named_pictures(large)
    whole = tiny_scorers.save_clip(tmp_path / "clip")
    detector = tiny_grounders.save_owlv2(tmp_path / "owl")
    trainings = [SegmentAnythingTraining(), PatchGrounderTraining("tiny"), ZeroShotTraining(str(detector))]
    trainings += [ClassifierTraining(PretrainedScorerRecipe(str(whole))), ClassifierTraining(PatchScorerRecipe("tiny"))]
    trainings = trainings if large else trainings[:2]

    def attempt(name):
        folder = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name])
        entities = (ADA, dataclasses.replace(ADA, visible=False, boxes=()))
        if not refused_by_training(folder):
            mask = encode(filled(BOX, picture_size(folder / SAMPLE.image)))
            entities = (dataclasses.replace(ADA, masks=(mask,)), entities[1])
        data = StageData([dataclasses.replace(SAMPLE, entities=entities)], [], folder, TYPES, 0)
        for training in trainings:
            if refused_by_training(folder):
                with pytest.raises(UserError, match="odd: "):
                    training.prepare(data)
            else:
                ready = training.prepare(data)
                assert torch.isfinite(ready.model(**ready.collate([ready.train[0]]))["loss"])

    trials.each("pictures of every kind and size: stages trained", pictures, attempt)


@pytest.mark.parametrize("large", QUICK)
def test_no_picture_ends_a_question_to_a_teacher(trials, tmp_path, large):
    pictures = named_pictures(large)

    def attempt(name):
        path = laid_out(tmp_path / str(list(pictures).index(name)), pictures[name]) / SAMPLE.image
        try:
            question_digest([{"role": "user", "content": [{"type": "image", "path": str(path)}]}])
            assert max(load_image(str(path), 512).size) <= 512
        except PictureError as error:
            one_line(error)

    trials.each("pictures of every kind and size: questions to a teacher", pictures, attempt)


@pytest.mark.parametrize("count", [150, pytest.param(6000, marks=pytest.mark.faults)])
def test_damaged_pictures_are_read_or_named(trials, tmp_path, count):
    path = tmp_path / "p.jpg"

    def attempt(data):
        path.write_bytes(data)
        try:
            image = open_picture(path)
        except PictureError as error:
            one_line(error)
            return
        assert (image.mode, image.size) == ("RGB", picture_size(path))
        assert len(picture_digest(path)) == 64
        assert file_stamp(path)[0] == len(data)

    def smaller(data):
        for part in (len(data) // 2, len(data) // 8, 1):
            yield from (data[:place] + data[place + part :] for place in range(0, len(data), max(part, 1)) if part)

    cases = [damaged(trials.rng) for _ in range(count)]
    trials.each("pictures of every kind and size: bytes changed", cases, attempt, smaller)
