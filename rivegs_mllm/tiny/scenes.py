"""The scenes that the tiny base learns from: emblems of random looks, which belong to no name."""

from __future__ import annotations

import io
import random

from PIL import Image

from data_builders.emblems.looks import near_look, random_look
from data_builders.emblems.scene import Scene, compose
from rivegs_mllm.types import TYPES

SINGLE = 0.4
"""The share of scenes with one emblem: there is nothing to choose in them, so they are learned first."""


def random_scene(rng: random.Random) -> Scene:
    """One to five emblems of random looks, some twice or with a twin that differs in a part or two, as JPEG."""
    single = rng.random() < SINGLE
    looks = [random_look(rng, rng.choice(TYPES)) for _ in range(1 if single else rng.randint(1, 4))]
    if not single and rng.random() < 0.5:
        looks.append(near_look(rng, looks[0]) if rng.random() < 0.8 else looks[0])
    scene = compose(rng, looks)
    file = io.BytesIO()
    scene.image.save(file, "JPEG", quality=rng.randint(60, 95))  # as photographs come
    return Scene(Image.open(file).convert("RGB"), scene.placements)
