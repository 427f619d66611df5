"""Shared by the builders of published datasets: reading splits, finding pictures, writing a dataset folder."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from data_builders.findings import DatasetReport, Finding, count_split, rare_types
from data_builders.formats.conll import ConllPost, read_posts
from data_builders.image_index import for_each_picture
from rivegs_mllm.data.dataset_info import NAME as INFO_FILE
from rivegs_mllm.data.dataset_info import DatasetInfo, counted, write_info
from rivegs_mllm.data.images import Header, PictureError, PictureIndex, read_header
from rivegs_mllm.data.jsonl import SPLITS, write_records
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import TYPES, Sample, UserError

FINDINGS = "findings.txt"
_MAX_LISTED = 20
"""So many errors are listed where nothing is built; the others are in the file of findings."""

# Headers are a read and little work each: more threads than cores hide the waiting for a disk.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """``path`` relative to the dataset's folder."""

    path: str
    header: Header


def check_images(images: Sequence[Path], without_images: bool) -> None:
    """Raises UserError unless exactly one of the two is given."""
    if bool(images) == without_images:
        raise UserError("give the folders that hold the pictures (--images), or --without-images, but not both")


def read_splits(paths: Mapping[str, Path], findings: list[Finding]) -> dict[str, list[ConllPost]]:
    """The posts by split. A file that cannot be read becomes a finding of level "error", repairs become warnings."""
    posts: dict[str, list[ConllPost]] = {}
    for split, path in paths.items():
        try:
            posts[split] = read_posts(path)
        except UserError as error:
            posts[split] = []
            findings.append(Finding("unreadable file", str(path), str(error), "error"))
        for post in posts[split]:
            findings += [Finding(repair.kind, f"{path}:{repair.line}", repair.message) for repair in post.repairs]
            if not post.tokens:
                findings.append(Finding("empty post", f"{path}:{post.line}", f"{post.id} has no text; it is kept"))
    return posts


def find_pictures(
    ids: Iterable[str],
    folders: Sequence[Path],
    out: Path,
    findings: list[Finding],
    level: Literal["error", "warning"] = "error",
) -> dict[str, FoundPicture]:
    """The pictures by id. Those that are missing or cannot be read are left out, each a finding of ``level``."""
    index = PictureIndex(folders)
    for path in index.shadowed:
        findings.append(Finding("picture twice", str(path), "another picture of this id is taken instead"))
    paths: list[tuple[str, str]] = []
    for identity in sorted(ids):
        path = index.find(identity)
        if path is None:
            where = ", ".join(map(str, folders))
            findings.append(Finding("missing picture", identity, f"no picture of this name in {where}", level))
        else:
            paths.append((identity, str(path)))
    headers = for_each_picture(read_header, [path for _, path in paths], _THREADS)
    pictures = {}
    for (identity, path), header in zip(paths, headers, strict=True):
        if isinstance(header, PictureError):
            findings.append(Finding("unreadable picture", path, str(header), level))
            continue
        pictures[identity] = FoundPicture(Path(os.path.relpath(path, out)).as_posix(), header)
        if header.orientation != 1:
            findings.append(Finding("rotated picture", path, f"EXIF orientation {header.orientation}; read upright"))
    return pictures


def unique_ids(posts: Sequence[ConllPost], place: str, findings: list[Finding]) -> list[str]:
    """The posts' ids; one that comes again is another post with the same picture, and gets a number after it."""
    ids = numbered_ids([post.id for post in posts])
    for post, own in zip(posts, ids, strict=True):
        if own != post.id:
            findings.append(Finding("repeated id", f"{place}:{post.line}", f"{post.id} again; it becomes {own}"))
    return ids


def numbered_ids(names: Sequence[str]) -> list[str]:
    """The names, one that comes again with ``#2``, ``#3`` after it; numbers that others have are skipped."""
    theirs = set(names)
    given: set[str] = set()
    ids = []
    for name in names:
        if name in given:
            numbered = (f"{name}#{number}" for number in count(2))
            name = next(own for own in numbered if own not in theirs and own not in given)
        given.add(name)
        ids.append(name)
    return ids


def write_dataset(
    out: Path, name: str, samples: Mapping[str, Sequence[Sample]], findings: list[Finding]
) -> DatasetReport:
    """Writes ``out/findings.txt`` and, if none of them is an error, the splits and ``dataset.json``; else UserError.

    ``name`` is the published dataset's, whose types are the four of Twitter-GMNER.
    """
    report = check_dataset(out, samples, findings, "built")
    more = {kind for own in report.counts.values() for kind in own.types} - set(TYPES)
    write_splits(out, samples, DatasetInfo(dict.fromkeys((*TYPES, *sorted(more)), ""), format=name))
    return report


def check_dataset(
    out: Path, samples: Mapping[str, Sequence[Sample]], findings: list[Finding], done: str
) -> DatasetReport:
    """The figures of the splits, and the findings, written to ``out/findings.txt``.

    Raises UserError where one of them is an error: nothing is ``done``.
    """
    findings += rare_types(samples, {split: f"{split}.jsonl" for split in samples})
    report = DatasetReport({split: count_split(own) for split, own in samples.items()}, findings)
    write_text(out / FINDINGS, "".join(f"{finding}\n" for finding in findings))
    refuse_errors(done, report, out / FINDINGS)
    return report


def write_splits(out: Path, samples: Mapping[str, Sequence[Sample]], info: DatasetInfo) -> None:
    """Writes ``out/<split>.jsonl`` of the splits and ``out/dataset.json``, in which posts and entities are counted."""
    # No old split may stand beside a new one if writing stops half-way.
    for name in (*(f"{split}.jsonl" for split in SPLITS), INFO_FILE):
        (out / name).unlink(missing_ok=True)
    write_info(out, counted(info, samples))  # first: it says of what is half-written that it may be written again
    for split, own in samples.items():
        write_records(out / f"{split}.jsonl", own)


def refuse_errors(done: str, report: DatasetReport, listing: Path) -> None:
    """Raises UserError where a finding is an error: nothing is ``done``, and ``listing`` has them all."""
    errors = report.errors
    if errors:
        counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(error.kind for error in errors).items())
        shown = "".join(f"\n  {error.kind}: {error.place}: {error.message}" for error in errors[:_MAX_LISTED])
        raise UserError(f"nothing {done}: {counts}; all are listed in {listing}{shown}")


def look_of(name: str) -> str:
    """A key that is the same for names that look the same: no blanks, no characters without width, accents composed."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(letter for letter in composed if not letter.isspace() and unicodedata.category(letter) != "Cf")
