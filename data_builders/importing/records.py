"""What readers make of a file, whatever its format: posts, mentions and regions, still as the file has them."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_builders.importing.regions.box_formats import BoxFormat
from rivegs_mllm.types import Mask

Numbers = tuple[float, float, float, float]
Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mention:
    """A named entity in a text.

    Where it stands is said by ``characters`` (start, end) of the post's text, by ``span``, the same in tokens, or not
    at all, and then by ``text`` alone. ``key`` is what regions of the post call it by. ``visible`` is None where the
    file does not say it; ``undecided`` where it says that nobody has decided.
    """

    type: str
    text: str = ""
    characters: tuple[int, int] | None = None
    span: tuple[int, int] | None = None
    key: str = ""
    expression: str = ""
    visible: bool | None = None
    undecided: bool = False
    visible_score: float | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A place in the picture, in the box format of the file: a box, or polygons, or both, or a mask in pixels.

    It shows the mention ``key``, or the one that reads ``mention``, or one that ``label``, a text or a type, leads to.
    ``derived``: the box only bounds the mask, and is none of the mention's own. ``left``: why nothing of it can be
    read; then it has no geometry, and whether the picture shows its mention is not known.
    """

    label: str = ""
    mention: str = ""
    key: str = ""
    box: Numbers | None = None
    polygons: tuple[Polygon, ...] = ()
    mask: Mask | None = None
    derived: bool = False
    left: Left | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """``place`` is file and line or item, for messages. ``image`` is the picture's path, URL or name as the file has
    it, ``picture`` its bytes where the file holds them. ``size`` is the picture's (width, height) as the file says.
    ``split`` and ``id`` are "" where the file says none. ``unseen``: nobody has looked for regions in its picture.
    """

    place: str
    id: str = ""
    text: str | None = None
    tokens: tuple[str, ...] | None = None
    mentions: tuple[Mention, ...] = ()
    regions: tuple[Region, ...] = ()
    image: str = ""
    picture: bytes = b""
    size: tuple[int, int] | None = None
    split: str = ""
    knowledge: tuple[str, ...] = ()
    subset: str = ""
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """Something of a file that none of the posts holds: ``kind`` and ``message`` are those of a finding."""

    kind: str
    place: str
    message: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read. ``boxes`` is the format of its boxes, None where it could be any; ``layout`` is what is
    known of it then, such as "xywh" by the names of columns. ``notes`` say what was guessed."""

    posts: list[Post]
    boxes: BoxFormat | None = None
    layout: str = ""
    notes: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
