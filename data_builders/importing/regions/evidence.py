"""What the boxes of a set mean, by what the user says, the format says, or all boxes and pictures together show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data_builders.importing.records import Post
from data_builders.importing.regions.box_formats import (
    BoxFormat,
    Evidence,
    count_fitting,
    guess,
    parse,
    seem_shares,
    weigh,
)
from data_builders.importing.regions.frames import Frame, FrameError, placing
from data_builders.importing.regions.pictures import Pictures
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import UserError

_MANY = 5
_FEW = 0.9
"""Of the boxes that must fit where the format says what they mean; below, and if they fit otherwise, it is doubted."""


def decide_boxes(
    posts: Sequence[Post],
    pictures: Pictures,
    declared: BoxFormat | None,
    layout: str,
    said: str,
    frame: Frame,
    tell: Callable[[str], None],
) -> BoxFormat | None:
    """The format of the boxes, told in a line; None where the set has none.

    ``declared`` is what the format of the file fixes, ``layout`` what it fixes where it leaves the unit open, ``said``
    the user's ``--boxes`` or "". Raises UserError where the evidence allows no choice, or contradicts what is declared.
    """
    known = parse(said) if said else declared
    check_frame(posts, pictures, known, frame)  # first, since boxes of the other frame seem to be of another format
    boxes, sizes = _boxes(posts, pictures, frame)
    if not boxes:
        return known
    evidence = weigh(boxes, sizes, layout)
    if said:
        every = plural(len(boxes), "box", "boxes")
        tell(f"boxes: {known.in_words()}, as you say; fits {_fitting(boxes, sizes, known)} of {every}")
        return known
    if declared is None:
        chosen = guess(evidence)
        tell(f"boxes: {chosen.in_words()}, guessed: {evidence.in_words(chosen)}; --boxes says otherwise")
        check_frame(posts, pictures, chosen, frame)
        return chosen
    fitting = _fitting(boxes, sizes, declared)
    _doubt(declared, fitting, evidence, declared.unit is None and seem_shares(boxes, sizes))
    tell(f"boxes: {declared.in_words()}, as the format has them; {fitting} of {len(boxes)} fit their pictures")
    return declared


def _doubt(declared: BoxFormat, fitting: int, evidence: Evidence, shares: bool) -> None:
    """Raises UserError where the boxes are of a format that another fits much better than the file's own."""
    unlikely = evidence.total >= _MANY and fitting < _FEW * evidence.total
    better = [own for own, count in evidence.fits.items() if count >= 0.95 * evidence.total and own != declared]
    if better and (shares or unlikely):
        raise UserError(
            f"boxes: as {declared.in_words()}, which the format has, {fitting} of {evidence.total} fit their pictures; "
            f"as {better[0].in_words()} {evidence.fits[better[0]]} do; say which by --boxes"
        )


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


def _boxes(posts: Sequence[Post], pictures: Pictures, frame: Frame) -> tuple[list, list]:
    """All boxes, and of each the size of the picture that it was drawn on."""
    boxes, sizes = [], []
    for post in posts:
        own = [region.box for region in post.regions if region.box is not None]
        boxes += own
        sizes += [_annotated(post, pictures, frame)] * len(own)
    return boxes, sizes


def _annotated(post: Post, pictures: Pictures, frame: Frame) -> tuple[int, int] | None:
    picture = pictures.by_post.get(post.place)
    try:
        return placing(post.size, picture.header if picture else None, frame).annotated
    except FrameError:
        return post.size


def _fitting(boxes: Sequence, sizes: Sequence, chosen: BoxFormat) -> int:
    sides = np.array([size or (np.inf, np.inf) for size in sizes], float)
    return count_fitting(np.array(boxes, float), sides, chosen)
