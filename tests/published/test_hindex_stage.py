"""H-Index as tagger, or as whole system, of a cascade, and the proposers of its regions."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from cascade_suite import StageSuite
from safetensors.torch import save_file
from test_grounding import check_resume, train
from test_hindex import DATA, TOY, WEIGHTS
from tiny_grounders import save_grounding_dino, save_owlv2
from tokenizers import Tokenizer, models, pre_tokenizers
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, fasterrcnn_resnet50_fpn_v2
from torchvision.transforms.functional import to_tensor
from transformers import BartConfig, BartModel, PreTrainedTokenizerFast

from eval.scores import evaluate
from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.regions.base import ProposalRecipe, Proposals, file_names, select_regions, split_signs
from rivegs_mllm.cascade.regions.detectors import FasterRcnnProposer, ZeroShotProposer, faster_rcnn_proposals
from rivegs_mllm.cascade.regions.patches import PatchProposer
from rivegs_mllm.cascade.regions.run import propose_all
from rivegs_mllm.cascade.tagging.hindex import HIndexTagger, HIndexTraining
from rivegs_mllm.cascade.tagging.hindex_predictor import region_file
from rivegs_mllm.cascade.training import StageData
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.images import open_picture
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.text_encoders import tiny_bart_tokenizer
from rivegs_mllm.published.hindex.regions import Regions, read_regions, write_regions
from rivegs_mllm.types import TYPES, Prediction, UserError

LOGGED = "--train.metric_for_best_model=eval_gmner_f1"
SMALL = "boxes: 6\n  max_tokens: 128"


@pytest.fixture(scope="module")
def regions(tmp_path_factory, emblems) -> Path:
    """The gold boxes of every second picture, and a wrong one."""
    folder = tmp_path_factory.mktemp("regions")
    for split in ("train", "dev", "test"):
        for sample in read_split(emblems, split)[::2]:
            boxes = [(box.xmin, box.ymin, box.xmax, box.ymax) for own in sample.entities for box in own.boxes]
            own = np.array([*boxes, (0, 0, 9, 9)], np.float32)
            features = np.concatenate((own, own.prod(1, keepdims=True)), 1)
            write_regions(folder / f"{Path(sample.image).name}.npz", Regions(own, features))
    return folder


@pytest.fixture(scope="module")
def settings(regions) -> str:
    return f"bart: tiny\n  regions: {regions}\n  {SMALL}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, emblems, settings) -> Path:
    return train(tmp_path_factory.mktemp("hindex"), emblems, "hindex", settings, 12, LOGGED)


class TestTagger(StageSuite):
    slot = "tagger"

    @pytest.fixture(scope="class")
    def choice(self, trained):
        return HIndexTagger(trained)


class TestTaggerWithoutRegions(StageSuite):
    slot = "tagger"

    @pytest.fixture(scope="class")
    def choice(self, tmp_path_factory, emblems):
        own = train(tmp_path_factory.mktemp("bartmner"), emblems, "hindex", "bart: tiny\n  max_tokens: 128", 60, LOGGED)
        return HIndexTagger(own)

    def test_it_leaves_the_picture_to_others(self, choice, answers):
        found = [entity for answer in answers for entity in answer.entities]
        assert found
        assert all(entity.visible is None and entity.boxes == () for entity in found)
        assert choice.files() == ()


def test_logged_figures_are_those_of_the_stage(trained, emblems):
    samples = read_split(emblems, "dev")
    answers = HIndexTagger(trained).load(emblems)(samples, [Prediction(one.id) for one in samples])
    logged = json.loads((trained / "metrics.json").read_text())["dev"]
    assert evaluate(samples, answers)["strict"]["all"]["GMNER"]["f1"] == pytest.approx(logged["gmner_f1"])


def test_a_run_is_taken_up_again(tmp_path, emblems, settings):
    check_resume(tmp_path, emblems, "hindex", settings, LOGGED)


def test_it_is_used_as_it_was_trained(tmp_path, emblems, settings):
    own = train(tmp_path, emblems, "hindex", f"{settings}\n  as_published: true", 1, LOGGED)
    for asked, wanted in ((None, True), (True, True), (False, False)):
        assert HIndexTagger(own, as_published=asked).predictor().model.as_published == wanted


def test_it_learns_names_types_and_regions(emblems, regions, tmp_path):
    """By heart, what a few posts say: then it fills spans, types, visibility and boxes, all right."""
    posts = [one for one in read_split(emblems, "train")[::2] if one.entities][:6]
    torch.manual_seed(0)
    own = HIndexTraining("tiny", regions, boxes=6, max_tokens=128)
    trainable = own.prepare(StageData(posts, [], emblems, TYPES, 0))
    batch = trainable.collate([row[0] for row in trainable.train.variants])
    optimizer = torch.optim.AdamW(trainable.model.parameters(), lr=2e-3)
    for _ in range(100):
        loss = trainable.model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainable.model.eval()
    figures = trainable.evaluate(posts)
    assert figures["span_f1"] > 0.8
    assert figures["gmner_f1"] > 0.7


def test_what_is_said_of_pictures_and_words(trained, emblems):
    first, second = read_split(emblems, "dev")[:2]
    long = dataclasses.replace(first, tokens=(*first.tokens, *["and"] * 200))
    stage = HIndexTagger(trained).load(emblems)
    answers = stage([long, second], [Prediction(long.id), Prediction(second.id)])
    assert any("words did not fit into 128 tokens" in note for note in answers[0].errors)
    assert any(f"no file of regions for {second.image}" in note for note in answers[1].errors)


def test_the_training_counts_what_it_cannot_use(emblems, regions, capsys):
    posts = read_split(emblems, "train")
    HIndexTraining("tiny", regions, boxes=6, max_tokens=8).prepare(StageData(posts, [], emblems, TYPES, 0))
    said = capsys.readouterr().out
    assert f"12 of {len(posts)} posts have no regions, such as {posts[1].id}" in said
    assert "have an entity that no region overlaps by half" in said
    assert "do not fit into 8 tokens" in said


def test_it_starts_from_a_bart(tmp_path, emblems, regions):
    tokenizer = tiny_bart_tokenizer(one.text for one in read_split(emblems, "train"))
    size = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    bart = BartModel(BartConfig(vocab_size=len(tokenizer), **size, **heads))
    bart.save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    data = StageData(read_split(emblems, "train"), [], emblems, TYPES, 0)
    own = HIndexTraining(str(tmp_path / "bart"), regions, boxes=6, max_tokens=64)
    model = own.prepare(data).model
    table, words = model.table.weight, bart.get_input_embeddings().weight
    assert table[: len(words)].equal(words)
    person = tokenizer("person", add_special_tokens=False).input_ids
    torch.testing.assert_close(table[len(words) + 2 + TYPES.index("PER")], words[person].mean(0))
    with pytest.raises(UserError, match=r"max_tokens: 65; the BART reads 64"):
        dataclasses.replace(own, max_tokens=65).prepare(data)
    with pytest.raises(UserError, match=r"stage\.bart: .*none"):
        dataclasses.replace(own, bart=str(tmp_path / "none")).prepare(data)
    with pytest.raises(UserError, match="no file of regions for any"):
        dataclasses.replace(own, regions=tmp_path).prepare(data)


def test_a_checkpoint_of_the_authors(tmp_path, emblems, regions, monkeypatch):
    import rivegs_mllm.published.hindex.checkpoint as checkpoint

    torch.save(WEIGHTS, tmp_path / "best.pt")
    words = json.loads((DATA / "text.json").read_text())["vocab"]
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    plain = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(tmp_path / "bart")
    (tmp_path / "bart" / "config.json").write_text('{"model_type": "bart"}')
    choice = HIndexTagger(tmp_path / "best.pt", regions, str(tmp_path / "bart"))
    with pytest.raises(StageError, match=r"tagger \(hindex\): .*best\.pt: lacks .*another size"):
        choice.load(emblems)
    with pytest.raises(StageError, match=r"set `bart` and `regions`"):
        HIndexTagger(tmp_path / "best.pt").load(emblems)
    monkeypatch.setattr(checkpoint, "Sizes", lambda: TOY)
    wide = tmp_path / "wide"
    for path in regions.glob("*.npz"):
        found = read_regions(path)
        write_regions(wide / path.name, Regions(found.boxes, np.tile(found.features, 4)[:, :16]))
    stage = dataclasses.replace(choice, regions=wide, as_published=True).load(emblems)
    samples = [dataclasses.replace(one, tokens=one.tokens[:3]) for one in read_split(emblems, "dev")]
    answers = stage(samples, [Prediction(one.id) for one in samples])
    assert {own.type for answer in answers for own in answer.entities} <= set(TYPES)


def test_settings_that_do_not_fit(trained, emblems, tmp_path):
    with pytest.raises(StageError, match="trained on the types"):
        HIndexTagger(trained, types=["PER"]).load(emblems)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "hindex.json").write_text("[]")
    with pytest.raises(StageError, match=r"tagger \(hindex\): .*hindex\.json: not a JSON object"):
        HIndexTagger(tmp_path / "run").load(emblems)
    assert HIndexTagger(trained).files()[0].is_dir()
    assert HIndexTagger(trained, tmp_path).files() == ()


def test_files_are_found_by_the_picture_s_name(tmp_path):
    assert region_file(tmp_path, "images/1.jpg") is None
    (tmp_path / "1.npz").touch()
    assert region_file(tmp_path, "images/1.jpg") == tmp_path / "1.npz"
    (tmp_path / "1.jpg.npz").touch()
    assert region_file(tmp_path, "images/1.jpg") == tmp_path / "1.jpg.npz"
    assert region_file(tmp_path, "") is None
    assert file_names({"a/1.jpg": Path(), "b/2.jpg": Path()}) == {"a/1.jpg": "1.jpg.npz", "b/2.jpg": "2.jpg.npz"}
    with pytest.raises(UserError, match="two pictures of one file name"):
        file_names({"a/1.jpg": Path(), "b/1.jpg": Path()})


# Proposers


def test_the_best_regions_are_kept():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [-5, 5, 40, 40], [3, 3, 3, 9]], dtype=torch.float)
    found = Proposals(boxes, torch.tensor([0.5, 0.9, 0.7, 1.0]), torch.arange(4.0)[:, None])
    regions = select_regions(found, (20, 30), 5, 0.7)
    assert regions.boxes.tolist() == [[0, 0, 10, 9], [0, 5, 20, 30]]
    assert regions.features.tolist() == [[1], [2]]
    assert len(select_regions(found, (20, 30), 1, 0.7).boxes) == 1
    assert split_signs(torch.tensor([[1.0, -2.0]])).tolist() == [[1, 0, 0, 2]]


@pytest.fixture(scope="module")
def patches(tmp_path_factory, emblems, base) -> Path:
    return train(tmp_path_factory.mktemp("patches"), emblems, "patches", f"base: {base}", 1)


@pytest.mark.parametrize("save", [save_grounding_dino, save_owlv2])
def test_open_vocabulary_proposers(tmp_path, emblems, save):
    propose = ZeroShotProposer(str(save(tmp_path))).load()
    image = open_picture(emblems / read_split(emblems, "dev")[0].image)
    found = propose(image)
    assert len(found.boxes) == len(found.scores) == len(found.features) > 1
    assert found.features.min() == 0
    kept = select_regions(found, image.size, 10, 0.7)
    assert (kept.boxes[:, 2:] <= np.array(image.size)).all()


def test_faster_rcnn(emblems, monkeypatch):
    """An untrained one; its boxes are those of torchvision's own pass. Where torchvision's compiled operators do not
    load, the package's own stands in."""
    monkeypatch.setattr(torchvision.ops.boxes, "_assert_has_ops", lambda: None)
    torch.manual_seed(0)
    few = {"min_size": 48, "max_size": 64, "rpn_post_nms_top_n_test": 8, "box_detections_per_img": 4}
    settings = {"weights": None, "weights_backbone": None, "num_classes": 91, "box_score_thresh": 0.0}
    model = fasterrcnn_mobilenet_v3_large_320_fpn(**settings, **few).eval()
    image = open_picture(emblems / read_split(emblems, "dev")[0].image)
    found = faster_rcnn_proposals(model, image)
    assert found.features.shape == (4, 1024)
    assert found.features.min() >= 0
    with torch.no_grad():
        theirs = model([to_tensor(image)])[0]["boxes"]
    torch.testing.assert_close(found.boxes, theirs, atol=1e-3, rtol=1e-4)


def test_weights_of_faster_rcnn(tmp_path):
    model = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    save_file(model.state_dict(), tmp_path / "rcnn.safetensors")
    assert callable(FasterRcnnProposer(tmp_path / "rcnn.safetensors").load())
    with pytest.raises(UserError, match=r"rcnn\.safetensors: .*choose the size that the checkpoint is of"):
        FasterRcnnProposer(tmp_path / "rcnn.safetensors", "resnet50_fpn").load()
    with pytest.raises(UserError, match="'vgg' is none of"):
        FasterRcnnProposer(tmp_path / "rcnn.safetensors", "vgg").load()


def test_regions_of_a_whole_dataset(tmp_path, emblems, patches, capsys):
    """Written once, gone on with, scored, and read by a training."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"proposer: {{type: patches, checkpoint: {patches}}}\nmost: 6\n")
    out = tmp_path / "regions"
    command = ["propose", str(recipe), "--data", str(emblems), "--split", "train,dev", "--out", str(out)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "30 of 30 pictures have their regions" in said
    assert "dev: Top-N-Prec@0.5 of" in said
    paths = sorted(out.glob("*.npz"))
    assert len(paths) == 30
    before = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert main(command) == 0
    assert paths[0].stat().st_mtime_ns == before
    assert paths[1].is_file()
    assert main([*command, "--max_regions=7"]) == 2
    assert "holds the regions of another recipe" in capsys.readouterr().err
    HIndexTraining("tiny", out, boxes=6).prepare(StageData(read_split(emblems, "train"), [], emblems, TYPES, 0))


def test_pictures_that_cannot_be_opened_are_told(tmp_path, emblems, patches, capsys):
    shutil.copytree(emblems, tmp_path / "data")
    (lost, *_) = read_split(emblems, "dev")
    (tmp_path / "data" / lost.image).write_bytes(b"")
    recipe = ProposalRecipe(PatchProposer(patches), max_regions=6)
    assert propose_all(recipe, tmp_path / "data", ["dev"], tmp_path / "out") == 1
    assert lost.image in capsys.readouterr().err
