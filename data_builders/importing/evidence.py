"""What the boxes of a set mean, by what the user says, the format says, or all boxes and pictures together show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data_builders.importing.box_formats import BoxFormat, count_fitting, guess, parse, weigh
from data_builders.importing.frames import Frame
from data_builders.importing.pictures import Pictures
from data_builders.importing.records import Post
from rivegs_mllm.types import UserError

_FEW = 0.9
"""Of the boxes that must fit where the format says what they mean; below, and if they fit otherwise, it is doubted."""


def decide_boxes(
    posts: Sequence[Post],
    pictures: Pictures,
    declared: BoxFormat | None,
    layout: str,
    said: str,
    tell: Callable[[str], None],
) -> BoxFormat | None:
    """The format of the boxes, told in a line; None where the set has none.

    ``declared`` is what the format of the file fixes, ``layout`` what it fixes where it leaves the unit open, ``said``
    the user's ``--boxes`` or "". Raises UserError where the evidence allows no choice, or contradicts what is declared.
    """
    boxes, sizes = _boxes(posts, pictures)
    if not boxes:
        return declared or (parse(said) if said else None)
    evidence = weigh(boxes, sizes, layout)
    if said:
        chosen = parse(said)
        tell(f"boxes: {chosen.in_words()}, as you say; fits {_fitting(boxes, sizes, chosen)} of {len(boxes)} boxes")
    elif declared is None:
        chosen = guess(evidence)
        tell(f"boxes: {chosen.in_words()}, guessed: {evidence.in_words(chosen)}; --boxes says otherwise")
    else:
        chosen = declared
        fitting = _fitting(boxes, sizes, chosen)
        better = [own for own, count in evidence.fits.items() if count >= len(boxes) * 0.95 and own != chosen]
        if fitting < _FEW * len(boxes) and better:
            raise UserError(
                f"boxes: as {chosen.in_words()}, which the format has, {fitting} of {len(boxes)} fit their pictures; "
                f"as {better[0].in_words()} {evidence.fits[better[0]]} do; say which by --boxes"
            )
        tell(f"boxes: {chosen.in_words()}, as the format has them; {fitting} of {len(boxes)} fit their pictures")
    return chosen


def check_frame(posts: Sequence[Post], pictures: Pictures, boxes: BoxFormat | None, frame: Frame) -> None:
    """Raises UserError where boxes on pictures that are stored turned fit these as stored, and not upright."""
    if boxes is None or boxes.unit is not None:
        return
    turned = [post for post in posts if (own := pictures.by_post.get(post.place)) and own.header.orientation >= 5]
    found = [
        (region.box, pictures.by_post[post.place].header.size)
        for post in turned
        for region in post.regions
        if region.box is not None
    ]
    if not found:
        return
    fits = {
        name: _fitting(
            [box for box, _ in found], [size if name == "upright" else size[::-1] for _, size in found], boxes
        )
        for name in ("upright", "stored")
    }
    other = "stored" if frame == "upright" else "upright"
    if fits[other] == len(found) > fits[frame]:
        raise UserError(
            f"boxes: of {len(found)} on pictures that EXIF turns, {fits[frame]} fit the picture {frame} and "
            f"{fits[other]} the picture {other}; if they were drawn on that, say --frame {other}"
        )


def _boxes(posts: Sequence[Post], pictures: Pictures) -> tuple[list, list]:
    boxes, sizes = [], []
    for post in posts:
        picture = pictures.by_post.get(post.place)
        for region in post.regions:
            if region.box is not None:
                boxes.append(region.box)
                sizes.append(post.size or (picture.header.size if picture else None))
    return boxes, sizes


def _fitting(boxes: Sequence, sizes: Sequence, chosen: BoxFormat) -> int:
    sides = np.array([size or (np.inf, np.inf) for size in sizes], float)
    return count_fitting(np.array(boxes, float), sides, chosen)
