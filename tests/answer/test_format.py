"""The answer format: encodings within their rounding, the processors' own resizing, and refusal of anything else."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from rivegs_mllm.answer.format import FILE_NAME, NATIVE_STEPS, AnswerFormat, AnswerFormatError, loc_tokens
from rivegs_mllm.types import Box, UserError

settings.register_profile("no deadline", deadline=None)  # the first import of transformers takes seconds
settings.load_profile("no deadline")

PATCH_SIZES = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}


def native(family: str, min_pixels: int = 3136, max_pixels: int = 1003520) -> AnswerFormat:
    return AnswerFormat(family, "native", min_pixels, max_pixels, 2 * PATCH_SIZES[family])


def loc(bins: int) -> AnswerFormat:
    return AnswerFormat("qwen2_5_vl", "loc", 3136, 1003520, 28, bins=bins)


FORMATS = [native(family) for family in NATIVE_STEPS] + [loc(1), loc(48), loc(1000)]
by_format = pytest.mark.parametrize("answer_format", FORMATS, ids=lambda c: f"{c.family}-{c.encoding}-{c.bins}")

sides = st.integers(1, 4000)
sizes = st.tuples(sides, sides).filter(lambda size: max(size) <= 200 * min(size))


@st.composite
def boxes_in_pictures(draw):
    width, height = size = draw(sizes)
    fraction = st.floats(0, 1)
    xs, ys = sorted((draw(fraction) * width, draw(fraction) * width)), sorted((draw(fraction), draw(fraction)))
    box = Box(xs[0], ys[0] * height, xs[1], ys[1] * height)
    if draw(st.booleans()):
        box = Box(*map(float, (int(box.xmin), int(box.ymin), int(box.xmax), int(box.ymax))))
    return box, size


# --- the picture as resized


@settings(max_examples=400)
@given(sizes, st.sampled_from((8, 14, 28, 32)), st.integers(1, 400_000), st.integers(0, 2_000_000))
@example((1, 200), 28, 3136, 0)
def test_resized_is_the_smart_resize_of_transformers(size, factor, min_pixels, more):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    width, height = size
    answer_format = AnswerFormat("qwen2_5_vl", "native", min_pixels, min_pixels + more, factor)
    theirs = smart_resize(height, width, factor, min_pixels, min_pixels + more)
    assert answer_format.resized(size) == theirs[::-1]


@pytest.mark.parametrize("family", NATIVE_STEPS)
def test_resized_is_what_the_image_processor_of_the_family_does(family, tmp_path):
    from transformers import AutoImageProcessor

    patch = PATCH_SIZES[family]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    random = np.random.default_rng(0)
    for number in range(12):
        low = int(random.integers(1, 60)) * 1000
        high = low + int(random.integers(0, 60)) * 1000
        limits = {"size": {"shortest_edge": low, "longest_edge": high}, "patch_size": patch, "merge_size": 2}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(limits))
        processor = AutoImageProcessor.from_pretrained(tmp_path, backend="torchvision" if number % 2 else "pil")
        answer_format = native(family, low, high)
        answer_format.check_processor(SimpleNamespace(image_processor=processor))
        for _ in range(4):
            size = tuple(int(side) for side in random.integers(8, 700, 2))
            grid = processor(images=Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0].tolist()
            assert answer_format.resized(size) == (grid[2] * patch, grid[1] * patch), (size, limits)


def test_a_picture_that_the_processor_refuses_is_a_user_error():
    with pytest.raises(UserError, match="201 x 1"):
        native("qwen2_5_vl").resized((201, 1))
    assert native("qwen2_vl").grid((201, 1)) == (1000, 1000)  # thousandths do not depend on the resizing


# --- boxes


@by_format
@given(boxes_in_pictures())
def test_a_box_comes_back_within_the_rounding(answer_format, drawn):
    box, size = drawn
    dx, dy = answer_format.rounding(size)
    assume(box.xmax - box.xmin > 1e-9 * size[0] and box.ymax - box.ymin > 1e-9 * size[1])
    (back,), errors = answer_format.decode_boxes(answer_format.encode_box(box, size), size)
    assert not errors
    slack_x = (2 if box.xmax - box.xmin < 2 * dx else 1) * dx + 1e-6
    slack_y = (2 if box.ymax - box.ymin < 2 * dy else 1) * dy + 1e-6
    assert abs(back.xmin - box.xmin) <= slack_x
    assert abs(back.xmax - box.xmax) <= slack_x
    assert abs(back.ymin - box.ymin) <= slack_y
    assert abs(back.ymax - box.ymax) <= slack_y
    assert 0 <= back.xmin < back.xmax <= size[0]
    assert 0 <= back.ymin < back.ymax <= size[1]
    assert answer_format.encode_box(back, size) == answer_format.encode_box(box, size)


@by_format
def test_the_whole_picture_is_exact(answer_format):
    for size in ((640, 480), (33, 1999), (1, 1)):
        whole = Box(0, 0, *size)
        assert answer_format.decode_boxes(answer_format.encode_box(whole, size), size) == ([whole], [])


def test_the_numbers_of_each_encoding():
    box, size = Box(64, 120, 320, 480), (640, 480)
    assert native("qwen2_vl").encode_box(box, size) == "[100, 250, 500, 1000]"
    assert native("qwen3_vl").encode_box(box, size) == "[100, 250, 500, 1000]"
    assert native("qwen2_5_vl").resized(size) == (644, 476)
    assert native("qwen2_5_vl").encode_box(box, size) == "[64, 119, 322, 476]"
    assert loc(100).encode_box(box, size) == "<loc_10><loc_25><loc_50><loc_100>"
    assert loc(100).encode_boxes((box, box), size) == " ".join(["<loc_10><loc_25><loc_50><loc_100>"] * 2)
    assert native("qwen2_vl").encode_boxes((box, box), size) == "[100, 250, 500, 1000], [100, 250, 500, 1000]"
    assert loc(100).rounding(size) == (3.2, 2.4)
    assert native("qwen2_vl").rounding(size) == (0.32, 0.24)


def test_location_tokens_are_those_that_boxes_use():
    assert loc_tokens(2) == ["<loc_0>", "<loc_1>", "<loc_2>"]
    assert loc(2).encode_box(Box(0, 0, 10, 10), (10, 20)) == "<loc_0><loc_0><loc_2><loc_1>"


def test_boxes_at_the_border():
    answer_format, size = loc(10), (100, 100)
    assert answer_format.encode_box(Box(-50, -50, 200, 50), size) == "<loc_0><loc_0><loc_10><loc_5>"
    assert answer_format.encode_box(Box(1, 99, 2, 100), size) == "<loc_0><loc_9><loc_1><loc_10>"  # thin: one step wide
    for outside in (Box(100, 0, 120, 10), Box(10, 10, 10, 20), Box(20, 0, 10, 10), Box(0, 0, float("nan"), 10)):
        with pytest.raises(UserError, match=r"covers nothing|finite"):
            answer_format.encode_box(outside, size)


@pytest.mark.parametrize(
    ("answer_format", "text", "boxes", "errors"),
    [
        (loc(10), "<loc_1><loc_2><loc_3><loc_4>", [Box(10, 20, 30, 40)], []),
        (loc(10), "<loc_1><loc_2><loc_3><loc_4><loc_5>", [Box(10, 20, 30, 40)], ["not a box: '<loc_5>'"]),
        (loc(10), "<loc_1><loc_2><loc_3> <loc_1><loc_2><loc_3><loc_4>", [Box(10, 20, 30, 40)], ["not a box"]),
        (loc(10), "<loc_1><loc_2><loc_3><loc_44>", [Box(10, 20, 30, 100)], ["outside 0 to 10"]),
        (loc(10), "<loc_1><loc_2><loc_1><loc_4>", [], ["has no area"]),
        (loc(10), "<loc_3><loc_2><loc_1><loc_4>", [], ["has no area"]),
        (loc(10), "", [], ["no box"]),
        (loc(10), "[100, 200, 300, 400]", [], ["not a box"]),
        (native("qwen2_vl"), "[100,200, 300 ,400]", [Box(10, 20, 30, 40)], []),
        (native("qwen2_vl"), "[100, 200, 300, 400], [1, 2", [Box(10, 20, 30, 40)], ["not a box: '[1, 2'"]),
        (native("qwen2_vl"), "[100, 200, 300, 400],", [Box(10, 20, 30, 40)], []),
        (native("qwen2_vl"), "[-100, 200, 300, 1400]", [Box(0, 20, 30, 100)], ["outside 0 to 1000"]),
        (native("qwen2_vl"), "[1, 2, 3], [100, 200, 300, 400]", [Box(10, 20, 30, 40)], ["not a box: '[1, 2, 3]'"]),
        (native("qwen2_vl"), f"[1, 2, 3, {'9' * 5000}]", [], ["not a box"]),
    ],
)
def test_boxes_read_from_spoilt_text(answer_format, text, boxes, errors):
    read, said = answer_format.decode_boxes(text, (100, 100))
    assert read == boxes
    assert len(said) == len(errors)
    assert all(part in message for part, message in zip(errors, said, strict=True)), said


# --- the format itself

SAMPLE = loc(48)


def test_saved_and_loaded(tmp_path):
    for answer_format in (*FORMATS, dataclasses.replace(SAMPLE, segments=("entities",), types=("MISC", "naïve"))):
        answer_format.save(tmp_path)
        assert AnswerFormat.load(tmp_path) == answer_format
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_folder_without_its_file(tmp_path):
    with pytest.raises(AnswerFormatError, match=r"rivegs_contract\.json: no such file.*rivegs train"):
        AnswerFormat.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this release reads version 1"),
        ({"version": None}, "version None"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
        ({"types": "PER"}, "types: 'PER' is not a list"),
        ({"family": "llava"}, "family 'llava'; known are qwen2_vl"),
        ({"family": ["qwen2_vl"]}, "rivegs_contract.json: "),
        ({"segments": ["boxes", "entities"]}, "in this order"),
        ({"bins": 1.5}, "bins 1.5"),
        ({"min_pixels": 0}, "min_pixels 0"),
    ],
)
def test_a_wrong_file_is_refused(change, message, tmp_path):
    (tmp_path / FILE_NAME).write_text(json.dumps({**dataclasses.asdict(SAMPLE), **change}))
    with pytest.raises(AnswerFormatError, match=message) as caught:
        AnswerFormat.load(tmp_path)
    assert str(tmp_path / FILE_NAME) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_file_of_something_else_is_refused(text, tmp_path):
    (tmp_path / FILE_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AnswerFormatError, match=r"not (JSON|a JSON object)"):
        AnswerFormat.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "polar"}, "encoding 'polar'"),
        ({"encoding": "native"}, "only the encoding 'loc' has bins"),
        ({"bins": None}, "needs a whole number"),
        ({"segments": ()}, "not a selection"),
        ({"segments": ("entities", "masks")}, "not a selection"),
        ({"segments": ("knowledge", "visible")}, "need 'entities'"),
        ({"types": ()}, "at least one type"),
        ({"types": ("PER", "PER")}, "only once"),
        ({"types": ("PER", "A (B)")}, "'A \\(B\\)'"),
        ({"min_pixels": 10, "max_pixels": 9}, "more than max_pixels"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(AnswerFormatError, match=message):
        dataclasses.replace(SAMPLE, **change)


def test_the_check_lists_every_field_that_differs():
    SAMPLE.check(dataclasses.replace(SAMPLE), "the recipe", "the adapter")
    other = dataclasses.replace(SAMPLE, max_pixels=4000, bins=50)
    with pytest.raises(AnswerFormatError) as caught:
        SAMPLE.check(other, "the recipe", "the adapter")
    assert str(caught.value).splitlines()[1:] == [
        "  max_pixels: 1003520 in the recipe, 4000 in the adapter",
        "  bins: 48 in the recipe, 50 in the adapter",
    ]


def test_a_processor_with_other_limits_is_refused():
    from transformers import Qwen2VLImageProcessor

    def processor(**settings):
        return SimpleNamespace(image_processor=Qwen2VLImageProcessor(**settings))

    limits = {"min_pixels": 3136, "max_pixels": 1003520}
    SAMPLE.check_processor(processor(**limits))
    with pytest.raises(AnswerFormatError, match="max_pixels: 1003520 in the answer format, 501760 in the processor"):
        SAMPLE.check_processor(processor(min_pixels=3136, max_pixels=501760))
    with pytest.raises(AnswerFormatError, match="patch_factor: 28 in the answer format, 32 in the processor"):
        SAMPLE.check_processor(processor(**limits, patch_size=16))
    with pytest.raises(AnswerFormatError, match="do_resize: True in the answer format, False in the processor"):
        SAMPLE.check_processor(processor(**limits, do_resize=False))


def test_until():
    assert SAMPLE.up_to("expressions").segments == ("knowledge", "entities", "expressions")
    assert SAMPLE.up_to("boxes") == SAMPLE
