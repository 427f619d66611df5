import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from eval.matching import best_box_iou, best_mask_iou, box_iou, maximum_matching
from rivegs_mllm.data.masks import check_mask
from rivegs_mllm.types import Box, Mask, UserError


def encode(pixels: np.ndarray) -> Mask:
    code = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return Mask(tuple(code["size"]), code["counts"].decode())


@pytest.mark.parametrize(
    ("second", "iou"),
    [
        (Box(0, 0, 10, 10), 1.0),
        (Box(0, 0, 10, 5), 0.5),  # 50 shared, 100 together
        (Box(5, 5, 15, 15), 25 / 175),
        (Box(10, 0, 20, 10), 0.0),  # edges are exclusive: touching is not sharing
        (Box(20, 20, 30, 30), 0.0),  # apart on both axes: two negative sides are no area
        (Box(5, 5, 5, 9), 0.0),
        (Box(8, 8, 2, 2), 0.0),  # corners the wrong way round
    ],
)
def test_box_iou(second, iou):
    assert box_iou(Box(0, 0, 10, 10), second) == box_iou(second, Box(0, 0, 10, 10)) == iou


def test_best_iou_is_over_all_of_them():
    box = Box(0, 0, 10, 10)
    assert best_box_iou(box, [Box(0, 0, 10, 2), Box(0, 0, 10, 8), Box(50, 50, 60, 60)]) == 0.8
    assert best_box_iou(box, []) == 0


def test_mask_iou_counts_pixels():
    rows, columns = np.mgrid[:20, :30]
    left, top = columns < 15, rows < 10  # 300 pixels each, 150 shared, 450 together
    assert best_mask_iou(encode(left), [encode(top)]) == pytest.approx(1 / 3)
    assert best_mask_iou(encode(left), [encode(top), encode(columns < 12)]) == pytest.approx(0.8)
    assert best_mask_iou(encode(left), []) == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_mask_area_is_that_of_the_pixels(height, width, seed, density):
    pixels = np.random.default_rng(seed).random((height, width)) < density
    assert check_mask(encode(pixels), (height, width), "here") == pixels.sum()


def test_mask_area_with_long_runs():
    pixels = np.zeros((2000, 3000), bool)
    pixels[500:1500, 700:2900] = True
    assert check_mask(encode(pixels), (2000, 3000), "here") == 1000 * 2200


@pytest.mark.parametrize("counts", ["", "é", "!!", "0", "o", "nonsense", "P1" * 50, "oooooooooo1"])
def test_a_broken_mask_is_named_and_never_compared(counts):
    with pytest.raises(UserError, match="post 7"):
        check_mask(Mask((10, 10), counts), (10, 10), "post 7")


def test_a_mask_whose_runs_end_early_is_refused():
    whole = encode(np.ones((10, 10)))
    with pytest.raises(UserError, match="run-length"):
        check_mask(Mask((10, 11), whole.counts), (10, 11), "post 7")


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"\(5, 5\).*\(10, 10\)"):
        check_mask(encode(np.ones((5, 5))), (10, 10), "post 7")


def test_matching_is_maximum_where_first_come_is_not():
    # 0 agrees with 0 and 1, 1 agrees with 0 alone: first come gives 0-0 and leaves 1 alone.
    assert sorted(maximum_matching([(0, 0), (0, 1), (1, 0)])) == [(0, 1), (1, 0)]


def test_matching_of_nothing():
    assert maximum_matching([]) == []


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_matching_is_one_to_one_of_given_edges_and_as_large_as_any(edges):
    found = maximum_matching(sorted(edges))
    assert set(found) <= edges
    assert len({gold for gold, _ in found}) == len({index for _, index in found}) == len(found)
    largest = max(sum((i, order[i]) in edges for i in range(5)) for order in itertools.permutations(range(5)))
    assert len(found) == largest


def test_boxes_whose_area_is_too_small_for_a_number_agree_with_nothing():
    tiny = Box(0, 0, 1e-300, 1e-300)
    assert box_iou(tiny, tiny) == 0
