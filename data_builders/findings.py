"""The report on a dataset: the figures of its splits, and findings with their places."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rivegs_mllm.runtime.foreign import cut, printable
from rivegs_mllm.types import TYPES, Sample

SHOWN = 3
"""So many findings of a kind are printed as examples; the rest is counted."""

RARE = 1000
"""A type that comes once among so many entities is more likely a slip than a type."""

_WIDEST_TYPE = 40
# Quoted values, lists and numbers in a message, by which messages of the same fault differ.
_VALUES = re.compile(r"""'[^']*'|"[^"]*"|\[[^]]*\](?=:| )|\d+(?:\.\d+)?""")

ADVICE = {
    "bad line": "docs/format.md describes the lines; `rivegs import` writes them from other formats",
    "boxes in shares": "multiply by the picture's width and height; `rivegs import` does so with --boxes xyxy-1",
    "boxes in other coordinates": "boxes are left, top, right, bottom in pixels of the upright picture; `rivegs "
    "import` converts them, see --boxes",
    "box outside": "are these boxes of another size of the picture, or of the picture before it was turned?",
    "spans off by one": "a span is [start, end], counted in tokens from 0, its end exclusive",
    "labels of another post": "labels or texts have moved by a line: a post is missing, or there is one too many",
    "pictures of another post": "pictures or posts have moved by one: a picture is missing, or there is one too many",
    "one picture in most posts": "does a placeholder stand for lost pictures? Leave `image` out of these posts",
    "same picture under other name": "keep posts with the same picture in one split",
    "post in two splits": "take it out of one of them: scores on what was trained on mean nothing",
    "picture in two splits": "keep posts with the same picture in one split",
    "text in two splits": "take it out of one of them: scores on what was trained on mean nothing",
    "nearly the same text in two splits": "keep posts that say nearly the same in one split",
    "size differs": "`size` is [width, height] of the upright picture; leave it out to have it read from the picture",
    "rotated picture": "boxes are those of the upright picture, as browsers show it",
    "undecided": "say `visible` true or false; where a recipe needs it, training leaves the other posts out",
    "left undecided": "say `visible` true or false in these posts, or draw the region so that it is read",
    "picture not annotated": "whether it shows its mentions stays open; draw their regions, or leave the picture out",
    "odd type": "rename the type",
    "unlisted type": "add it to the types of dataset.json, or set the entities right",
    "bad dataset.json": "import or build the dataset again, or delete the file",
    "type like another": "if it is, give all the same name",
    "rare type": "if it is, give all the same name",
    "long post": "shorten it, or raise max_length in the recipe",
    "overlap": "keep one of them, or train the end-to-end model, which takes both",
    "visible without region": "give its box, or leave `visible` out",
    "tiny boxes": "are these in shares, in thousandths, or of a smaller picture?",
    "boxes of the whole picture": "a box that says nothing teaches nothing: draw it, or say only `visible`",
    "one box in many posts": "is it a placeholder? Leave boxes out that nobody has drawn",
}
"""Advice, by kind of finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``place`` is a file, with ``:line`` where it has lines, or a sample of a split."""

    kind: str
    place: str
    message: str
    level: Literal["error", "warning"] = "warning"

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", printable(self.place))  # the data's own ids and paths may hold anything
        object.__setattr__(self, "message", cut(printable(self.message)))

    def __str__(self) -> str:
        return f"{self.level}: {self.kind}: {self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """The figures of a split.

    ``several_boxes`` counts entities with more than one box; ``repeated_mentions`` the entities whose mention and
    type came before in their post; ``types`` entities by type; ``sizes`` the least, median and greatest
    (width, height) by area of the pictures whose size is known; ``longest`` the tokens of the longest post.
    """

    posts: int
    entities: int
    visible: int
    boxes: int
    masks: int
    several_boxes: int
    posts_without_entity: int
    repeated_mentions: int
    most_entities: int
    empty_posts: int
    longest: int
    with_picture: int
    with_knowledge: int
    types: dict[str, int]
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """The result of a build or an audit, ``counts`` by split, and ``scripts``, the posts of each by file."""

    counts: dict[str, SplitCounts]
    findings: list[Finding] = field(default_factory=list)
    scripts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        """The findings of level "error"."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def exit_code(self) -> int:
        """1 where any finding is an error, else 0."""
        return int(bool(self.errors))


def count_split(samples: Sequence[Sample]) -> SplitCounts:
    """The figures of the samples of one split."""
    entities = [entity for sample in samples for entity in sample.entities]
    types = Counter(entity.type for entity in entities)
    mentions = sum(len({(entity.text, entity.type) for entity in sample.entities}) for sample in samples)
    areas = sorted((sample.size[0] * sample.size[1], sample.size) for sample in samples if sample.size)
    return SplitCounts(
        posts=len(samples),
        entities=len(entities),
        visible=sum(entity.visible is True for entity in entities),
        boxes=sum(len(entity.boxes) for entity in entities),
        masks=sum(len(entity.masks) for entity in entities),
        several_boxes=sum(len(entity.boxes) > 1 for entity in entities),
        posts_without_entity=sum(not sample.entities for sample in samples),
        repeated_mentions=len(entities) - mentions,
        most_entities=max((len(sample.entities) for sample in samples), default=0),
        empty_posts=sum(not sample.tokens for sample in samples),
        longest=max((len(sample.tokens) for sample in samples), default=0),
        with_picture=sum(bool(sample.image) for sample in samples),
        with_knowledge=sum(bool(sample.knowledge) for sample in samples),
        types={kind: types[kind] for kind in (TYPES if types.keys() <= set(TYPES) else sorted(types))},
        sizes=(areas[0][1], areas[len(areas) // 2][1], areas[-1][1]) if areas else (),
    )


def rare_types(splits: Mapping[str, Sequence[Sample]], places: Mapping[str, str]) -> list[Finding]:
    """Types that come once among RARE entities or more. ``places`` are the files of the splits."""
    counts = {}
    for split, group in splits.items():
        counts[split] = Counter(own.type for sample in group for own in sample.entities)
    total = sum(counts.values(), Counter())
    if total.total() < RARE:
        return []
    message = f"comes once among {total.total()} entities; is it another type, misspelt?"
    return [
        Finding("rare type", places[split], f"{kind!r} {message}")
        for split, own in counts.items()
        for kind in sorted(own)
        if total[kind] == 1
    ]


def format_report(report: DatasetReport, shown: int = SHOWN, rest: str = "--all shows them") -> str:
    """The figures as a table, one column a split, then the findings by kind, errors first: how many there are, what to
    do, and ``shown`` of them. ``rest`` says where the others are."""
    return "\n".join([*_table(report.counts), *_scripts(report.scripts), *_findings(report.findings, shown, rest)])


def all_in(out: Path) -> str:
    """Where all findings of a dataset are that was written to ``out``."""
    return f"all are in {out / 'findings.txt'}"


def format_figures(report: DatasetReport) -> str:
    """The figures as a table, one column a split, and the scripts that posts are written in."""
    return "\n".join([*_table(report.counts), *_scripts(report.scripts)])


def figures(counts: Mapping[str, SplitCounts]) -> list[tuple[str, list[str]]]:
    """The figures as rows: a name and a value for each split."""
    rows = []
    for name in SplitCounts.__dataclass_fields__:
        if name not in ("types", "sizes"):
            rows.append((name.replace("_", " "), [str(getattr(split, name)) for split in counts.values()]))
    for kind in dict.fromkeys(kind for split in counts.values() for kind in split.types):
        rows.append((printable(kind)[:_WIDEST_TYPE], [str(split.types.get(kind, 0)) for split in counts.values()]))
    for index, name in enumerate(("smallest picture", "median picture", "largest picture")):
        sizes = [split.sizes[index] if split.sizes else None for split in counts.values()]
        rows.append((name, ["-" if size is None else f"{size[0]} x {size[1]}" for size in sizes]))
    return rows


def _table(counts: Mapping[str, SplitCounts]) -> list[str]:
    rows = [("", list(counts)), *figures(counts)]
    wide = max(len(name) for name, _ in rows)
    return [f"{name:<{wide}}" + "".join(f"{cell:>14}" for cell in cells) for name, cells in rows]


def _scripts(scripts: Mapping[str, Mapping[str, int]]) -> list[str]:
    total = sum(map(Counter, scripts.values()), Counter())
    if len(total) < 2:
        return []
    return ["posts by script: " + ", ".join(f"{name.lower()} {count}" for name, count in total.most_common())]


def _findings(findings: Iterable[Finding], shown: int, rest: str) -> list[str]:
    """Findings of one kind together; lines that are wrong, by what is wrong with them."""
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: (finding.level, finding.kind)):
        pattern = _VALUES.sub("#", finding.message) if finding.kind == "bad line" else ""
        kinds.setdefault((finding.level, finding.kind, pattern), []).append(finding)
    lines = []
    for (level, kind, _), group in kinds.items():
        lines += ["", f"{level}: {kind}: {len(group)}"]
        lines += [f"  {finding.place}: {finding.message}" for finding in group[:shown]]
        if len(group) > shown:
            lines.append(f"  and {len(group) - shown} more; {rest}")
        if kind in ADVICE:
            lines.append(f"  -> {ADVICE[kind]}")
    return lines or ["", "no findings"]
