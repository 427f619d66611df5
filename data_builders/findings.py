"""What is said about a dataset: the figures of its splits, and findings with their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rivegs_mllm.data.foreign import cut, printable
from rivegs_mllm.types import TYPES, Sample

SHOWN = 20
"""So many findings of a kind are printed; the rest is counted."""

RARE = 1000
"""A type that comes once among so many entities is more likely a slip than a type."""

_WIDEST_TYPE = 40


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
    """What a build or an audit found, ``counts`` by split."""

    counts: dict[str, SplitCounts]
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
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


def format_report(report: DatasetReport) -> str:
    """The figures as a table, one column a split, then the findings by kind, errors first."""
    return "\n".join([*_table(report.counts), *_findings(report.findings)])


def _table(counts: dict[str, SplitCounts]) -> list[str]:
    rows = [("", list(counts))]
    for name in SplitCounts.__dataclass_fields__:
        if name not in ("types", "sizes"):
            rows.append((name.replace("_", " "), [str(getattr(split, name)) for split in counts.values()]))
    for kind in dict.fromkeys(kind for split in counts.values() for kind in split.types):
        rows.append((printable(kind)[:_WIDEST_TYPE], [str(split.types.get(kind, 0)) for split in counts.values()]))
    for index, name in enumerate(("smallest picture", "median picture", "largest picture")):
        sizes = [split.sizes[index] if split.sizes else None for split in counts.values()]
        rows.append((name, ["-" if size is None else f"{size[0]} x {size[1]}" for size in sizes]))
    wide = max(len(name) for name, _ in rows)
    return [f"{name:<{wide}}" + "".join(f"{cell:>14}" for cell in cells) for name, cells in rows]


def _findings(findings: Iterable[Finding]) -> list[str]:
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: (finding.level, finding.kind)):
        kinds.setdefault((finding.level, finding.kind), []).append(finding)
    lines = []
    for (level, kind), group in kinds.items():
        lines += ["", f"{level}: {kind}: {len(group)}"]
        lines += [f"  {finding.place}: {finding.message}" for finding in group[:SHOWN]]
        if len(group) > SHOWN:
            lines.append(f"  and {len(group) - SHOWN} more")
    return lines or ["", "no findings"]
