"""The import from the first file to the last line written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from data_builders.common import check_dataset, write_splits
from data_builders.findings import DatasetReport, Finding, all_in, format_report
from data_builders.image_index import for_each_picture
from data_builders.importing.assembly import Assembled, Tally, assemble
from data_builders.importing.duplicates import groups
from data_builders.importing.files import read_all, with_regions
from data_builders.importing.formats import FORMATS
from data_builders.importing.records import Post, Source
from data_builders.importing.regions.evidence import decide_boxes
from data_builders.importing.regions.files import read_regions
from data_builders.importing.regions.frames import Frame
from data_builders.importing.regions.pictures import Picture, Pictures, find_pictures
from data_builders.importing.splitting import divide, parse_shares
from data_builders.importing.types_file import read_types
from rivegs_mllm.data.dataset_info import NAME, DatasetInfo, check_replaced, read_info
from rivegs_mllm.data.images import PictureError, is_outside
from rivegs_mllm.data.jsonl import SPLITS, check_sample
from rivegs_mllm.runtime.files import write_bytes
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import Sample, UserError

SHARES = "80/10/10"
_SOME = 5


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be imported. ``images`` are folders of pictures, the folders of ``paths`` where there are none;
    ``regions`` a file or folder of boxes for texts without; ``boxes``, ``split`` and ``columns`` are empty where they
    are to be found out; ``types`` is a file of types and descriptions."""

    format: str
    paths: Sequence[Path]
    out: Path
    images: Sequence[Path] = ()
    regions: Path | None = None
    boxes: str = ""
    frame: Frame = "upright"
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    seed: int = 0
    types: Path | None = None
    without_images: bool = False
    allow_missing: bool = False
    copy_images: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that are read, relative to ``out``; what is none, such as a hub id, as it is."""
        paths = (*self.paths, *([self.regions] if self.regions else []))
        return tuple(Path(os.path.relpath(own, self.out)).as_posix() if own.exists() else str(own) for own in paths)


@dataclass(frozen=True, slots=True)
class Imported:
    """``report`` has the figures of the splits and the findings, ``tally`` what became of all that was read.
    ``outside`` is the folder of the pictures that stay outside the dataset's, None where there are none."""

    report: DatasetReport
    tally: Tally
    outside: Path | None

    def in_words(self, out: Path) -> str:
        """What the command prints; ``out`` holds all findings."""
        lines = [*_counts(self.tally), "", format_report(self.report, rest=all_in(out)), f"wrote {out}"]
        if self.outside:
            where = shlex.quote(str(self.outside))
            lines.append(
                f"pictures stay in {self.outside}: pages and exports show them with --image-root {where}; this import "
                f"again with --copy-images puts them into {out}"
            )
        return "\n".join(lines)


def import_dataset(request: Request, tell: Callable[[str], None] = print) -> Imported:
    """Reads, tells what it takes the files for, and writes the splits, ``dataset.json`` and ``findings.txt`` into
    ``request.out``, which the caller has locked.

    Raises UserError, and writes no split, for files that are not of the format, for errors among the findings, which
    ``findings.txt`` lists, and where ``request.out`` holds a dataset that was not imported from the same.
    """
    _check(request)
    shares = parse_shares(request.split or SHARES)
    types = read_types(request.types) if request.types else {}
    described = {} if types else _described(request.paths, tell)
    findings: list[Finding] = []
    source = _read(request, findings)
    for note in source.notes:
        tell(note)
    pictures = _pictures(request, source.posts)
    boxes = decide_boxes(source.posts, pictures, source.boxes, source.layout, request.boxes, request.frame, tell)
    assembled = assemble(source.posts, pictures, boxes, request.frame)
    findings += [*pictures.findings, *assembled.findings]
    for sample, post in zip(assembled.samples, source.posts, strict=True):
        if fault := check_sample(sample):
            findings.append(Finding("bad post", post.place, f"{sample.id}: {fault}", "error"))
    findings += _unplaced(source.posts, assembled)
    splits = _split(request, shares, source.posts, assembled, pictures, tell)
    kinds = _types(assembled.samples, types, described, findings)
    report = _write(request, splits, kinds, str(boxes or ""), pictures, findings)
    return Imported(report, assembled.tally, _outside(request.out, pictures))


def _check(request: Request) -> None:
    if request.format not in FORMATS:
        raise UserError(f"{request.format!r} is none of the formats {', '.join(FORMATS)}")
    if request.frame not in get_args(Frame):
        raise UserError(f"--frame: {request.frame!r} is neither upright nor stored")
    for path in request.paths:
        inside = path.is_dir() and request.out.exists() and path.samefile(request.out)
        if inside or (path.is_file() and path.parent.resolve() == request.out.resolve() and path.stem in SPLITS):
            raise UserError(f"{path}: is read, and {request.out} is written to; choose another --out")
    check_replaced(request.out, request.format, request.sources)


def _read(request: Request, findings: list[Finding]) -> Source:
    source = read_all(request.format, request.paths, request.columns)
    if request.regions is not None:
        source = with_regions(source, read_regions(request.regions), findings)
    findings += [Finding(left.kind, left.place, left.message) for left in source.left]
    if not any(post.text or post.tokens for post in source.posts):
        raise UserError(
            f"{request.paths[0]}: no post has a text, and entities are found in texts; say which key is the text by "
            "--columns text=NAME, or import the texts, with these boxes beside them: rivegs import csv TEXTS.csv "
            f"--regions {request.paths[0]}"
        )
    return source


def _pictures(request: Request, posts: Sequence[Post]) -> Pictures:
    if request.without_images:
        return Pictures({})
    folders = request.images or list(
        dict.fromkeys(path if path.is_dir() else path.parent for path in request.paths if path.exists())
    )
    if not request.images and not any(post.image for post in posts):
        folders = []  # nothing asks for pictures, so that nobody's home folder is listed
    return find_pictures(posts, folders, request.out, request.allow_missing, request.copy_images)


def _outside(out: Path, pictures: Pictures) -> Path | None:
    """The folder of all pictures outside ``out``."""
    paths = {own.path for own in pictures.by_post.values()}
    folders = [os.path.dirname(os.path.realpath(out / path)) for path in paths if is_outside(path, out)]  # noqa: PTH120
    return Path(os.path.relpath(os.path.commonpath(folders))) if folders else None


def _unplaced(posts: Sequence[Post], assembled: Assembled) -> Iterator[Finding]:
    """An error where not one of some regions found its mention, so that no mention would be visible."""
    tally = assembled.tally
    without = sum(finding.kind == "region without mention" for finding in assembled.findings)
    if without < max(_SOME, tally.read["regions"]):
        return
    post = next(post for post in posts if post.regions)
    labels = {region.mention or region.label for own in posts for region in own.regions}
    types = {entity.type for sample in assembled.samples for entity in sample.entities}
    message = (
        f"none of {tally.read['regions']} found its mention: they are called {_few(labels)}, and mentions are of type "
        f"{_few(types)}; a region is named by its mention, or by the type of it"
    )
    yield Finding("regions without mentions", post.place, message, "error")


def _few(names: Iterable[str]) -> str:
    first, *others = sorted(names) or [""]
    return ", ".join(map(shown, [first, *others[:2]])) + (", ..." if others[2:] else "")


def _split(
    request: Request,
    shares: Sequence[int],
    posts: Sequence[Post],
    assembled: Assembled,
    pictures: Pictures,
    tell: Callable[[str], None],
) -> dict[str, list[Sample]]:
    """The samples by split, in their order. Splits that no post belongs to are left out."""
    chosen = [post.split for post in posts]
    if all(chosen) and not request.split:
        tell(f"splits: as the files have them, {', '.join(own for own in SPLITS if own in chosen)}")
    elif any(chosen) and not request.split:
        missing = next(post.place for post in posts if not post.split)
        raise UserError(f"{missing}: no split, where other posts have one; --split {SHARES} makes new ones of all")
    else:
        digests = _digests(posts, pictures)
        together = groups([sample.tokens for sample in assembled.samples], digests)
        chosen = divide(assembled.samples, together, shares, request.seed)
        kept = sum(len(group) for group in together if len(group) > 1)
        text = request.split or f"{SHARES}, since the files have none"
        tell(f"splits: {text}, seed {request.seed}; {plural(kept, 'post')} that say or show the same kept together")
    splits: dict[str, list[Sample]] = {split: [] for split in SPLITS if split in chosen}
    for split, sample in zip(chosen, assembled.samples, strict=True):
        splits[split].append(sample)
    return splits


def _digests(posts: Sequence[Post], pictures: Pictures) -> list[str | None]:
    found = {own.path: own for own in pictures.by_post.values()}
    if not found:
        return [None] * len(posts)

    def digest(path: str) -> str:
        return found[path].digest()

    digests = dict(zip(found, for_each_picture(digest, list(found), os.cpu_count() or 1), strict=True))
    own = [pictures.by_post.get(post.place) for post in posts]
    return [_digest(digests, picture) if picture else None for picture in own]


def _digest(digests: Mapping[str, str | PictureError], picture: Picture) -> str | None:
    found = digests[picture.path]
    return None if isinstance(found, PictureError) else found


def _described(paths: Sequence[Path], tell: Callable[[str], None]) -> dict[str, str]:
    """The types of the dataset whose lines are read, or of what was exported from one, told; {} where there is none."""
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in paths):
        try:
            info = read_info(folder)
        except UserError:  # another tool's file of this name
            continue
        if info and info.types:
            tell(f"types: {', '.join(map(shown, info.types))}, as {folder / NAME} has and describes them")
            return info.types
    return {}


def _types(
    samples: Sequence[Sample], given: Mapping[str, str], described: Mapping[str, str], findings: list[Finding]
) -> dict[str, str]:
    """The types with their descriptions: those given, in their order, else those described and those found."""
    found = sorted({entity.type for sample in samples for entity in sample.entities})
    if not given:
        return {**described, **{kind: "" for kind in found if kind not in described}}
    for kind in found:
        if kind not in given:
            findings.append(Finding("unknown type", NAME, f"{kind!r} is not among the types of --types", "error"))
    return dict(given)


def _write(
    request: Request,
    splits: Mapping[str, Sequence[Sample]],
    types: Mapping[str, str],
    boxes: str,
    pictures: Pictures,
    findings: list[Finding],
) -> DatasetReport:
    out = request.out
    report = check_dataset(out, splits, findings, "imported")
    for picture in {own.path: own for own in pictures.by_post.values()}.values():
        if picture.is_own:
            content = picture.file if isinstance(picture.file, bytes) else picture.file.read_bytes()
            write_bytes(out / picture.path, content)
    info = DatasetInfo(dict(types), format=request.format, boxes=boxes, sources=request.sources)
    write_splits(out, splits, info)
    return report


def _counts(tally: Tally) -> list[str]:
    lines = []
    for what in ("posts", "mentions", "regions"):
        own = [(name, counts[what]) for name, counts in vars(tally).items() if name != "ways"]
        if what == "mentions" and not tally.read[what]:
            lines.append("mentions: none, so that these posts can be predicted, and neither trained on nor scored")
        if tally.read[what]:
            lines.append(f"{what}: " + ", ".join(f"{count} {name}" for name, count in own if count or name == "kept"))
    if tally.ways:
        words = {"link": "a link", "text": "their words", "type": "their type", "order": "their order"}
        ways = ", ".join(f"{count} by {words[way]}" for way, count in sorted(tally.ways.items()))
        lines.append(f"regions found their mentions: {ways}")
    return lines
