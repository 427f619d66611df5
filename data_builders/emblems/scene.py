"""Emblems on a cluttered background, with boxes and masks of what can be seen of each."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from data_builders.emblems.draw import draw_look
from data_builders.emblems.looks import Look
from rivegs_mllm.types import Box

MOST_EMBLEMS = 5  # in a picture; SIDES has a size for each number
LEAST_VISIBLE = 0.7
"""The share of an emblem's pixels that stays visible, whatever covers it."""

SIDES = {1: (0.34, 0.65), 2: (0.32, 0.55), 3: (0.30, 0.50), 4: (0.30, 0.44), 5: (0.30, 0.38)}
"""The longer side of an emblem as a share of the picture's short side, by the number of emblems."""

OVERLAPPING = 0.25  # share of the scenes in which emblems may overlap
COVERED = 0.25  # share of the scenes in which a piece of clutter covers part of an emblem
NOISE = Image.fromarray(np.random.default_rng(0).normal(128, 7, (640, 640)).astype(np.uint8)).convert("RGB")
"""A camera's noise around 128; pictures get a piece of it, larger ones a stretched piece."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """An emblem in a picture: ``box`` and ``mask`` (bool, height x width) are of its visible part."""

    look: Look
    box: Box
    mask: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An upright RGB picture and its emblems in reading order."""

    image: Image.Image
    placements: tuple[Placement, ...]


def compose(rng: Random, looks: list[Look], size: tuple[int, int] | None = None) -> Scene:
    """A picture of size (width, height), drawn at random when None, that shows each of ``looks`` once.

    A look that stands twice in ``looks`` is shown twice. Raises ValueError for more than MOST_EMBLEMS looks.
    """
    if len(looks) > MOST_EMBLEMS:
        raise ValueError(f"{len(looks)} emblems do not fit, at most {MOST_EMBLEMS} do")
    width, height = size or random_size(rng)
    picture = _background(rng, width, height)
    owner, areas = _place(rng, picture, looks)
    if looks and rng.random() < COVERED:
        _cover(rng, picture, owner, areas)
    placements = [_placement(look, owner == number) for number, look in enumerate(looks, 1)]
    return Scene(_grain(rng, picture), tuple(_reading_order(placements)))


def random_size(rng: Random) -> tuple[int, int]:
    """Width and height: a short side of 160 to 260 pixels, width / height from 0.6 to 1.7."""
    short, aspect = rng.randint(160, 260), rng.uniform(0.6, 1.7)
    return (round(short * aspect), short) if aspect >= 1 else (short, round(short / aspect))


def _place(rng: Random, picture: Image.Image, looks: list[Look]) -> tuple[np.ndarray, list[int]]:
    """Pastes the emblems; the id map (0 background, n the n-th look) and the emblems' areas when uncovered."""
    overlapping = rng.random() < OVERLAPPING
    while True:
        spots = _spots(rng, picture.size, looks, overlapping)
        if spots is not None:
            break
    owner = np.zeros((picture.height, picture.width), np.uint8)
    areas = []
    for number, (sprite, alpha, x, y) in enumerate(spots, 1):
        picture.paste(sprite, (x, y), sprite)
        owner[y : y + sprite.height, x : x + sprite.width][alpha] = number
        areas.append(int(alpha.sum()))
    return owner, areas


Spot = tuple[Image.Image, np.ndarray, int, int]


def _spots(rng: Random, size: tuple[int, int], looks: list[Look], overlapping: bool) -> list[Spot] | None:
    """Each emblem's sprite, mask and corner, or None when the last ones found no room: other sizes are drawn then."""
    spots: list[Spot] = []
    owner = np.zeros((size[1], size[0]), np.uint8)
    for number, look in enumerate(looks, 1):
        share = rng.uniform(*SIDES[len(looks)])
        sprite = draw_look(look, round(share * min(size)))
        alpha = np.asarray(sprite.getchannel("A")) > 0
        corner = _corner(rng, owner, alpha, spots, overlapping)
        if corner is None:
            return None
        x, y = corner
        owner[y : y + sprite.height, x : x + sprite.width][alpha] = number
        spots.append((sprite, alpha, x, y))
    return spots


def _corner(
    rng: Random, owner: np.ndarray, alpha: np.ndarray, spots: list[Spot], overlapping: bool
) -> tuple[int, int] | None:
    """A corner for a sprite that leaves enough of those beneath visible; None after thirty tries without one."""
    height, width = alpha.shape
    for _ in range(30):
        x, y = rng.randint(0, owner.shape[1] - width), rng.randint(0, owner.shape[0] - height)
        hidden = owner[y : y + height, x : x + width]
        if not hidden.any():
            return x, y
        if overlapping and all(_stays(owner, hidden[alpha], n, spot) for n, spot in enumerate(spots, 1)):
            return x, y
    return None


def _stays(owner: np.ndarray, hidden: np.ndarray, number: int, spot: Spot) -> bool:
    lost = int((hidden == number).sum())
    if lost == 0:
        return True
    _, alpha, x, y = spot
    seen = int((owner[y : y + alpha.shape[0], x : x + alpha.shape[1]] == number).sum())
    return seen - lost >= LEAST_VISIBLE * int(alpha.sum())


def _cover(rng: Random, picture: Image.Image, owner: np.ndarray, areas: list[int]) -> None:
    """Lays a muted patch over the edge of one emblem, unless too little of any emblem would be left."""
    number = rng.randint(1, len(areas))
    rows, columns = np.nonzero(owner == number)
    reach = rng.uniform(0.25, 0.5) * (np.ptp(rows) + np.ptp(columns)) / 2
    edge = rng.randrange(len(rows))
    x, y = _outwards(columns, edge, reach), _outwards(rows, edge, reach)
    patch = Image.new("1", picture.size)
    angles = sorted(rng.uniform(0, 2 * pi) for _ in range(rng.choice((5, 6, 8))))
    ImageDraw.Draw(patch).polygon([(x + reach * cos(a), y + reach * sin(a)) for a in angles], fill=1)
    covered = np.asarray(patch)
    left = np.bincount(owner[~covered], minlength=len(areas) + 1)
    if all(left[n] >= LEAST_VISIBLE * area for n, area in enumerate(areas, 1)):
        picture.paste(_muted(rng), (0, 0), patch)
        owner[covered] = 0


def _outwards(values: np.ndarray, chosen: int, reach: float) -> float:
    """A pixel's coordinate, moved away from the middle so that a patch there covers the rim."""
    middle = (values.min() + values.max()) / 2
    return values[chosen] + 0.6 * reach * np.sign(values[chosen] - middle)


def _placement(look: Look, mask: np.ndarray) -> Placement:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Placement(look, box, mask)


def _reading_order(placements: list[Placement]) -> list[Placement]:
    """Rows from the top, each from the left. A row is what has its centre above the lower edge of its first box."""
    waiting = sorted(placements, key=lambda p: p.box.ymin + p.box.ymax)
    ordered: list[Placement] = []
    while waiting:
        edge = waiting[0].box.ymax
        row = [p for p in waiting if (p.box.ymin + p.box.ymax) / 2 < edge]
        ordered += sorted(row, key=lambda p: p.box.xmin + p.box.xmax)
        waiting = waiting[len(row) :]
    return ordered


def _muted(rng: Random) -> tuple[int, int, int]:
    """A greyish colour of middling brightness, which no emblem has for its own."""
    grey = 63 + 105 * rng.random()
    return int(grey + 44 * rng.random()), int(grey + 44 * rng.random()), int(grey + 44 * rng.random())


def _background(rng: Random, width: int, height: int) -> Image.Image:
    """A soft patchwork of muted colours with bars, blobs and lines, none of them shaped or coloured as an emblem."""
    across, down = rng.choice(((2, 2), (3, 2), (4, 4), (7, 6), (12, 10)))
    patches = Image.new("RGB", (across, down))
    patches.putdata([_muted(rng) for _ in range(across * down)])
    picture = patches.resize((width, height), rng.choice((Image.Resampling.BILINEAR, Image.Resampling.NEAREST)))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(2, 9)):
        x, y = rng.randint(0, width), rng.randint(0, height)
        reach = rng.uniform(0.05, 0.3) * min(width, height)
        kind = rng.randrange(3)
        if kind == 0:
            angles = sorted(rng.uniform(0, 2 * pi) for _ in range(rng.randint(3, 7)))
            draw.polygon([(x + reach * cos(a), y + reach * sin(a)) for a in angles], fill=_muted(rng))
        elif kind == 1:
            draw.ellipse((x - reach, y - reach / 2, x + reach, y + reach / 2), fill=_muted(rng))
        else:
            end = (rng.randint(0, width), rng.randint(0, height))
            draw.line((x, y, *end), fill=_muted(rng), width=rng.randint(1, 6))
    return picture


def _grain(rng: Random, picture: Image.Image) -> Image.Image:
    """The picture with a camera's noise on it."""
    width, height = picture.size
    x, y = rng.randint(0, max(0, NOISE.width - width)), rng.randint(0, max(0, NOISE.height - height))
    noise = NOISE.crop((x, y, min(x + width, NOISE.width), min(y + height, NOISE.height)))
    return ImageChops.add(picture, noise.resize(picture.size), 1, -128)
