import itertools

import pytest

from rivegs_mllm.pages.colours import type_colours


@pytest.mark.parametrize("count", [1, 4, 8, 9, 30, 300])
def test_no_two_types_have_the_same_colour(count):
    colours = type_colours(f"type {number}" for number in range(count))
    assert len(colours) == len(set(colours.values())) == count
    assert all(0 <= hue < 360 and ring in (0, 1, 2) for hue, ring in colours.values())


def test_few_types_are_far_apart_and_come_in_the_usual_order():
    colours = type_colours(["brand", "OTHER", "PER", "LOC"])
    assert list(colours) == ["PER", "LOC", "OTHER", "brand"]
    hues = sorted(hue for hue, _ in colours.values())
    assert [after - before for before, after in itertools.pairwise(hues)] == [90, 90, 90]
    assert {ring for _, ring in colours.values()} == {0}


def test_neighbours_among_many_are_on_other_rings():
    rings = [ring for _, ring in type_colours(map(str, range(20))).values()]
    assert all(one != other for one, other in itertools.pairwise(rings))
    assert type_colours([]) == {}
