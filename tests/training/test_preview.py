import dataclasses
import json
import re
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.normalizers import Lowercase
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers import Qwen2VLImageProcessor

from data_builders.emblems.build import build_emblems
from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.config.augmentation import Augmentation
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.data.images import open_picture
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.models.base_model import load_without_weights
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.tiny.architecture import build_model, build_processor, train_tokenizer
from rivegs_mllm.training.dataset.rows import AnswerDataset, check_lengths
from rivegs_mllm.training.preview import (
    END,
    PICTURE,
    PROMPT,
    characters,
    choose_samples,
    compare_boxes,
    examine,
    reconstruct,
    write_preview,
)
from rivegs_mllm.types import Box, Entity, Sample, UserError

HOSTILE = "<script>alert(1)</script>"

RECIPE = """
data: {{folder: {data}}}
model: {{base: {base}, dtype: float32}}
answer: {{bins: 64, instruction: "{{text}}"}}
lora: {{r: 4}}
max_length: 512
train: {{output_dir: {out}, use_cpu: true, report_to: none}}
"""


@pytest.fixture(scope="module")
def emblems(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("emblems")
    build_emblems(folder / "data", seed=3, train=40, dev=1, test=1)
    return folder / "data"


@pytest.fixture(scope="module")
def base(tmp_path_factory, emblems) -> Path:
    """A base without its weights: nothing here may ask for them."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer([sample.text for sample in read_split(emblems, "train")] + ["visible 1: yes no"] * 9)
    build_processor(tokenizer).save_pretrained(folder)
    build_model(tokenizer).config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parsed(tmp_path_factory, base, emblems) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.yaml").write_text(RECIPE.format(data=emblems, base=base, out=folder / "run"))
    return read_recipe(folder / "recipe.yaml")


@pytest.fixture
def make(tmp_path, parsed):
    """The recipe, with other samples if given; a copy to change what a test needs."""

    def recipe(samples: list[Sample] | None = None) -> Recipe:
        copy = dataclasses.replace(
            parsed,
            data=dataclasses.replace(parsed.data),
            model=dataclasses.replace(parsed.model),
            answer=dataclasses.replace(parsed.answer),
        )
        if samples is not None:
            copy.data.folder = tmp_path / "data"
            write_records(copy.data.folder / "train.jsonl", samples)
        return copy

    return recipe


def dataset_of(recipe: Recipe) -> AnswerDataset:
    processor, answer_format = load_without_weights(recipe)
    samples = read_split(recipe.data.folder, "train")
    encoder = SampleEncoder(processor, recipe.answer.weights)
    return AnswerDataset(
        samples,
        recipe.data.folder,
        encoder,
        answer_format,
        recipe.answer.instruction,
        recipe.augment,
        recipe.train.seed,
    )


def cards_of(dataset: AnswerDataset) -> list:
    lengths = check_lengths(dataset, sys.maxsize)
    return [examine(dataset, index, "", lengths[index]) for index in range(len(dataset))]


def text_post(identity: str, *tokens: str) -> Sample:
    return Sample(identity, tokens, entities=(Entity(tokens[0], "PER", (0, 1), "a man", False),))


def picture(size: tuple[int, int]) -> Image.Image:
    """No two corners alike, so that nothing can be turned or swapped unseen."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 9 + y / 17))
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (90, 400), (64, 64), (1000, 640)])
@pytest.mark.parametrize(("patch", "temporal", "mean"), [(14, 1, None), (14, 2, None), (16, 2, [0.5, 0.4, 0.6])])
def test_the_picture_comes_back_from_its_patches(size, patch, temporal, mean):
    limits = {"shortest_edge": 84 * 84, "longest_edge": 300 * 300}
    options = {"image_mean": mean, "image_std": [0.5, 0.6, 0.7]} if mean else {}
    images = Qwen2VLImageProcessor(patch_size=patch, temporal_patch_size=temporal, size=limits, **options)
    given = images(images=[picture(size)], return_tensors="pt")
    seen = reconstruct(given["pixel_values"], given["image_grid_thw"][0].tolist(), images)
    width, height = AnswerFormat("qwen2_5_vl", "native", 84 * 84, 300 * 300, patch * 2).resized(size)
    pixels = torch.from_numpy(np.array(picture(size))).permute(2, 0, 1)
    wanted = functional.resize(pixels, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert seen.shape == wanted.shape
    assert (seen * 255 - wanted).abs().max() < 0.01
    by_pillow = np.array(picture(size).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    assert np.abs(seen.permute(1, 2, 0).numpy() * 255 - by_pillow).mean() < 1


def test_a_sound_recipe_has_no_problem(make, tmp_path, emblems):
    assert write_preview(make(), tmp_path / "page.html", count=5) == []
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 5
    assert "No problem found" in page
    links = re.findall(r"(?:src|href)=[\"']?([^\"'>\s]+)", page)
    assert links
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)


def test_names_hide_no_box_and_errors_have_their_unit(make, tmp_path):
    width, height = 400, 300
    faces = [Box(0, 0, 180, 200), Box(190, 5, 390, 210)]
    entities = tuple(
        Entity(name, kind, (place, place + 1), visible=True, boxes=(face,))
        for place, (name, kind, face) in enumerate(zip(("Ada", "Grace"), ("athlete", "brand"), faces, strict=True))
    )
    picture((width, height)).save(tmp_path / "a.png")
    sample = Sample("a", ("Ada", "Grace"), "a.png", (width, height), entities)
    recipe = make([sample])
    (recipe.data.folder / "a.png").write_bytes((tmp_path / "a.png").read_bytes())
    recipe.answer.types = ["athlete", "brand"]
    (card,) = cards_of(dataset_of(recipe))
    across, down = (shown / own for shown, own in zip(card.view.image.size, card.view.size, strict=True))
    labels = card.labelled.labels
    assert [(label.text, label.type) for label in labels] == [("Ada", "athlete"), ("Grace", "brand")]
    for label in labels:
        for face in faces:
            inside = min(label.place.xmax, face.xmax * across) - max(label.place.xmin, face.xmin * across)
            assert inside <= 0 or min(label.place.ymax, face.ymax * down) <= max(label.place.ymin, face.ymin * down)
    write_preview(recipe, tmp_path / "page.html", 1)
    page = (tmp_path / "page.html").read_text()
    view = re.search(r'<svg viewBox="0 (\S+) (\S+) (\S+)"', page)
    top, height = float(view.group(1)), float(view.group(3))
    assert all(top <= label.place.ymin and label.place.ymax <= top + height for label in labels)
    assert re.search(r"\d\.\d × \d\.\d px</b><br>\d\.\d × \d\.\d px<", page)
    chips = re.findall(r'class="type" style="(--hue: [^"]+)">(\w+)<', page)
    assert {name for _, name in chips} == {"athlete", "brand"}
    assert len({colour for colour, _ in chips}) == 2
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_boxes_are_read_back_within_the_rounding(make):
    dataset = dataset_of(make())
    cards = cards_of(dataset)
    for sample, card in zip(dataset.samples, cards, strict=True):
        assert card.problems == ()
        assert len(card.regions) == sum(len(entity.boxes) for entity in sample.entities)
        dx, dy = dataset.answer_format.rounding(sample.size)
        for region in card.regions:
            assert region.gold == region.given
            assert abs(region.read.xmin - region.gold.xmin) <= region.error[0] <= dx + 1e-6
            assert abs(region.read.ymax - region.gold.ymax) <= region.error[1] <= dy + 1e-6
    assert sum(len(card.regions) for card in cards) > 20


def test_the_picture_shown_is_the_one_of_the_sample(make):
    dataset = dataset_of(make())
    for card in cards_of(dataset)[:6]:
        whole = open_picture(dataset.folder / card.sample.image).resize(card.view.resized, Image.Resampling.BICUBIC)
        assert np.abs(np.array(whole, float) - np.array(card.view.image, float)).mean() < 1.5


def test_moved_boxes_are_compared_with_where_they_were_moved(make):
    recipe = make()
    recipe.augment = Augmentation(box_jitter=0.2)
    regions = [region for card in cards_of(dataset_of(recipe)) for region in card.regions]
    assert sum(region.given != region.gold for region in regions) > len(regions) / 2
    assert all(region.is_explained for region in regions)


def test_a_box_that_comes_back_elsewhere_is_found(make):
    answer_format = dataset_of(make()).answer_format
    entity = Entity("Ada", "PER", (0, 1), visible=True, boxes=(Box(10, 20, 60, 90),))
    sample = Sample("a", ("Ada",), "a.jpg", (128, 128), (entity,))

    def regions(box: Box):
        moved = dataclasses.replace(entity, boxes=(box,))
        return compare_boxes(sample, [entity], [moved], answer_format)[0]

    assert regions(Box(11, 19, 60, 90))[0].is_explained
    assert not regions(Box(11.5, 20, 60, 90))[0].is_explained
    assert not regions(Box(10, 20, 60, 92))[0].is_explained
    _, faults = compare_boxes(sample, [entity], [dataclasses.replace(entity, boxes=())], answer_format)
    assert faults == ["'Ada': 0 boxes come back from the labels of 1"]
    assert "0 entities come back" in compare_boxes(sample, [entity], [], answer_format)[1][0]


def test_a_box_thinner_than_a_step_or_past_the_edge_is_no_problem(make):
    answer_format = dataset_of(make()).answer_format
    for box in (Box(30.2, 40.1, 30.4, 40.2), Box(-40, 5, 300, 700)):
        entity = Entity("Ada", "PER", (0, 1), visible=True, boxes=(box,))
        sample = Sample("a", ("Ada",), "a.jpg", (256, 640), (entity,))
        read, _ = answer_format.decode_boxes(answer_format.encode_box(box, sample.size), sample.size)
        regions, faults = compare_boxes(
            sample, [entity], [dataclasses.replace(entity, boxes=tuple(read))], answer_format
        )
        assert regions[0].is_explained
        assert not faults


def test_an_answer_format_with_other_limits_is_reported(make):
    recipe = make()
    recipe.answer.encoding = "native"
    dataset = dataset_of(recipe)
    dataset.answer_format = dataclasses.replace(dataset.answer_format, max_pixels=84 * 112)
    card = cards_of(dataset)[0]
    size = " x ".join(map(str, dataset.answer_format.resized(card.sample.size)))
    assert any(problem.endswith(f"the answer format {size}") for problem in card.problems)
    assert any("was counted as" in problem for problem in card.problems)
    seen, agreed = card.view.image.size, card.view.resized
    assert seen != agreed
    assert card.view.stretch[0] * card.sample.size[0] == pytest.approx(agreed[0])  # so that the boxes are seen to slip


def test_a_processor_that_does_not_resize_is_reported(make, tmp_path, base):
    folder = tmp_path / "base"
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["do_resize"] = False
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (tmp_path / "data").mkdir()
    picture((28 * 9, 28 * 10)).save(tmp_path / "data" / "a.jpg")
    sample = dataclasses.replace(text_post("whole", "Ada"), image="a.jpg", size=(28 * 9, 28 * 10))
    recipe = make([sample])
    recipe.model.base = str(folder)
    problems = write_preview(recipe, tmp_path / "page.html")
    assert any("do_resize" in problem for problem in problems)
    assert "sample whole: the processor makes its picture 252 x 280, the answer format 140 x 168" in problems
    assert "252 x 280" in (tmp_path / "page.html").read_text()


def test_a_tokenizer_that_changes_the_answer_is_reported(make):
    dataset = dataset_of(make())
    dataset.encoder.tokenizer.backend_tokenizer.normalizer = Lowercase()
    dataset.samples = [text_post("a", "Ada")]
    problems = cards_of(dataset)[0].problems
    assert "the tokenizer changes the answer: 'entity 1: Ada (PER)' comes back as 'entity 1: ada (per)'" in problems
    assert any("'ada' is not in the post" in problem for problem in problems)


def test_a_hostile_post_stays_text(make, tmp_path):
    entity = Entity(HOSTILE, "PER", (0, 1), HOSTILE, True, boxes=(Box(3, 3, 40, 40),))
    (tmp_path / "data").mkdir()
    picture((64, 64)).save(tmp_path / "data" / "a.png")
    sample = Sample(HOSTILE, (HOSTILE, '"><img', "src=x"), "a.png", (64, 64), (entity,), knowledge=("<img src=x>",))
    lost = dataclasses.replace(sample, id=f"{HOSTILE}2", image="../<b>.jpg")
    recipe = make([sample, lost])
    recipe.max_length = 9
    problems = write_preview(recipe, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(problems) == 2
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>.jpg" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_sample_without_picture(make, tmp_path):
    dataset = dataset_of(make([text_post("a", "Ada", "sleeps")]))
    card = cards_of(dataset)[0]
    assert (card.view, card.regions, card.problems) == (None, (), ())
    assert PICTURE not in dict(card.counts)
    assert write_preview(make([text_post("a", "Ada", "sleeps")]), tmp_path / "page.html") == []
    assert "<svg" not in (tmp_path / "page.html").read_text()


def test_the_page_says_what_the_tensors_hold(make):
    recipe = make()
    recipe.answer.weights = {"knowledge": 0, "boxes": 2}
    dataset = dataset_of(recipe)
    for index, card in enumerate(cards_of(dataset)[:10]):
        row, answer = dataset[index], "".join(piece.text for piece in dataset.pieces(card.sample))
        shown = "".join(token.text for token in card.tokens if token.kind in (*dataset.answer_format.segments, END))
        assert shown == answer.replace("\n", "↵\n") + "<|im_end|>"
        assert {token.target for token in card.tokens if token.kind in (PROMPT, PICTURE, "knowledge")} == {False}
        assert all(token.target for token in card.tokens if token.kind not in (PROMPT, PICTURE, "knowledge"))
        pads = int((row["input_ids"] == dataset.encoder.processor.image_token_id).sum())
        assert [token.text for token in card.tokens if token.kind == PICTURE] == [f"<picture: {pads} tokens>"]
        assert sum(dict(card.counts).values()) == row["input_ids"].shape[1] + len(row["answer"])
        boxes = sum(len(entity.boxes) for entity in card.sample.entities)
        assert "".join(token.text for token in card.tokens if token.kind == "boxes").count("<loc_") == 4 * boxes


def test_samples_that_are_too_long_are_listed(make, tmp_path):
    samples = [text_post(f"post{length}", "Ada", *["again"] * length) for length in (1, 2, 200, 300)]
    recipe = make(samples)
    recipe.max_length = 120
    problems = write_preview(recipe, tmp_path / "page.html", count=1)
    assert problems == [
        "2 of 4 samples are longer than max_length = 120, so training would refuse to start; the page lists them"
    ]
    page = unescape((tmp_path / "page.html").read_text())
    lengths = check_lengths(dataset_of(recipe), sys.maxsize)
    assert f"post200: {lengths[2]} tokens" in page
    assert f"post300: {lengths[3]} tokens" in page
    assert "post2:" not in page
    assert f"{lengths[0]} · " in page
    assert f" · {lengths[3]}<" in page


def test_a_picture_that_cannot_be_opened_is_a_problem_of_its_sample(make, tmp_path):
    sample = dataclasses.replace(text_post("lost", "Ada"), image="nowhere.jpg", size=(80, 80))
    thin = dataclasses.replace(sample, id="thin", image="thin.png", size=None)
    recipe = make([sample, text_post("good", "Ada"), thin])
    Image.new("RGB", (4000, 3)).save(recipe.data.folder / "thin.png")
    problems = write_preview(recipe, tmp_path / "page.html")
    assert len(problems) == 2
    assert "sample thin: a picture of 4000 x 3" in problems[1]
    assert "sample thin: " in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="no sample has a usable picture"):
        write_preview(make([sample]), tmp_path / "page.html")
    assert problems[0].startswith("sample lost: ")
    assert "nowhere.jpg: no such picture" in problems[0]


def test_an_empty_split_is_an_error(make, tmp_path):
    with pytest.raises(UserError, match="'train' has no sample"):
        write_preview(make([]), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_unlike_samples_are_chosen(emblems):
    samples = [*read_split(emblems, "train"), text_post("blind", "Ada")]
    lengths = [len(sample.text) for sample in samples]
    chosen = choose_samples(samples, lengths, 8)
    assert chosen == choose_samples(samples, lengths, 8)
    assert len({index for index, _ in chosen}) == 8
    of = {why: samples[index] for index, why in chosen}
    assert len(of["the longest"].text) == max(lengths)
    assert max(len(entity.boxes) for entity in of["an entity with several boxes"].entities) > 1
    assert sum(len(entity.boxes) for entity in of["one box"].entities) == 1
    assert of["no picture"].id == "blind"
    assert of["no entity"].entities == ()
    assert not any(entity.boxes for entity in of["a picture that shows no entity"].entities)
    assert [len(choose_samples(samples, lengths, count)) for count in (1, 3, 20, 100)] == [1, 3, 20, len(samples)]


def test_tokens_that_make_one_character_are_shown_together(make):
    tokenizer = dataset_of(make()).encoder.tokenizer
    text = "naïve 👩‍🚀 مرحبا � end"
    ids = tokenizer(text).input_ids
    together = list(characters(ids, tokenizer))
    assert [token for group in together for token in group] == ids
    assert "".join(tokenizer.decode(group) for group in together) == text
    assert len(together) < len(ids)
