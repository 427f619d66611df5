"""Looks, their expressions and their drawings."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from data_builders.emblems.draw import draw_look
from data_builders.emblems.looks import PARTS, Look, all_looks, near_look, parse_expression, random_look
from rivegs_mllm.types import TYPES


@pytest.mark.parametrize("kind", TYPES)
def test_expressions_are_one_to_one_and_short(kind):
    looks = list(all_looks(kind))
    expressions = [look.expression for look in looks]
    assert len(set(looks)) == len(looks) == len(set(expressions))
    assert [parse_expression(expression) for expression in expressions] == looks
    assert max(len(expression.split()) for expression in expressions) <= 13


def test_what_the_expressions_say():
    assert Look("PER", ("red", "long", "with", "blue")).expression == (
        "a person with long red hair, glasses and a blue shirt"
    )
    assert Look("LOC", ("vertical", "red", "white", "none", "star")).expression == (
        "a flag with red and white vertical stripes and a star"
    )
    assert Look("ORG", ("round", "green", "bolt", "white")).expression == "a round green logo with a white bolt"
    assert Look("OTHER", ("guitar", "orange")).expression == "an orange guitar"


@pytest.mark.parametrize(
    "text",
    ["", "a guitar", "a orange car", "a yellow guitar ", "a flag with red and red vertical stripes", "A yellow guitar"],
)
def test_other_text_is_no_expression(text):
    assert parse_expression(text) is None


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("OTHER", ("car",)), ("OTHER", ("car", "pink")), ("LOC", ("vertical", "red", "blue", "red", "none"))],
)
def test_an_impossible_look_is_refused(kind, parts):
    with pytest.raises(ValueError, match=r"parts|colour"):
        Look(kind, parts)


@pytest.mark.parametrize("kind", TYPES)
def test_a_near_look_differs_in_one_or_two_parts(kind):
    rng = Random(5)
    pairs = [(look, near_look(rng, look)) for look in (random_look(rng, kind) for _ in range(300))]
    assert {look.distance(near) for look, near in pairs} == {1, 2}
    assert all(near.type == kind for _, near in pairs)


@pytest.mark.parametrize("kind", TYPES)
def test_every_value_of_every_part_is_drawn_at_random(kind):
    rng = Random(6)
    looks = [random_look(rng, kind) for _ in range(600)]
    for index, (_, values) in enumerate(PARTS[kind]):
        assert {look.parts[index] for look in looks} == set(values)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("side", [24, 51, 130])
def test_a_sprite_is_tight_and_its_alpha_hard(kind, side):
    rng = Random(side)
    for look in (random_look(rng, kind) for _ in range(15)):
        sprite = draw_look(look, side)
        alpha = np.asarray(sprite.getchannel("A"))
        assert sprite.mode == "RGBA"
        assert abs(max(sprite.size) - side) <= 2
        assert set(np.unique(alpha)) <= {0, 255}
        assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


def test_every_part_shows_in_the_drawing():
    """Two looks that differ in one part differ visibly: by at least 3 % of the opaque pixels at 48 pixels."""
    for kind in TYPES:
        look = random_look(Random(1), kind)
        for index, (name, values) in enumerate(PARTS[kind]):
            for one, other in pairwise(values):
                if kind == "LOC" and {one, other} & set(look.parts[1:4]):
                    continue
                sprites = [
                    draw_look(Look(kind, (*look.parts[:index], value, *look.parts[index + 1 :])), 48)
                    for value in (one, other)
                ]
                a, b = (np.asarray(sprite.resize((48, 48)).convert("RGB"), int) for sprite in sprites)
                assert (np.abs(a - b).max(axis=2) > 60).mean() > 0.03, (kind, name, one, other)
