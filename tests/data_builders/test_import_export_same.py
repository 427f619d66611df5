"""Import, export and import again gives the same, of whatever an import can give, in each format that holds it."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exporting_files import exported
from hypothesis import given, settings
from hypothesis import strategies as st
from importing_files import imported, picture

from data_builders.formats.brush import decode_brush, encode_brush
from rivegs_mllm.data.masks import encode
from rivegs_mllm.types import Box, Entity, Sample, UserError

LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Z"])
WORDS = st.text(LETTERS, min_size=1, max_size=6).filter(lambda word: word == "".join(word.split()))
TOKENS = WORDS | st.sampled_from(
    ["Ada", "Ada", "😀", "👩‍🚀", "#", "don't", "北京", "東", "で", "「", '"', ",", "a\u0301", "O", "[1]", "nan", "="]
)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
TYPES = st.sampled_from(["athlete", "Sports Event", "PER", "Ünït-1", "event (big)"])


MASKS = (encode(np.eye(30, 40, dtype=bool)),)


@st.composite
def entities(draw, tokens, size):
    start = draw(st.integers(0, len(tokens) - 1))
    end = draw(st.integers(start + 1, len(tokens)))
    boxes, masks = (), ()
    if size:
        boxes = draw(st.lists(box_in(size), max_size=2, unique=True).map(tuple))
        masks = draw(st.lists(mask_in(size), max_size=2, unique=True).map(tuple))
    visible = True if boxes or masks else draw(st.sampled_from([None, False, True]))
    score = draw(st.none() | st.floats(0, 1))
    expression = draw(st.just("") | NAMES)
    return Entity(" ".join(tokens[start:end]), draw(TYPES), (start, end), expression, visible, score, boxes, masks)


@st.composite
def box_in(draw, size):
    """In quarters of a pixel, as sides and centres of boxes in whole pixels are, and at least a pixel wide and high: an
    import asks what a set of smaller ones means, unless the pictures are as small."""
    least = 1 if max(size) <= 2 else 4
    edges = []
    for side in size:
        first = draw(st.integers(0, max(4 * side - least, 0)))
        edges.append((first / 4, draw(st.integers(min(first + least, 4 * side), 4 * side)) / 4))
    return Box(edges[0][0], edges[1][0], edges[0][1], edges[1][1])


@st.composite
def mask_in(draw, size):
    pixels = np.zeros(size[::-1], bool)
    x, y = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
    pixels[y : y + draw(st.integers(1, 9)), x : x + draw(st.integers(1, 9))] = True
    return encode(pixels)


@st.composite
def samples(draw):
    """What an import leaves: entities in the order of the text, one of a span and type, visible with a region."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        tokens = tuple(draw(st.lists(TOKENS, min_size=1, max_size=6)))
        size = draw(st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)))
        own = draw(st.lists(entities(tokens, size), max_size=3, unique_by=lambda one: (one.span, one.type)))
        knowledge = tuple(draw(st.lists(NAMES, max_size=2)))
        found.append(
            Sample(
                f"{number} {draw(NAMES)}",
                tokens,
                "pictures/x.jpg" if size else "",
                size,
                tuple(sorted(own, key=lambda one: one.span)),
                knowledge,
                draw(st.just("") | NAMES),
            )
        )
    return sorted(found, key=lambda one: one.id)


def there_and_back(name: str, given_samples: list[Sample], ending: str, **given: str) -> list[Sample]:
    with tempfile.TemporaryDirectory() as folder:
        exported(name, Path(folder) / "out", given_samples, {})
        return imported(
            name, Path(folder) / "out" / f"gold{ending}", Path(folder) / "back", without_images=True, **given
        )[0]


def without_picture(found: list[Sample]) -> list[Sample]:
    return [replace(sample, image="") for sample in found]


@pytest.mark.parametrize(("name", "ending"), [("csv", ".csv"), ("label-studio", ".json")])
@settings(max_examples=60)
@given(data=st.data())
def test_formats_of_everything(name, ending, data):
    given_samples = data.draw(samples())
    assert there_and_back(name, given_samples, ending) == without_picture(given_samples)


@settings(max_examples=60)
@given(samples())
def test_coco_of_posts_with_pictures(given_samples):
    pictured = [sample for sample in given_samples if sample.size]
    if pictured:
        assert there_and_back("coco", given_samples, ".json") == without_picture(pictured)


@pytest.mark.parametrize(("name", "ending"), [("csv", ".csv"), ("coco", ".json"), ("label-studio", ".json")])
@pytest.mark.parametrize("size", [(1, 1), (2, 1)])
def test_parts_of_a_pixel_are_boxes_of_pictures_of_few_pixels(name, ending, size):
    entity = Entity("Ada", "PER", (0, 1), visible=True, boxes=(Box(0, 0, 0.25, 0.25),))
    own = [Sample("1", ("Ada", "won"), "x.jpg", size, (entity,))]
    assert there_and_back(name, own, ending) == without_picture(own)


@pytest.mark.parametrize(("name", "ending"), [("csv", ".csv"), ("coco", ".json")])
def test_parts_of_a_pixel_of_a_large_picture_are_asked_about(name, ending):
    entity = Entity("Ada", "PER", (0, 1), visible=True, boxes=(Box(0, 0, 0.25, 0.25),))
    own = [Sample("1", ("Ada", "won"), "x.jpg", (40, 30), (entity,))]
    with pytest.raises(UserError, match="say which by --boxes"):
        there_and_back(name, own, ending)
    layout = "xyxy" if name == "csv" else "xywh"
    assert there_and_back(name, own, ending, boxes=layout) == without_picture(own)


@settings(max_examples=60)
@given(samples())
def test_conll_of_texts_and_entities(given_samples):
    apart = [
        replace(sample, size=None, knowledge=(), subset="", entities=tuple(apart_of(sample.entities)))
        for sample in given_samples
    ]
    assert there_and_back("conll", apart, ".conll") == without_picture(apart)


def apart_of(own):
    """The entities that overlap no earlier one, with what CoNLL holds of them."""
    end = 0
    for entity in own:
        if entity.span[0] >= end:
            end = entity.span[1]
            yield Entity(entity.text, entity.type, entity.span)


@settings(max_examples=60)
@given(samples())
def test_sharegpt_of_posts_whose_words_come_once(given_samples):
    once = [sample for sample in given_samples if len(set("".join(sample.tokens))) == len("".join(sample.tokens))]
    once = [replace(sample, knowledge=(), subset="", entities=tuple(map(as_told, sample.entities))) for sample in once]
    if once:
        assert there_and_back("sharegpt", once, ".json", boxes="xyxy") == without_picture(once)


def as_told(entity):
    """What an answer of ShareGPT holds of an entity."""
    visible = True if entity.boxes else None if entity.masks else entity.visible
    return replace(entity, masks=(), visible_score=None, visible=visible)


def test_datasets_with_pictures(tmp_path):
    content = picture(tmp_path / "pictures" / "x.jpg", (40, 30)).read_bytes()
    entity = Entity("Ada L", "athlete", (0, 2), "a woman", True, 0.5, (Box(0.25, 1, 2, 30), Box(1, 1, 9, 9)), MASKS)
    unseen = Entity("L", "big brand", (1, 2), visible=False)
    own = Sample("p 1", ("Ada", "L"), "pictures/x.jpg", (40, 30), (entity, unseen), ("says", "more"), "part")
    plain = Sample("p 2", ("no", "picture"), entities=(Entity("no", "x", (0, 1)),))
    exported("datasets", tmp_path / "out", [own, plain], {}, tmp_path)
    assert not list((tmp_path / "out").glob("*.partial"))
    found, _ = imported("datasets", tmp_path / "out" / "dataset", tmp_path / "back")
    assert (tmp_path / "back" / found[0].image).read_bytes() == content
    assert without_picture(found) == without_picture([own, plain])
    with pytest.raises(UserError, match=r"'p 1': .*no such picture"):
        exported("datasets", tmp_path / "out", [own, plain], {}, tmp_path / "none")
    assert (tmp_path / "out" / "dataset").is_dir()


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_brush_strokes_there_and_back(width, height, data):
    bits = data.draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    pixels = np.array(bits).reshape(height, width)
    assert (decode_brush(encode_brush(pixels), (width, height), "x") == pixels).all()


def test_a_brush_stroke_of_another_program():
    """Two values of 8 bits that differ, then six that are the same, as the code's description has them."""
    bits = "".join(
        [f"{8:032b}", "00111", *["0010"] * 4, "0", "00", "001", f"{7:08b}", f"{9:08b}", "1", "00", "101", f"{5:08b}"]
    )
    code = [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]
    assert decode_brush(code, (2, 1), "x").tolist() == [[True, True]]
    for wrong in (code[:-2], [*code[:3], 9, *code[4:]], [999], [], ["a"]):
        with pytest.raises(UserError, match="x: rle"):
            decode_brush(wrong, (2, 1), "x")
