"""Names beside their boxes: they hide no box and no other name where there is room."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rivegs_mllm.pages.labels import place_labels
from rivegs_mllm.types import Box

CANVAS = Box(0, -10, 200, 110)


def shared(one: Box, other: Box) -> float:
    across = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    down = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    return max(across, 0) * max(down, 0)


def touches(label: Box, box: Box) -> bool:
    across = label.xmin <= box.xmax and label.xmax >= box.xmin
    return across and label.ymin <= box.ymax and label.ymax >= box.ymin


def test_a_name_stands_above_its_box():
    assert place_labels([Box(50, 30, 90, 80)], [30], 10, CANVAS) == [Box(50, 20, 80, 30)]


def test_at_the_top_there_is_the_margin_and_without_it_the_name_stands_below():
    face = Box(50, 0, 90, 80)
    assert place_labels([face], [30], 10, CANVAS) == [Box(50, -10, 80, 0)]
    assert place_labels([face], [30], 10, Box(0, 0, 200, 100)) == [Box(50, 80, 80, 90)]


def test_a_name_gives_way_to_a_neighbour_s_box_and_name():
    boxes = [Box(10, 40, 60, 90), Box(70, 40, 120, 90), Box(10, 10, 60, 38)]
    labels = place_labels(boxes, [80, 80, 30], 10, CANVAS)
    assert all(shared(label, box) == 0 for label in labels for box in boxes)
    assert all(shared(one, other) == 0 for one in labels for other in labels if one is not other)


def boxes_within(width: int, height: int):
    def box(corners):
        (x, y, w, h) = corners
        return Box(x, y, min(x + w, width), min(y + h, height))

    sides = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(1, 80), st.integers(1, 80))
    return st.lists(sides.map(box), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(boxes_within(200, 100), st.integers(5, 260))
def test_names_stay_on_the_canvas_and_by_their_boxes(boxes, width):
    labels = place_labels(boxes, [width] * len(boxes), 10, CANVAS)
    for label, box in zip(labels, boxes, strict=True):
        assert CANVAS.xmin <= label.xmin <= label.xmax <= CANVAS.xmax
        assert CANVAS.ymin <= label.ymin <= label.ymax <= CANVAS.ymax
        assert touches(label, box)
    (alone,) = place_labels(boxes[:1], [width], 10, CANVAS)
    assert shared(alone, boxes[0]) == 0  # above or below there is always room for one


def test_a_box_that_reaches_outside_has_its_name_on_the_canvas():
    (label,) = place_labels([Box(-50, -80, 900, 40)], [30], 10, CANVAS)
    assert label == Box(0, 40, 30, 50)
