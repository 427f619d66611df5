"""From what a reader read to samples: the one place where texts, regions and pictures of a post come together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from data_builders.common import numbered_ids
from data_builders.findings import Finding
from data_builders.importing.records import Left, Mention, Post, Region
from data_builders.importing.regions.box_formats import BoxFormat
from data_builders.importing.regions.frames import Frame, FrameError, Placing, bounds, placing
from data_builders.importing.regions.linking import Links, link, may_show
from data_builders.importing.regions.pictures import Picture, Pictures
from data_builders.importing.texts import Read, read_text
from rivegs_mllm.data.masks import box_of
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Box, Entity, Mask, Sample


@dataclass
class Tally:
    """What was read and what became of it. Everything read is kept, merged or dropped, and dropping is a finding."""

    read: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    merged: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Assembled:
    """``samples`` in the order of the posts."""

    samples: list[Sample]
    tally: Tally
    findings: list[Finding]


def assemble(posts: Sequence[Post], pictures: Pictures, boxes: BoxFormat | None, frame: Frame) -> Assembled:
    """A sample a post, with an id that no other has.

    Where the set has regions at all, a mention beside a picture that has none is not in the picture, unless the file
    says otherwise, or a region is left out that may be the mention's.
    """
    tally = Tally()
    findings: list[Finding] = []
    ids = numbered_ids([post.id or _default_id(post) for post in posts])
    texts = [read_text(post) for post in posts]
    links = [link(_as_read(post, text), post.regions) for post, text in zip(posts, texts, strict=True)]
    whole = _Whole(pictures, boxes, frame, any(post.regions for post in posts), _by_name(posts, links))
    samples = []
    for post, own_id, text, own in zip(posts, ids, texts, links, strict=True):
        if post.id and own_id != post.id:
            findings.append(Finding("repeated id", post.place, f"{shown(post.id)} again; it becomes {own_id}"))
        samples.append(_sample(post, own_id, text, own, whole, tally, findings))
    tally.read["posts"] = tally.kept["posts"] = len(posts)
    return Assembled(samples, tally, findings)


def _default_id(post: Post) -> str:
    """The picture's name, or the place in the file."""
    name = post.image.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return name or post.place.replace("\\", "/").rpartition("/")[2].replace(": item ", ":")


def _as_read(post: Post, text: Read) -> list[Mention]:
    """The mentions of a post, each with the words that it has among the tokens."""
    return [
        mention if span is None else replace(mention, text=" ".join(text.tokens[slice(*span)]))
        for mention, span in zip(post.mentions, text.spans, strict=True)
    ]


def _by_name(posts: Sequence[Post], links: Sequence[Links]) -> bool:
    """Whether the labels of regions are mentions, and not types."""
    ways = Counter(
        way
        for post, own in zip(posts, links, strict=True)
        for region, (found, way) in zip(post.regions, own, strict=True)
        if found and not region.mention
    )
    return ways["text"] > ways["type"] + ways["order"]


@dataclass(frozen=True, slots=True)
class _Whole:
    """What holds for all posts: ``grounded``, that there are regions at all, and ``by_name``, that their labels are
    mentions."""

    pictures: Pictures
    boxes: BoxFormat | None
    frame: Frame
    grounded: bool
    by_name: bool


def _sample(
    post: Post, own_id: str, text: Read, links: Links, whole: _Whole, tally: Tally, findings: list[Finding]
) -> Sample:
    findings += [Finding(kind, post.place, message) for kind, message in text.remarks]
    merged: dict[tuple[int, int, str], list[Mention]] = {}
    for mention, span in zip(post.mentions, text.spans, strict=True):
        tally.read["mentions"] += 1
        if span is None:
            tally.dropped["mentions"] += 1
        else:
            key = (*span, mention.type)
            tally.merged["mentions"] += key in merged
            merged.setdefault(key, []).append(mention)
    tally.kept["mentions"] += len(merged)
    places = {key: index for index, key in enumerate(merged)}
    owners = [
        None if span is None else places[(*span, mention.type)]
        for mention, span in zip(post.mentions, text.spans, strict=True)
    ]
    picture = whole.pictures.by_post.get(post.place)
    drawn = _Drawn(post, _as_read(post, text), owners, tally, findings)
    size = drawn.regions(links, picture, whole)
    decided = whole.grounded and not post.unseen and bool(picture or post.image or post.regions)
    entities = []
    for index, (key, mentions) in enumerate(merged.items()):
        entity = _entity(key, mentions, text.tokens, drawn.boxes[index], drawn.masks[index])
        entities.append(_decided(entity, mentions, index in drawn.doubtful, post, findings) if decided else entity)
    return Sample(
        own_id,
        text.tokens,
        picture.path if picture else "",
        size,
        tuple(sorted(entities, key=lambda entity: entity.span)),
        post.knowledge,
        post.subset,
    )


class _Drawn:
    """The regions of a post by the entity that they show.

    ``owners`` has the entity that each of the mentions became, None where it is left out. ``doubtful`` are the
    entities that a region may show which is left out.
    """

    def __init__(
        self,
        post: Post,
        mentions: Sequence[Mention],
        owners: Sequence[int | None],
        tally: Tally,
        findings: list[Finding],
    ):
        self.post = post
        self.mentions = mentions
        self.owners = owners
        self.tally = tally
        self.findings = findings
        count = len({own for own in owners if own is not None})
        self.boxes: list[list[Box]] = [[] for _ in range(count)]
        self.masks: list[list[Mask]] = [[] for _ in range(count)]
        self.doubtful: set[int] = set()

    def regions(self, links: Links, picture: Picture | None, whole: _Whole) -> tuple[int, int] | None:
        """Places all regions, and gives the size of the upright picture."""
        self.tally.read["regions"] += len(self.post.regions)
        header = picture.header if picture else None
        way, differs = None, ""
        try:
            way = placing(self.post.size, header, whole.frame)
        except FrameError as error:
            differs = str(error)
        if way and way.remark:
            self.findings.append(Finding("size set right", self.post.place, way.remark))
        linked = {index for own, _ in links for index in own}
        free = [index for index in range(len(self.mentions)) if index not in linked]
        for region, (own, by) in zip(self.post.regions, links, strict=True):
            shows = self._entities(own or may_show(region, self.mentions, free, whole.by_name))
            if region.left:
                self._leave(region.left)
            elif not own:
                there = ", ".join(shown(mention.text) for mention in self.mentions) or "none"
                self._drop("region without mention", region, f"it fits no mention of its post ({there})")
            elif not shows:
                self._drop("region without mention", region, "its mention is left out")
            elif way is None:
                self._drop("size differs", region, differs)
            elif self._place(region, shows, by, way, whole.boxes):
                continue
            self.doubtful |= shows
        return header.size if way is None else way.size

    def _entities(self, mentions: Iterable[int]) -> set[int]:
        return {own for index in mentions if (own := self.owners[index]) is not None}

    def _place(self, region: Region, owners: set[int], by: str, way: Placing, boxes: BoxFormat | None) -> bool:
        """Whether there is anything of the region that has a place in the picture."""
        box, mask = self._geometry(region, way, boxes)
        if box is None and mask is None:
            return False
        self.tally.kept["regions"] += 1
        self.tally.ways[by] += 1
        for index in sorted(owners):
            if box is not None and box not in self.boxes[index]:
                self.boxes[index].append(box)
            if mask is not None and mask not in self.masks[index]:
                self.masks[index].append(mask)
        return True

    def _geometry(self, region: Region, way: Placing, boxes: BoxFormat | None) -> tuple[Box | None, Mask | None]:
        """Box and mask of the upright picture, both None, and a finding, where nothing of the region lies in it."""
        if way.annotated is None and (region.polygons or (boxes and boxes.unit)):
            self._drop("size not known", region, "its numbers are shares of a picture whose size is not known")
            return None, None
        mask = way.mask(region.mask, self.post.place) if region.mask else None
        if region.polygons:
            mask = way.mask_of_polygons(region.polygons, boxes)
        if region.derived and mask is not None:
            return None, mask
        if region.box is not None:
            box = way.box(region.box, boxes)
        elif (around := bounds(region)) is not None:
            box = way.box(around, BoxFormat("xyxy", boxes.unit))
        else:
            box = None if mask is None else box_of(mask)
        if box is None:
            self._drop("region without area", region, "it covers no pixel of the picture")
            return None, None
        inside = self._clipped(region, box, way.size)
        return (None, None) if inside is None else (inside, mask)

    def _clipped(self, region: Region, box: Box, size: tuple[int, int] | None) -> Box | None:
        edges = [box.xmin, box.ymin, box.xmax, box.ymax]
        if box.xmin >= box.xmax or box.ymin >= box.ymax:
            self._drop("box without area", region, f"its box is {edges} in pixels")
            return None
        if size is None:
            return box
        inside = Box(max(box.xmin, 0), max(box.ymin, 0), min(box.xmax, size[0]), min(box.ymax, size[1]))
        if inside == box:
            return box
        if inside.xmin >= inside.xmax or inside.ymin >= inside.ymax:
            self._drop("box outside", region, f"its box is {edges} in a picture of {size[0]} x {size[1]}")
            return None
        message = f"the box {edges} of {_name(region)} reaches out of the picture of {size[0]} x {size[1]}; it is cut"
        self.findings.append(Finding("box cut", self.post.place, message))
        return inside

    def _drop(self, kind: str, region: Region, why: str) -> None:
        self._leave(Left(kind, self.post.place, f"the region {_name(region)} is left out: {why}"))

    def _leave(self, left: Left) -> None:
        self.tally.dropped["regions"] += 1
        self.findings.append(Finding(left.kind, left.place, left.message))


def _name(region: Region) -> str:
    return shown(" ".join(filter(None, (region.mention, region.label))) or region.key)


def _entity(
    key: tuple[int, int, str],
    mentions: Sequence[Mention],
    tokens: Sequence[str],
    boxes: Sequence[Box],
    masks: Sequence[Mask],
) -> Entity:
    """One entity from all that was read of it. One with a region is visible."""
    start, end, kind = key
    said = next((mention.visible for mention in mentions if mention.visible is not None), None)
    return Entity(
        " ".join(tokens[start:end]),
        kind,
        (start, end),
        next((mention.expression for mention in mentions if mention.expression), ""),
        True if boxes or masks else said,
        next((mention.visible_score for mention in mentions if mention.visible_score is not None), None),
        tuple(boxes),
        tuple(masks),
    )


def _decided(
    entity: Entity, mentions: Sequence[Mention], doubtful: bool, post: Post, findings: list[Finding]
) -> Entity:
    """The entity, not visible where nothing speaks for it; what is doubted of its visibility is a finding."""
    if (entity.boxes or entity.masks) and any(mention.visible is False for mention in mentions):
        message = f"{shown(entity.text)} is said not to be, but has a region"
        findings.append(Finding("visible after all", post.place, message))
    if entity.visible is not None or any(mention.undecided for mention in mentions):
        return entity
    if doubtful:
        message = f"{shown(entity.text)} may be what a region shows that is left out; whether it is visible stays open"
        findings.append(Finding("left undecided", post.place, message))
        return entity
    return replace(entity, visible=False)
