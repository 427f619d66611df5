"""What four numbers mean: the conversions, and the guess by the evidence of a whole set."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.importing.regions.box_formats import NAMES, BoxFormat, guess, parse, weigh
from rivegs_mllm.types import Box, UserError

BOX, SIZE = Box(100, 50, 300, 150), (800, 400)
SAME = {
    "xyxy": (100, 50, 300, 150),
    "xywh": (100, 50, 200, 100),
    "cxcywh": (200, 100, 200, 100),
    "yxyx": (50, 100, 150, 300),
    "xyxy-1": (0.125, 0.125, 0.375, 0.375),
    "xywh-100": (12.5, 12.5, 25, 25),
    "cxcywh-1": (0.25, 0.25, 0.25, 0.25),
    "yxyx-1000": (125, 125, 375, 375),
}


@pytest.mark.parametrize("name", SAME)
def test_one_box_in_every_format(name):
    assert str(parse(name)) == name
    assert parse(name).to_pixels(SAME[name], SIZE) == BOX


@pytest.mark.parametrize("name", ["", "xy", "xyxy-2", "xyxy-", "-1", "XYXY"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="--boxes"):
        parse(name)


def written(own: BoxFormat, count: int, longest: int, seed: int):
    """Boxes of random pictures of up to ``longest``, as a format has them, and the pictures' sizes."""
    dice = random.Random(seed)
    boxes, sizes = [], []
    for _ in range(count):
        width, height = dice.randint(220, longest), dice.randint(220, longest)
        left, top = dice.uniform(0, width - 20), dice.uniform(0, height - 20)
        right, bottom = dice.uniform(left + 10, width), dice.uniform(top + 10, height)
        numbers = {
            "xyxy": (left, top, right, bottom),
            "xywh": (left, top, right - left, bottom - top),
            "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
        }[own.layout]
        sides = (width, height) * 2
        boxes.append([n if own.unit is None else n / s * own.unit for n, s in zip(numbers, sides, strict=True)])
        sizes.append((width, height))
    return boxes, sizes


@given(st.sampled_from([name for name in NAMES if not name.startswith("yxyx")]), st.integers(0, 10**6))
def test_thirty_boxes_of_usual_pictures_are_enough(name, seed):
    own = parse(name)
    boxes, sizes = written(own, 30, 900, seed)
    assert guess(weigh(boxes, sizes)) == own


@pytest.mark.parametrize("seed", range(5))
def test_a_few_slips_do_not_change_the_guess(seed):
    boxes, sizes = written(BoxFormat("xywh"), 60, 900, seed)
    boxes[3] = [10, 10, 0, 5]
    boxes[7] = [0, 0, 5000, 40]
    assert guess(weigh(boxes, sizes)) == BoxFormat("xywh")


def test_what_cannot_be_told_is_asked():
    with pytest.raises(UserError, match=r"of 2, .*xyxy fits 2.*say so by --boxes"):
        guess(weigh([[10, 10, 20, 20], [5, 5, 40, 40]], [(500, 500)] * 2))
    with pytest.raises(UserError, match="--boxes"):
        guess(weigh([[600, 600, 900, 900]] * 9, [(1200, 1600)] * 9))
    with pytest.raises(UserError, match="--boxes"):
        guess(weigh([[30, 20, 10, 5], [700, 20, 10, 5]], [(100, 100)] * 2))


def test_the_layout_that_columns_name_is_not_guessed():
    assert guess(weigh([[10, 300, 20, 20]], [(500, 500)], "xywh")) == BoxFormat("xywh")
