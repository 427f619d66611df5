"""Checks of a dataset before any time is spent on it: of a built folder, or of Twitter-GMNER as published.

Level "error" is what makes scores wrong or training fail; level "warning" is what its user should know.

| kind | level | found in |
|---|---|---|
| bad line (no record, mention not its tokens, box without area, broken mask, id twice) | error | built |
| empty split, bad dataset.json, unlisted type (which dataset.json lacks) | error | built |
| boxes in shares, boxes in other coordinates | error (few boxes: warning) | built |
| spans off by one, labels of another post, pictures of another post | error | built |
| one picture in most posts | error | built |
| missing picture, unreadable picture, size differs, too thin picture | error | built |
| mask of another size (than a picture whose size is not on record) | error | built |
| box outside | error | both |
| post in two splits, picture in two splits (same id, same file) | error | both |
| orphan tag, unmatched name, placeholder box, box without area, unreadable file | error | raw |
| tiny boxes, boxes of the whole picture, one box in many posts, type like another | warning | built |
| nearly the same text in two splits | warning | built |
| rotated picture, same picture under other name, visible without region, rare type | warning | built |
| text in two splits, text twice, empty post, long post | warning | both |
| repeated id, repeated box, blank token, annotation without post, no size | warning | raw |
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_builders.evidence import from_the_set, loose_posts, scripts
from data_builders.findings import DatasetReport, Finding, count_split, rare_types
from data_builders.image_index import for_each_picture
from data_builders.importing.duplicates import groups
from data_builders.twitter_gmner import find_raw, read_raw, to_samples
from rivegs_mllm.data.dataset_info import NAME as INFO_FILE
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.images import (
    Header,
    MissingPictureError,
    PictureError,
    check_aspect,
    open_picture,
    picture_digest,
    read_header,
)
from rivegs_mllm.data.jsonl import SPLITS, RecordError, check_split, read_samples, scan_samples
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import NOT_IN_A_TYPE, Sample, UserError

_SOME_POSTS = 5  # up to so many posts may share a picture, whatever their share of a small set
LONG_WORDS = 250
LONG_TEXT = 2000
"""Letters. Longer posts than these do not fit into the prompt of the recipes as they are."""

# A builder corrects these and continues; whoever publishes the data should not.
_RAW_ERRORS = frozenset(("orphan tag", "unmatched name", "placeholder box", "box without area", "box outside"))


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sample with its file and line, and the id of its post and picture as published."""

    place: str
    post: str
    sample: Sample


def audit(folder: Path, raw: Path | None = None) -> DatasetReport:
    """Findings and figures of ``folder``: a built dataset, a file of one, or raw Twitter-GMNER (or its parent folder).

    ``raw`` is a published folder to be audited as well; figures are those of ``folder``.
    Raises UserError where ``folder`` is none of these.
    """
    if folder.suffix == ".jsonl" and folder.is_file():
        report = _audit_built(folder.parent, [folder])
    elif paths := [path for split in SPLITS if (path := folder / f"{split}.jsonl").is_file()]:
        report = _audit_built(folder, paths)
    elif find_raw(folder) is not None:
        report = _audit_raw(folder)
    else:
        kinds = f"a dataset ({', '.join(SPLITS)}.jsonl), one of its files, a raw folder with txt and xml"
        raise UserError(f"{folder}: none of {kinds}")
    if raw is None:
        return report
    return DatasetReport(report.counts, [*report.findings, *_audit_raw(raw).findings])


def dataset_files(folder: Path) -> list[Path]:
    """The splits that a dataset has, or the one file. Raises UserError where there is none."""
    if folder.suffix == ".jsonl" and folder.is_file():
        return [folder]
    paths = [path for split in SPLITS if (path := folder / f"{split}.jsonl").is_file()]
    if not paths:
        check_split(folder, SPLITS[0])
    return paths


def figures_of(folder: Path) -> DatasetReport:
    """The figures of a dataset, or of one file of it, without looking for anything wrong. Raises UserError for a line
    that cannot be read."""
    paths = dataset_files(folder)
    counts = {path.stem: count_split(read_samples(path)) for path in paths}
    return DatasetReport(counts, [], {str(path): scripts(loose_posts(path)) for path in paths})


def errors_of(folder: Path, splits: Sequence[str], decode: bool) -> list[Finding]:
    """The errors of some splits of a dataset that a model could not be trained with, or would be trained wrongly.

    What splits have in common is left to ``audit``: it makes scores wrong, not training. Pictures are decoded to their
    end where ``decode`` says so, and else only their headers are read.
    """
    findings: list[Finding] = []
    posts = {split: list(_scan(folder / f"{split}.jsonl", findings)) for split in splits}
    findings += _unlisted_types({split: [own.sample for own in group] for split, group in posts.items()}, folder)
    for placed in _all(posts):
        findings += _of_regions(placed.sample, placed.sample.size, placed.place)
    loose = {str(path): loose_posts(path) for path in (folder / f"{split}.jsonl" for split in splits)}
    images = (post.image for own in loose.values() for post in own)
    inspected = _inspected(images, folder, _inspect if decode else _inspect_header)
    findings += _pictures(posts, inspected, folder)
    sizes = {image: own.header.size for image, own in inspected.items() if isinstance(own, _Picture)}
    findings += from_the_set(loose, sizes)
    return [finding for finding in findings if finding.level == "error"]


def _audit_built(folder: Path, paths: Sequence[Path]) -> DatasetReport:
    findings: list[Finding] = []
    splits: dict[str, list[_Placed]] = {}
    for path in paths:
        before = len(findings)
        group = splits[path.stem] = list(_scan(path, findings))
        if not group and len(findings) == before:
            findings.append(Finding("empty split", str(path), "has no sample", "error"))
        findings += _of_split(group, str(path))
    samples = {split: [placed.sample for placed in group] for split, group in splits.items()}
    findings += rare_types(samples, {path.stem: str(path) for path in paths})
    findings += _unlisted_types(samples, folder)
    for placed in _all(splits):
        findings += _of_sample(placed.sample, placed.place)
        findings += _of_regions(placed.sample, placed.sample.size, placed.place)
    loose = {str(path): loose_posts(path) for path in paths}
    inspected = _inspected((post.image for own in loose.values() for post in own), folder)
    findings += _pictures(splits, inspected, folder)
    sizes = {image: own.header.size for image, own in inspected.items() if isinstance(own, _Picture)}
    findings += from_the_set(loose, sizes)
    findings += _repetitions(splits)
    findings += _near_duplicates(splits)
    counts = {split: count_split(group) for split, group in samples.items()}
    return DatasetReport(counts, findings, {path: scripts(own) for path, own in loose.items()})


def _audit_raw(folder: Path) -> DatasetReport:
    found: list[Finding] = []
    raw = read_raw(folder, found)
    samples = to_samples(raw, {}, found)
    findings = [replace(finding, level="error") if finding.kind in _RAW_ERRORS else finding for finding in found]
    splits = {
        split: [
            _Placed(f"{raw.root}/txt/{split}.txt:{post.line}", post.id, sample)
            for post, sample in zip(raw.posts[split], samples[split], strict=True)
        ]
        for split in SPLITS
    }
    findings += _repetitions(splits)
    findings += rare_types(samples, {split: f"{raw.root}/txt/{split}.txt" for split in SPLITS})
    return DatasetReport({split: count_split(samples[split]) for split in SPLITS}, findings)


def _scan(path: Path, findings: list[Finding]) -> Iterator[_Placed]:
    for number, sample in scan_samples(path):
        place = f"{path}:{number}"
        if isinstance(sample, RecordError):
            findings.append(Finding("bad line", place, str(sample).removeprefix(f"{place}: "), "error"))
        else:
            yield _Placed(place, sample.id, sample)


def _all(splits: dict[str, list[_Placed]]) -> Iterator[_Placed]:
    for group in splits.values():
        yield from group


def _of_split(group: Sequence[_Placed], path: str) -> Iterator[Finding]:
    entities = [own for placed in group if placed.sample.image for own in placed.sample.entities]
    if undecided := sum(own.visible is None for own in entities):
        message = f"whether visible is not known of {undecided} of {plural(len(entities), 'entity', 'entities')}"
        yield Finding(
            "undecided", path, f"{message} beside pictures; a model that decides or grounds learns nothing here"
        )
    for kind in sorted({own.type for placed in group for own in placed.sample.entities}):
        if NOT_IN_A_TYPE.search(kind):
            yield Finding(
                "odd type", path, f"{kind!r} holds a character that no answer of a model can; rename the type"
            )


def _unlisted_types(splits: Mapping[str, Sequence[Sample]], folder: Path) -> Iterator[Finding]:
    """Types of entities that ``dataset.json`` does not list."""
    place = str(folder / INFO_FILE)
    try:
        info = read_info(folder)
    except UserError as error:
        yield Finding("bad dataset.json", place, str(error).removeprefix(f"{place}: "), "error")
        return
    counts = Counter(own.type for samples in splits.values() for sample in samples for own in sample.entities)
    for kind, count in counts.items() if info else ():
        if kind not in info.types:
            yield Finding(
                "unlisted type",
                place,
                f"lacks {shown(kind)}, the type of {plural(count, 'entity', 'entities')}",
                "error",
            )


def _of_sample(sample: Sample, place: str) -> Iterator[Finding]:
    if not sample.tokens:
        yield Finding("empty post", place, f"{sample.id} has no text")
    if len(sample.tokens) > LONG_WORDS or len(sample.text) > LONG_TEXT:
        size = f"{len(sample.tokens)} words, {len(sample.text)} letters"
        yield Finding("long post", place, f"{sample.id} has {size}; models may read only its beginning")
    for index, entity in enumerate(sample.entities):
        name = f"{sample.id}: entities[{index}] {entity.text!r}"
        others = [own for own in sample.entities[:index] if own.span and entity.span]
        if any(own.span[0] < entity.span[1] and entity.span[0] < own.span[1] for own in others):
            yield Finding("overlap", place, f"{name} overlaps another entity; taggers cannot be trained on both")
        if entity.visible and not entity.boxes and not entity.masks:
            yield Finding("visible without region", place, f"{name} is visible but has neither box nor mask")


def _of_regions(sample: Sample, size: tuple[int, int] | None, place: str) -> Iterator[Finding]:
    """Boxes that reach outside a picture of ``size``, and masks of another size; reading knows that of the record."""
    if size is None:
        return
    width, height = size
    for index, entity in enumerate(sample.entities):
        name = f"{sample.id}: entities[{index}] {entity.text!r}"
        for box in entity.boxes:
            if box.xmin < 0 or box.ymin < 0 or box.xmax > width or box.ymax > height:
                edges = [box.xmin, box.ymin, box.xmax, box.ymax]
                message = f"{name} has the box {edges} in a picture of {width} x {height}"
                yield Finding("box outside", place, message, "error")
        for mask in entity.masks:
            if mask.size != (height, width):
                message = f"{name} has a mask of {mask.size[1]} x {mask.size[0]} on a picture of {width} x {height}"
                yield Finding("mask of another size", place, message, "error")


@dataclass(frozen=True, slots=True)
class _Picture:
    header: Header
    digest: str


def _inspect(path: str) -> _Picture:
    # Decoded to the end, since a truncated picture has a good header.
    open_picture(path).close()
    return _Picture(read_header(path), picture_digest(path))


def _inspect_header(path: str) -> _Picture:
    return _Picture(read_header(path), picture_digest(path))


def _inspected(
    images: Iterable[str], folder: Path, inspect: Callable[[str], _Picture] = _inspect
) -> dict[str, _Picture | PictureError]:
    """Every picture is opened once, however many posts have it."""
    names = list(dict.fromkeys(filter(None, images)))
    paths = [str(folder / name) for name in names]
    return dict(zip(names, for_each_picture(inspect, paths, os.cpu_count() or 1), strict=True)) if names else {}


def _pictures(
    splits: dict[str, list[_Placed]], inspected: Mapping[str, _Picture | PictureError], folder: Path
) -> Iterator[Finding]:
    having: dict[str, list[str]] = {}
    for placed in _all(splits):
        if image := placed.sample.image:
            yield from _of_picture(placed, str(folder / image), inspected[image])
            if isinstance(inspected[image], _Picture):
                having.setdefault(inspected[image].digest, []).append(placed.place)
    places = max(having.values(), key=len, default=[])
    beside = sum(map(len, having.values()))
    if len(places) > max(_SOME_POSTS, beside / 2):
        message = f"{len(places)} of {beside} posts have the same picture: {', '.join(places[:3])}"
        yield Finding("one picture in most posts", str(folder), message, "error")
    same: dict[str, list[str]] = {}
    for image, picture in inspected.items():
        if isinstance(picture, _Picture):
            path = str(folder / image)
            same.setdefault(picture.digest, []).append(path)
            if picture.header.orientation != 1:
                message = f"EXIF orientation {picture.header.orientation}; it is read upright"
                yield Finding("rotated picture", path, message)
    for first, *others in same.values():
        for path in others:
            yield Finding("same picture under other name", path, f"byte for byte {first}")


def _of_picture(placed: _Placed, path: str, picture: _Picture | PictureError) -> Iterator[Finding]:
    sample = placed.sample
    if isinstance(picture, PictureError):
        kind = "missing picture" if isinstance(picture, MissingPictureError) else "unreadable picture"
        yield Finding(kind, placed.place, f"{sample.id}: {picture}", "error")
        return
    size = picture.header.size
    try:
        check_aspect(size)
    except UserError as error:
        yield Finding("too thin picture", placed.place, f"{sample.id}: {path}: {error}", "error")
    if sample.size is None:
        yield from _of_regions(sample, size, placed.place)
    elif sample.size != size:
        message = f"{sample.id}: recorded as {sample.size}, but {path} is {size} upright"
        yield Finding("size differs", placed.place, message, "error")


def _repetitions(splits: dict[str, list[_Placed]]) -> Iterator[Finding]:
    posts: dict[str, list[tuple[str, _Placed]]] = {}
    pictures: dict[str, list[tuple[str, _Placed]]] = {}
    texts: dict[tuple[str, ...], list[tuple[str, _Placed]]] = {}
    for split, group in splits.items():
        for placed in group:
            posts.setdefault(placed.post, []).append((split, placed))
            if placed.sample.image:
                pictures.setdefault(placed.sample.image, []).append((split, placed))
            if placed.sample.tokens:
                texts.setdefault(placed.sample.tokens, []).append((split, placed))
    for same in posts.values():
        yield from _repeated(same, "post in two splits", "error", "")
    for same in pictures.values():
        yield from _repeated(same, "picture in two splits", "error", "")
    for same in texts.values():
        yield from _repeated(same, "text in two splits", "warning", "text twice")


def _near_duplicates(splits: dict[str, list[_Placed]]) -> Iterator[Finding]:
    """Posts with nearly the text of one of another split; equal texts are found by ``_repetitions``."""
    posts = [(split, placed) for split, group in splits.items() for placed in group]
    for group in groups([placed.sample.tokens for _, placed in posts], [None] * len(posts)):
        (first_split, first), *others = [posts[index] for index in group]
        for split, placed in others:
            if split != first_split and placed.sample.tokens != first.sample.tokens:
                message = f"{placed.sample.id}: nearly {first.sample.id} at {first.place}"
                yield Finding("nearly the same text in two splits", placed.place, message)


def _repeated(
    same: Sequence[tuple[str, _Placed]], across: str, level: Literal["error", "warning"], within: str
) -> Iterator[Finding]:
    """A finding for each but the first: of kind ``across`` in another split, ``within`` in the same, "" for none."""
    (first_split, first), *others = same
    for split, placed in others:
        message = f"{placed.sample.id}: the same as {first.sample.id} at {first.place}"
        if split != first_split:
            yield Finding(across, placed.place, message, level)
        elif within:
            yield Finding(within, placed.place, message)
