"""Scenes: what their boxes and masks promise."""

from random import Random

import numpy as np
import pytest

from data_builders.emblems.draw import draw_look
from data_builders.emblems.looks import random_look
from data_builders.emblems.scene import LEAST_VISIBLE, MOST_EMBLEMS, compose, random_size
from rivegs_mllm.types import TYPES, Box


def random_looks(rng, count):
    return [random_look(rng, rng.choice(TYPES)) for _ in range(count)]


@pytest.fixture(scope="module")
def scenes():
    rng = Random(11)
    return [compose(rng, random_looks(rng, index % (MOST_EMBLEMS + 1))) for index in range(120)]


def test_each_look_is_placed_once():
    rng = Random(2)
    for count in range(1, MOST_EMBLEMS + 1):
        looks = random_looks(rng, count - 1)
        looks.append(looks[0] if looks else random_look(rng, "PER"))  # one look twice
        placed = [placement.look for placement in compose(rng, looks).placements]
        assert sorted(placed, key=str) == sorted(looks, key=str)


def test_more_emblems_than_fit_are_refused():
    with pytest.raises(ValueError, match="6 emblems"):
        compose(Random(0), random_looks(Random(0), MOST_EMBLEMS + 1))


def test_boxes_are_tight_around_masks_that_do_not_overlap(scenes):
    for scene in scenes:
        total = np.zeros((scene.image.height, scene.image.width), int)
        for placement in scene.placements:
            rows, columns = np.nonzero(placement.mask)
            assert placement.mask.shape == total.shape
            assert placement.mask.dtype == bool
            assert placement.box == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            total += placement.mask
        assert total.max() <= 1


def test_a_mask_covers_what_the_look_paints():
    """Under the mask the picture has the sprite's pixels, give or take the noise, at a scene without overlap."""
    rng = Random(4)
    for _ in range(20):
        look = random_look(rng, rng.choice(TYPES))
        scene = compose(rng, [look])
        (placement,) = scene.placements
        box = placement.box
        width, height = box.xmax - box.xmin, box.ymax - box.ymin
        fitting = [draw_look(look, side) for side in range(max(width, height) - 2, max(width, height) + 3)]
        fitting = [sprite for sprite in fitting if sprite.size == (width, height)]
        if not fitting:  # a piece of clutter cut the box
            continue
        cut = scene.image.crop((box.xmin, box.ymin, box.xmax, box.ymax))
        mask = placement.mask[box.ymin : box.ymax, box.xmin : box.xmax]
        sprites = [np.asarray(sprite) for sprite in fitting]
        off = [np.abs(np.asarray(cut, int) - sprite[..., :3].astype(int)).max(axis=2)[mask].max() for sprite in sprites]
        assert min(off) < 45
        best = sprites[int(np.argmin(off))][..., 3] > 0
        assert (mask <= best).all()


def test_enough_stays_visible_and_some_is_hidden(scenes):
    shares = []
    for scene in scenes:
        for placement in scene.placements:
            side = max(placement.box.xmax - placement.box.xmin, placement.box.ymax - placement.box.ymin)
            whole = np.asarray(draw_look(placement.look, side).getchannel("A")) > 0
            shares.append(placement.mask.sum() / whole.sum())
    assert min(shares) >= LEAST_VISIBLE - 0.05
    assert np.mean(np.array(shares) < 0.93) > 0.03


def test_pictures_vary_and_emblems_are_large(scenes):
    sizes = np.array([scene.image.size for scene in scenes])
    aspects = sizes[:, 0] / sizes[:, 1]
    assert aspects.min() < 0.75
    assert aspects.max() > 1.5
    assert sizes.min() >= 155
    for scene in scenes:
        short = min(scene.image.size)
        for placement in scene.placements:
            longer = max(placement.box.xmax - placement.box.xmin, placement.box.ymax - placement.box.ymin)
            assert 0.2 < longer / short < 0.68


def test_placements_come_in_reading_order(scenes):
    for scene in scenes:
        for earlier, later in zip(scene.placements, scene.placements[1:], strict=False):
            below = (later.box.ymin + later.box.ymax) / 2 >= (earlier.box.ymin + earlier.box.ymax) / 2
            right = later.box.xmin + later.box.xmax >= earlier.box.xmin + earlier.box.xmax
            assert below or right


def test_backgrounds_are_muted():
    rng = Random(8)
    for _ in range(15):
        pixels = np.asarray(compose(rng, []).image, int)
        assert (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 45 + 3
        assert 40 < pixels.mean() < 205


def test_a_size_can_be_given_and_scenes_repeat():
    looks = random_looks(Random(1), 3)
    one, two = (compose(Random(9), looks, (640, 800)) for _ in range(2))
    assert one.image.size == (640, 800)
    assert one.image.tobytes() == two.image.tobytes()
    assert [p.box for p in one.placements] == [p.box for p in two.placements]
    assert one.image.tobytes() != compose(Random(10), looks, (640, 800)).image.tobytes()


def test_random_sizes_keep_their_bounds():
    rng = Random(3)
    for width, height in (random_size(rng) for _ in range(500)):
        assert 160 <= min(width, height) <= 260
        assert 0.59 <= width / height <= 1.71
