"""The front door: every kind of source, every kind of text and picture, and what is said where something is wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops
from tiny_base import Trained

import rivegs_mllm
from rivegs_mllm import load
from rivegs_mllm.answer.format import SEGMENTS
from rivegs_mllm.cli.main import main
from rivegs_mllm.config.answering import read_answering, save_recipe
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.config.trained import FILE_NAME, is_hub_id
from rivegs_mllm.data.images import MissingPictureError, PictureError, picture_size
from rivegs_mllm.data.jsonl import read_predictions
from rivegs_mllm.models.adapter import load_adapter, load_trained, save_beside_weights
from rivegs_mllm.prediction.run import predict
from rivegs_mllm.types import UserError


@pytest.fixture(scope="module")
def adapter(trained: Trained):
    """The trained folder, as an earlier release left it: without its recipe."""
    return trained.recipe.parent / "run"


@pytest.fixture(scope="module")
def system(adapter):
    return load(adapter)


@pytest.fixture(scope="module")
def said(trained, adapter, tmp_path_factory):
    """What `rivegs predict` says about the posts."""
    out = tmp_path_factory.mktemp("said") / "said.jsonl"
    predict(read_answering(trained.recipe), trained.samples, trained.data, out, adapter)
    return read_predictions(out)


def bare(records) -> list[tuple]:
    """Entities without their probabilities, which differ in the last digits with the posts beside them."""
    return [tuple(dataclasses.replace(own, visible_score=None) for own in record.entities) for record in records]


def asked(trained: Trained) -> list[tuple]:
    return [(sample.tokens, trained.data / sample.image if sample.image else None) for sample in trained.samples]


def test_an_adapter_says_what_predict_says(system, trained, said):
    assert (system.types, system.fields) == (("PER", "LOC", "ORG", "OTHER"), SEGMENTS)
    one_by_one = [system(text, image) for text, image in asked(trained)]
    assert bare(one_by_one) == bare(said)
    assert any(entity.boxes for post in one_by_one for entity in post.entities)
    assert one_by_one[0].knowledge == said[0].knowledge
    assert one_by_one[0].raw == said[0].raw
    together = list(system.batch(asked(trained), batch_size=3))
    assert bare(together) == bare(said)


def test_a_folder_with_its_recipe_a_recipe_and_a_merged_model_are_the_same(trained, adapter, said, tmp_path):
    recipe = read_recipe(trained.recipe)
    folder = tmp_path / "run"
    folder.mkdir()
    for path in adapter.iterdir():
        (folder / path.name).symlink_to(path)
    save_recipe(recipe, folder)
    merged = tmp_path / "merged"
    whole = load_adapter(adapter, recipe)
    whole = dataclasses.replace(whole, model=whole.model.merge_and_unload())
    whole.model.save_pretrained(merged)
    save_beside_weights(whole, merged)
    for source in (folder, str(folder / FILE_NAME), trained.recipe, merged):
        system = load(source)
        posts = [system(text, image) for text, image in asked(trained)]
        assert bare(posts) == bare(said), source
    out = tmp_path / "said.jsonl"
    predict(read_answering(trained.recipe), trained.samples, trained.data, out, merged)
    assert bare(read_predictions(out)) == bare(said)
    (merged / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"merged: has neither adapter_config\.json"):
        load(merged)
    (tmp_path / "config.json").rename(merged / "config.json")
    with pytest.raises(UserError, match=r"answer formats of .*merged and the recipe differ(?s:.*)bins"):
        load_trained(merged, read_recipe(trained.recipe, ["--answer.bins=32"]))


def test_no_training_settings_are_built(trained, adapter, tmp_path):
    """A recipe for a GPU's bfloat16, with settings that this machine's transformers refuses, is used all the same."""
    recipe = tmp_path / "recipe.yaml"
    text = trained.recipe.read_text().replace("use_cpu: true", "bf16: true\n  use_cpu: false")
    recipe.write_text(text.replace("dtype: float32", "dtype: bfloat16"))
    with pytest.raises(UserError, match="bf16"):
        read_recipe(recipe)
    assert load(recipe).device == "cpu"


def test_a_cascade(trained, said, tmp_path):
    slots = ("knowledge", "tagger", "expander", "entailment", "grounder")
    recipe = tmp_path / "cascade.yaml"
    recipe.write_text("".join(f"{slot}: {{type: mllm, recipe: {trained.recipe}}}\n" for slot in slots))
    system = load(recipe)
    assert system.fields == SEGMENTS
    posts = list(system.batch(asked(trained)))
    assert bare(posts) == bare(said)
    assert load(recipe, segments=["entities"]).fields == ("knowledge", "entities")
    with pytest.raises(UserError, match="a cascade's stages choose their own"):
        load(recipe, device="cpu")
    recipe.write_text("tagger: {type: gold}\n")
    with pytest.raises(UserError, match=r"tagger \(gold\): needs posts with gold"):
        load(recipe)


def test_fewer_segments_and_another_threshold(adapter, system, trained):
    text, image = asked(trained)[0]
    whole = system(text, image)
    short = load(adapter, segments=["entities"])
    assert short.fields == ("knowledge", "entities")
    post = short(text, image)
    assert [(entity.text, entity.type) for entity in post.entities] == [(own.text, own.type) for own in whole.entities]
    assert all(entity.visible is None and not entity.boxes and not entity.expression for entity in post.entities)
    assert len(post.raw) < len(whole.raw)
    assert post.errors == ()
    scores = [entity.visible_score for entity in whole.entities]
    strict = load(adapter, threshold=1.0)(text, image)
    assert [entity.visible for entity in strict.entities] == [False] * len(scores)
    lenient = load(adapter, threshold=max(scores))(text, image)
    assert any(entity.visible for entity in lenient.entities)


def test_fewer_segments_and_another_threshold_in_one_call(adapter, system, trained, tmp_path):
    """The same as of a system that is loaded with them, and only for that call."""
    text, image = asked(trained)[0]
    recipe = tmp_path / "cascade.yaml"
    slots = ("knowledge", "tagger", "expander", "entailment", "grounder")
    recipe.write_text("".join(f"{slot}: {{type: mllm, recipe: {trained.recipe}}}\n" for slot in slots))
    whole = system(text, image)
    for own, of_one_call in ((load(adapter, segments=["entities"]), system), (None, load(recipe))):
        post = of_one_call(text, image, segments=["entities"])
        if own:
            assert post.prediction == own(text, image).prediction
        assert all(entity.visible is None and not entity.boxes for entity in post.entities)
        assert post.entities
        (strict,) = of_one_call.batch([(text, image)], threshold=1.0)
        assert [entity.visible for entity in strict.entities] == [False] * len(strict.entities)
        with pytest.raises(UserError, match=r"segments: \['masks'\] are not some of"):
            of_one_call(text, image, segments=["masks"])
        with pytest.raises(UserError, match="not a probability"):
            of_one_call(text, image, threshold=2)
    assert system(text, image).prediction == whole.prediction


def test_an_error_names_no_file_that_was_none(system, trained):
    text, image = asked(trained)[0]
    (post,) = system.batch([(text, image.read_bytes()[:200])])
    assert post.errors[0].startswith("no picture: the picture: ")
    with pytest.raises(PictureError, match=r"^the picture: not a picture"):
        picture_size(io.BytesIO(b"none"))


def as_bytes(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_pictures_of_every_kind_are_the_same_picture(system, trained):
    text, path = asked(trained)[0]
    right = system(text, path)
    picture = Image.open(path)
    pixels = np.asarray(picture.convert("RGB"))
    kinds = {
        "text": str(path),
        "bytes": path.read_bytes(),
        "PIL, not decoded": picture,
        "PIL, RGBA": picture.convert("RGBA"),
        "PNG": as_bytes(picture, "PNG"),
        "uint8": pixels,
        "floats": pixels / 255,
        "RGBA": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    }
    for name, own in kinds.items():
        assert system(text, own).entities == right.entities, name
    turned = picture.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    post = system(text, buffer.getvalue())
    assert post.entities == right.entities
    assert post.show().size == picture.size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
def test_pictures_of_any_mode(system, trained, mode):
    picture = Image.new(mode, (40, 30))
    post = system(trained.samples[0].tokens, picture)
    assert not any("no picture" in error for error in post.errors)
    assert post.show().mode == "RGB"


def test_odd_sizes_and_wrong_pictures(system, trained, tmp_path):
    text, path = asked(trained)[0]
    assert not any("no picture" in error for error in system(text, Image.new("RGB", (1, 1))).errors)
    with pytest.raises(MissingPictureError, match=r"none\.jpg: no such picture"):
        system(text, tmp_path / "none.jpg")
    with pytest.raises(PictureError, match="not a picture"):
        system(text, b"nothing of a picture")
    with pytest.raises(PictureError, match=r"no more than"):
        system(text, np.zeros((20_000, 20_000), np.uint8))
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    with pytest.raises(PictureError, match="make it smaller"):
        system(text, huge)
    for array, words in (
        (np.zeros((3, 4, 2), np.uint8), "height, width"),
        (np.zeros((0, 4), np.uint8), "height, width"),
        (np.full((3, 4), 2.0), "from 0 to 1"),
        (np.full((3, 4), np.nan), "from 0 to 1"),
        (np.zeros((3, 4), np.int32), "uint8"),
    ):
        with pytest.raises(UserError, match=words):
            system(text, array)
    with pytest.raises(UserError, match=r"a picture is a path, .*, not int"):
        system(text, 5)
    posts = list(system.batch([(text, path), (text, huge), (text, tmp_path / "none.jpg"), (text, b"x")]))
    assert posts[0].errors == ()
    assert all(post.errors[0].startswith("no picture: ") for post in posts[1:])
    assert all(post.entities for post in posts)


def test_texts_of_every_kind(system, trained):
    sample = trained.samples[1]
    assert system(sample.text).entities == system(list(sample.tokens)).entities
    for empty in ("", "  \n", []):
        post = system(empty)
        assert (post.entities, post.errors, post.tokens) == ((), (), ())
    for wrong in (5, None, b"bytes", ["a b"], ["", "a"], [5]):
        with pytest.raises(UserError, match=r"token|text"):
            system(wrong)
    assert [post.text for post in system.batch(["", sample.text, ""])] == ["", sample.text, ""]
    assert list(system.batch([])) == []
    with pytest.raises(UserError, match="batch_size"):
        list(system.batch([sample.text], batch_size=0))


def test_batches_are_streamed(system, trained):
    taken = []

    def posts():
        for number in range(10):
            taken.append(number)
            yield trained.samples[1].text

    first = next(system.batch(posts(), batch_size=2))
    assert first.entities
    assert taken == [0, 1]


def test_a_post_shows_itself(system, trained, tmp_path):
    text, path = asked(trained)[0]
    post = system(" ".join(text), path)
    assert post.tokens == text
    boxed = next(entity for entity in post.entities if entity.boxes)
    shown, picture = post.show(), Image.open(path).convert("RGB")
    assert shown.size == picture.size
    assert ImageChops.difference(shown, picture).getbbox() is not None
    post.save(tmp_path / "out.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(shown))
    with pytest.raises(UserError, match="cannot be written"):
        post.save(tmp_path / "out.nothing")
    content = json.loads(json.dumps(post.to_dict()))
    for entity in content["entities"]:
        start, end = entity["characters"]
        assert content["text"][start:end] == entity["text"]
    html = post._repr_html_()
    assert "<script" not in html
    assert boxed.text in html
    assert "data:image/jpeg" in html
    hostile = dataclasses.replace(post, text="<script>alert(1)</script>", picture=tmp_path / "gone.jpg")
    assert "<script" not in hostile._repr_html_()
    assert "no such picture" in hostile._repr_html_()
    with pytest.raises(UserError, match="no picture to show"):
        system(text).show()


@pytest.fixture
def hub(adapter, tmp_path, monkeypatch) -> str:
    """The id of the adapter, which lies in the hub's cache, where each file links to a blob; nothing is fetched."""
    cached = tmp_path / "hub" / "models--someone--a-model"
    for revision in ("0123abcd", "v2"):
        snapshot = cached / "snapshots" / revision
        snapshot.mkdir(parents=True)
        for path in adapter.iterdir():
            if path.is_file():
                (snapshot / path.name).symlink_to(path)
    (cached / "snapshots" / "0123abcd" / "adapter_model.safetensors").unlink()  # main is damaged, v2 is not
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd")
    (cached / "refs" / "v2").write_text("v2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return "someone/a-model@v2"


def test_a_hub_id_is_the_model_of_that_name_and_revision(hub, trained, said):
    assert bare(load(hub).batch(asked(trained))) == bare(said)
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load("someone/a-model")
    with pytest.raises(UserError, match=r"someone/another-model: .*no model of the hub that can be fetched"):
        load("someone/another-model")


def test_a_hub_id_stands_for_a_folder_in_every_command_and_recipe(hub, trained, said, tmp_path):
    out = tmp_path / "said.jsonl"
    dev = ["--data", str(trained.data), "--split", "dev"]
    assert main(["predict", str(trained.recipe), *dev, "--adapter", hub, "--out", str(out)]) == 0
    assert bare(read_predictions(out)) == bare(said)
    recipe = tmp_path / "cascade.yaml"
    recipe.write_text(f"tagger: {{type: mllm, recipe: {trained.recipe}, adapter: {hub}}}\n")
    recipe.write_text(recipe.read_text() + recipe.read_text().replace("tagger", "knowledge"))
    assert main(["predict", str(recipe), *dev, "--out", str(tmp_path / "cascade.jsonl")]) == 0
    found = read_predictions(tmp_path / "cascade.jsonl")
    assert [[own.text for own in post.entities] for post in found] == [
        [own.text for own in post.entities] for post in said
    ]
    quick = ["--train.max_steps=1", "--train.learning_rate=1e-9", f"--data.folder={trained.data}"]
    run = tmp_path / "run"
    assert main(["train", str(trained.recipe), "--init", hub, "--out", str(run), *quick]) == 0
    assert f"init: {hub}" in (run / FILE_NAME).read_text()


def test_what_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("org/name", "org/name@main", "org/name@refs/pr/1", Path("a.b/c-d_e")):
        assert is_hub_id(name), name
    for name in ("name", "runs/none", "./none", "../none", "/org/name", "org/name/more", "org/name@", "org/na me"):
        assert not is_hub_id(name), name


def test_wrong_sources_and_settings_are_told(adapter, trained, tmp_path):
    for source, words in (
        (tmp_path / "none", "no such folder or recipe"),
        (tmp_path, r"rivegs_contract\.json"),
        ("an/id-of-nobody", "not to be had from the hub|no model of the hub"),
        (tmp_path / "none.yaml", "no such recipe"),
    ):
        with pytest.raises(UserError, match=words):
            load(source)
    for settings, words in (
        ({"threshold": 2}, "threshold"),
        ({"threshold": "0.5"}, "threshold"),
        ({"dtype": "int8"}, "dtype"),
        ({"segments": ["masks"]}, "segments"),
        ({"segments": []}, "segments"),
        ({"segments": "boxes"}, "segments"),
        ({"device": "banana"}, "device"),
    ):
        with pytest.raises(UserError, match=words):
            load(adapter, **settings)
    assert load(adapter, dtype="bfloat16")._answer  # as asked, where it is slow, too


def test_loading_is_quiet_and_changes_nothing_for_the_program_that_loads(adapter):
    code = (
        "from transformers.utils import logging as own; from huggingface_hub.utils import are_progress_bars_disabled\n"
        f"import rivegs_mllm; rivegs_mllm.load({str(adapter)!r})\n"
        "print(own.is_progress_bar_enabled(), are_progress_bars_disabled())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "True False\n")


def test_the_package_is_imported_in_no_time_without_torch():
    code = (
        "import sys, time; start = time.monotonic(); import rivegs_mllm; seconds = time.monotonic() - start;"
        "rivegs_mllm.Entity('a', 'PER'); print(seconds, 'torch' in sys.modules, sorted(rivegs_mllm.__all__))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, torch_too = printed.split()[:2]
    assert float(seconds) < 2  # a busy machine is no failure: torch takes longer
    assert torch_too == "False"
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        rivegs_mllm.loda  # noqa: B018
