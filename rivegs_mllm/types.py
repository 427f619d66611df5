"""The records: a post with its gold labels, and a system's prediction for it.

Every builder writes these types, every stage fills them, every score reads them. Standard library only.

Coordinates are absolute pixels of the ORIGINAL picture with its EXIF orientation applied, xyxy,
the right and lower edges exclusive: a box that covers the whole picture is ``Box(0, 0, width, height)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPES = ("PER", "LOC", "ORG", "OTHER")
"""The entity types of Twitter-GMNER, in the order in which reports list them."""


NOT_IN_A_TYPE = re.compile(r"[(),\\<|]|[^\S ]|^ | $|  ")
"""Characters that the name of a type cannot hold, because an answer line, ``mention (TYPE, 2)``, is parsed by them.
Single spaces between words are allowed."""


MAX_PIXELS = 89_478_485
"""Larger pictures and masks are taken for decompression bombs and refused: Pillow's own limit, a quarter of a gigabyte
in RGB, up to twice of which Pillow only warns."""


class UserError(ValueError):
    """A mistake that the user can fix. The command line prints its message alone, without a stack trace."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original picture, xyxy, right and lower edge exclusive."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float


@dataclass(frozen=True, slots=True)
class Mask:
    """A segmentation in COCO compressed run-length encoding.

    ``size`` is (height, width) as COCO has it, ``counts`` the compressed string.
    """

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A named entity of a post, gold or predicted.

    ``text`` is the mention: its tokens joined by single spaces. ``span`` is its token offsets, end-exclusive,
    or None where it is not known. ``expression`` describes in plain words what the entity looks like.
    ``visible`` is whether the picture shows it, None while undecided; ``visible_score`` the probability
    of that, in [0, 1]. ``boxes`` and ``masks`` are every region that shows it.
    """

    text: str
    type: str
    span: tuple[int, int] | None = None
    expression: str = ""
    visible: bool | None = None
    visible_score: float | None = None
    boxes: tuple[Box, ...] = ()
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A post: its tokens, its picture and, where it is labelled, its gold.

    ``image`` is a path, relative to the folder of the file that holds the sample, or "" without a picture.
    ``size`` is (width, height) of the picture in pixels, orientation applied, or None where unknown.
    ``entities`` is the gold, in the order of the text, () where unlabelled.
    ``knowledge`` holds texts that LLMs wrote about the post, one a teacher.
    ``subset`` marks the posts that scores are also given apart for, such as "seen" and "unseen".
    """

    id: str
    tokens: tuple[str, ...]
    image: str = ""
    size: tuple[int, int] | None = None
    entities: tuple[Entity, ...] = ()
    knowledge: tuple[str, ...] = ()
    subset: str = ""

    @property
    def text(self) -> str:
        """The tokens joined by single spaces."""
        return " ".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A system's prediction for the post ``id``.

    ``raw`` is the model's answer as it came, ``errors`` what of it could not be parsed, and what of the post could not
    be given to the model.
    """

    id: str
    knowledge: str = ""
    entities: tuple[Entity, ...] = ()
    raw: str = ""
    errors: tuple[str, ...] = ()
