"""From what a reader read to samples: the one place where texts, regions and pictures of a post come together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from data_builders.common import numbered_ids
from data_builders.findings import Finding
from data_builders.importing.records import Mention, Post, Region
from data_builders.importing.regions.box_formats import BoxFormat
from data_builders.importing.regions.frames import Frame, FrameError, Placing, bounds, placing
from data_builders.importing.regions.linking import link
from data_builders.importing.regions.pictures import Picture, Pictures
from data_builders.importing.texts import read_text
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
    says otherwise.
    """
    tally = Tally()
    findings: list[Finding] = []
    ids = numbered_ids([post.id or _default_id(post) for post in posts])
    grounded = any(post.regions for post in posts)
    samples = []
    for post, own_id in zip(posts, ids, strict=True):
        if post.id and own_id != post.id:
            findings.append(Finding("repeated id", post.place, f"{shown(post.id)} again; it becomes {own_id}"))
        samples.append(_sample(post, own_id, pictures.by_post.get(post.place), boxes, frame, grounded, tally, findings))
    tally.read["posts"] = tally.kept["posts"] = len(posts)
    return Assembled(samples, tally, findings)


def _default_id(post: Post) -> str:
    """The picture's name, or the place in the file."""
    name = post.image.replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    return name or post.place.replace("\\", "/").rpartition("/")[2].replace(": item ", ":")


def _sample(
    post: Post,
    own_id: str,
    picture: Picture | None,
    boxes: BoxFormat | None,
    frame: Frame,
    grounded: bool,
    tally: Tally,
    findings: list[Finding],
) -> Sample:
    text = read_text(post)
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
    drawn = _Drawn(post, merged, text.tokens, tally, findings)
    size = drawn.regions(picture, boxes, frame)
    for index, (key, mentions) in enumerate(merged.items()):
        if (drawn.boxes[index] or drawn.masks[index]) and any(mention.visible is False for mention in mentions):
            name = " ".join(text.tokens[key[0] : key[1]])
            findings.append(
                Finding("visible after all", post.place, f"{shown(name)} is said not to be, but has a region")
            )
    decided = grounded and bool(picture or post.image or post.regions)
    entities = [
        _entity(span, mentions, text.tokens, drawn.boxes[index], drawn.masks[index], decided)
        for index, (span, mentions) in enumerate(merged.items())
    ]
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
    """The regions of a post by the mention that they show."""

    def __init__(
        self,
        post: Post,
        merged: dict[tuple[int, int, str], list[Mention]],
        tokens: Sequence[str],
        tally: Tally,
        findings: list[Finding],
    ):
        self.post = post
        self.tally = tally
        self.findings = findings
        # A mention may have been read several times, each under a key of its own.
        self.owners = [
            (index, replace(mention, text=" ".join(tokens[span[0] : span[1]])))
            for index, (span, mentions) in enumerate(merged.items())
            for mention in mentions
        ]
        self.boxes: list[list[Box]] = [[] for _ in merged]
        self.masks: list[list[Mask]] = [[] for _ in merged]

    def regions(self, picture: Picture | None, boxes: BoxFormat | None, frame: Frame) -> tuple[int, int] | None:
        """Places all regions, and gives the size of the upright picture."""
        header = picture.header if picture else None
        self.tally.read["regions"] += len(self.post.regions)
        try:
            way = placing(self.post.size, header, frame)
        except FrameError as error:
            for region in self.post.regions:
                self._drop("size differs", region, str(error))
            return header.size
        if way.remark:
            self.findings.append(Finding("size set right", self.post.place, way.remark))
        for region, (own, by) in zip(
            self.post.regions, link([mention for _, mention in self.owners], self.post.regions), strict=True
        ):
            if own:
                self._place(region, {self.owners[index][0] for index in own}, by, way, boxes)
            else:
                there = ", ".join(shown(mention.text) for _, mention in self.owners) or "none"
                self._drop("region without mention", region, f"it fits no mention of its post ({there})")
        return way.size

    def _place(self, region: Region, owners: set[int], by: str, way: Placing, boxes: BoxFormat | None) -> None:
        box, mask = self._geometry(region, way, boxes)
        if box is None and mask is None:
            return
        self.tally.kept["regions"] += 1
        self.tally.ways[by] += 1
        for index in sorted(owners):
            if box is not None and box not in self.boxes[index]:
                self.boxes[index].append(box)
            if mask is not None and mask not in self.masks[index]:
                self.masks[index].append(mask)

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
        self.tally.dropped["regions"] += 1
        self.findings.append(Finding(kind, self.post.place, f"the region {_name(region)} is left out: {why}"))


def _name(region: Region) -> str:
    return shown(" ".join(filter(None, (region.mention, region.label))) or region.key)


def _entity(
    key: tuple[int, int, str],
    mentions: Sequence[Mention],
    tokens: Sequence[str],
    boxes: Sequence[Box],
    masks: Sequence[Mask],
    decided: bool,
) -> Entity:
    """One entity from all that was read of it. One with a region is visible."""
    start, end, kind = key
    visible = next((mention.visible for mention in mentions if mention.visible is not None), None)
    if boxes or masks:
        visible = True
    elif visible is None and decided and not any(mention.undecided for mention in mentions):
        visible = False
    return Entity(
        " ".join(tokens[start:end]),
        kind,
        (start, end),
        next((mention.expression for mention in mentions if mention.expression), ""),
        visible,
        next((mention.visible_score for mention in mentions if mention.visible_score is not None), None),
        tuple(boxes),
        tuple(masks),
    )
