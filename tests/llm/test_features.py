"""Feature makers, each on a tiny model, and MSEA from pictures and texts to the prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from rivegs_mllm.distill.tasks import KnowledgeTask
from rivegs_mllm.llm.embeddings import FusedFeatures, ImageFeatures, MLLMFeatures, TextFeatures, TextImagePair
from rivegs_mllm.llm.example_selection import ExampleSelection
from rivegs_mllm.llm.few_shot import FewShotExample, write_examples
from rivegs_mllm.tiny.architecture import train_tokenizer
from rivegs_mllm.types import Sample, UserError

TEXTS = ["rain in Bonn today", "Ann", "who is it , and where ? rain", "where is Bonn"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> TextFeatures:
    folder = tmp_path_factory.mktemp("reader")
    trained = train_tokenizer(TEXTS * 4)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, pad_token=trained.pad_token)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(folder)
    return TextFeatures(str(folder), batch_size=3)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory) -> ImageFeatures:
    folder = tmp_path_factory.mktemp("viewer")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    vision = {**small, "image_size": 32, "patch_size": 16, "projection_dim": 12, "initializer_range": 0.5}
    text = {**small, "vocab_size": 20, "projection_dim": 12}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return ImageFeatures(str(folder), batch_size=2)


@pytest.fixture
def contents(tmp_path) -> list[TextImagePair]:
    made = []
    for index, (text, color) in enumerate(zip(TEXTS, ("red", None, "blue", "green"), strict=True)):
        path = tmp_path / f"{index}.png"
        if color:
            Image.new("RGB", (40, 50), color).save(path)
        made.append(TextImagePair(f"post-{index}", text, path if color else None))
    return made


def test_text_features_do_not_depend_on_the_batch(reader, contents):
    together = reader.make(contents)
    alone = np.concatenate([reader.make([content]) for content in contents])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together.dtype == np.float32
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_picture_features_are_zeros_without_a_picture(viewer, contents):
    made = viewer.make(contents)
    assert made.shape == (4, 12)
    assert np.linalg.norm(made, axis=1).round(4).tolist() == [1, 0, 1, 1]
    np.testing.assert_allclose(made[2:3], viewer.make(contents[2:3]), atol=1e-5)
    with pytest.raises(UserError, match="take type text"):
        viewer.make(contents[1:2])


def test_a_picture_that_cannot_be_opened_counts_as_none_and_is_told(viewer, trained, contents, tmp_path, capsys):
    (tmp_path / "half.png").write_bytes(contents[0].picture.read_bytes()[:60])
    wrong = [replace(contents[0], picture=tmp_path / "half.png"), replace(contents[0], picture=tmp_path / "gone.png")]
    made = viewer.make([*wrong, contents[2]])
    assert np.linalg.norm(made, axis=1).round(4).tolist() == [0, 0, 1]
    assert "2 pictures are left out, the first: " in capsys.readouterr().err
    maker = MLLMFeatures(trained.recipe, trained.recipe.parent / "run")
    blind = maker.make([replace(contents[0], picture=None)])
    np.testing.assert_allclose(maker.make([wrong[0]]), blind, atol=1e-4)
    assert "half.png" in capsys.readouterr().err


def test_fused_features_count_text_and_picture_the_same(reader, viewer, contents):
    made = FusedFeatures(reader, viewer).make(contents)
    assert made.shape == (4, 28)
    np.testing.assert_allclose(np.linalg.norm(made[0, :16]), np.linalg.norm(made[0, 16:]), atol=1e-5)
    texts, pictures = reader.make(contents), viewer.make(contents)
    np.testing.assert_allclose(made[0] @ made[2], (texts[0] @ texts[2] + pictures[0] @ pictures[2]) / 2, atol=1e-5)


def test_features_of_a_fine_tuned_model(trained, contents):
    maker = MLLMFeatures(trained.recipe, trained.recipe.parent / "run")
    made = maker.make(contents)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(made[2:3], maker.make(contents[2:3]), atol=1e-3)
    Image.new("RGB", (40, 50), "white").save(contents[0].picture)
    assert np.abs(maker.make(contents)[0] - made[0]).max() > 1e-5, "the picture counts"


def test_encoder_that_is_not_there_or_sees_nothing(tmp_path, reader, contents):
    with pytest.raises(UserError, match=r"features: .*nowhere"):
        TextFeatures(str(tmp_path / "nowhere")).make(contents)
    CLIPImageProcessor().save_pretrained(reader.model)
    with pytest.raises(UserError, match="no image encoder"):
        ImageFeatures(reader.model).make(contents)


def test_similar_examples_stand_in_the_prompt_and_are_kept(tmp_path, reader, contents, monkeypatch):
    examples = [FewShotExample(f"e{index}", text, relation=f"EXAMPLE {index}.") for index, text in enumerate(TEXTS)]
    write_examples(tmp_path / "examples.jsonl", examples)
    samples = [Sample("e0", ("other", "words", "entirely")), Sample("x", ("where", "is", "Bonn", "now"))]
    task = KnowledgeTask(ExampleSelection(tmp_path / "examples.jsonl", "similar", 2, reader))
    store = tmp_path / "store"
    prompts = [task.prepare(samples, tmp_path, store).messages(index, "")[0]["content"] for index in (0, 1)]
    vectors = reader.make([TextImagePair("", text, None) for text in (*TEXTS, "where is Bonn now")])
    best = np.argsort(-(vectors[:4] @ vectors[4]), kind="stable")[:2]
    assert [text.index(f"EXAMPLE {best[1]}") < text.index(f"EXAMPLE {best[0]}") for text in prompts[1:]] == [True]
    assert "EXAMPLE 0" not in prompts[0], "e0 is not its own example, though its text was edited"
    monkeypatch.setattr(TextFeatures, "make", lambda *_: pytest.fail("made anew"))
    assert task.prepare(samples, tmp_path, store).messages(1, "")[0]["content"] == prompts[1]
    monkeypatch.undo()
    edited = [samples[0], Sample("x", ("Ann",))]
    assert task.prepare(edited, tmp_path, store).messages(1, "")[0]["content"].count("EXAMPLE") == 2
    assert len(list(store.glob("similar-*.npy"))) == 2
    assert len(list(store.glob("examples-*.npy"))) == 1
