"""Posts to try a system with: a few of the generated benchmark Emblems, which needs no file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from random import Random

from data_builders.emblems.build import draw_post, plan_posts
from data_builders.emblems.encyclopedia import make_encyclopedia

_SEED = 0
"""That of the demo, whose model has seen half of these names."""
_NAMES, _UNSEEN = 48, 24


@dataclass(frozen=True)
class Example:
    """A post: its text, and its picture as a JPEG."""

    text: str
    picture: bytes


def examples(number: int) -> list[Example]:
    """Posts whose pictures show what they name."""
    entries = make_encyclopedia(Random(f"{_SEED}/encyclopedia"), _NAMES, _UNSEEN)
    made = []
    for rng, subset, plan in plan_posts(_SEED, "test", 100, entries):
        if not any(mention.shown for mention in plan.mentions):
            continue
        scene, sample = draw_post(rng, "example", subset, plan)
        file = io.BytesIO()
        scene.image.save(file, "JPEG", quality=90)
        made.append(Example(sample.text, file.getvalue()))
        if len(made) == number:
            break
    return made
