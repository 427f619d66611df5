"""Twitter-GMNER as published (folders ``Twitter10000_v2.0`` and, version 1, ``Twitter10000``) into a dataset.

``txt/{train,dev,test}.txt`` holds posts under the ids of their pictures, ``xml/<id>.xml`` the boxes drawn on the
picture. A box belongs to every mention of the post whose text is exactly the box's name, so repeated mentions share
boxes, and a mention is visible when it has a box.

What the published data leaves open is decided here:
- An id that comes again within a split is another post with the same picture: it becomes ``<id>#2``, and so on.
- With pictures, ``Sample.size`` is that of the upright picture. Where the XML has another size, its boxes are
  turned by the EXIF orientation if the XML's shape is that of the picture as stored, and then scaled.
- Boxes are clipped to the picture; boxes without area mark nothing and are left out.
Each such case is a finding, and all findings are written to ``findings.txt`` beside the splits.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_builders.conll import Post, read_knowledge, read_posts
from data_builders.parallel import for_each_picture
from data_builders.pictures import Header, PictureError, PictureIndex, read_header, upright_box
from data_builders.report import SHOWN, Finding, Report, count_split
from data_builders.voc import Annotation, read_annotation, usable_boxes
from rivegs_mllm.records import SPLITS, write_records
from rivegs_mllm.types import Box, Entity, Sample, UserError

FOLDERS = ("Twitter10000_v2.0", "Twitter10000")
FINDINGS = "findings.txt"

# Headers are a read and little work each: more threads than cores hide the waiting for a disk.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Raw:
    """The published files of ``root`` as they stand: posts by split, annotations by picture id."""

    root: Path
    posts: dict[str, list[Post]]
    annotations: dict[str, Annotation]


@dataclass(frozen=True, slots=True)
class Picture:
    """``path`` relative to the dataset's folder."""

    path: str
    header: Header


def build_twitter_gmner(
    raw: Path,
    images: Sequence[Path],
    out: Path,
    without_images: bool = False,
    knowledge: Path | None = None,
) -> Report:
    """Writes ``out/{train,dev,test}.jsonl`` and ``out/findings.txt``; returns figures and what was mended.

    ``raw`` is the published folder or its parent, ``images`` the folders with the pictures, ``knowledge`` a folder
    of RiVEG's knowledge files. ``without_images`` takes the sizes from the XML; a post without XML then has none.
    Raises UserError, before a split is written, where anything is missing or cannot be read: pictures above all.
    """
    if bool(images) == without_images:
        raise UserError("give the folders that hold the pictures (--images), or --without-images, but not both")
    findings: list[Finding] = []
    source = read_raw(raw, findings)
    ids = {post.id for posts in source.posts.values() for post in posts}
    pictures = {} if without_images else _find_pictures(ids, images, out, findings)
    samples = to_samples(source, pictures, findings)
    if knowledge is not None:
        for split in samples:
            samples[split] = _with_knowledge(samples[split], knowledge / f"{split}.txt", findings)
    report = Report({split: count_split(samples[split]) for split in SPLITS}, findings)
    out.mkdir(parents=True, exist_ok=True)
    (out / FINDINGS).write_text("".join(f"{finding}\n" for finding in findings), encoding="utf-8")
    if report.errors:
        raise UserError(_refusal(report.errors, out / FINDINGS))
    # No old split may stand beside a new one if writing stops half-way.
    for split in SPLITS:
        (out / f"{split}.jsonl").unlink(missing_ok=True)
    for split in SPLITS:
        write_records(out / f"{split}.jsonl", samples[split])
    return report


def find_raw(raw: Path) -> Path | None:
    """The published folder: ``raw`` itself or one in it, or None. Raises UserError where both versions are in it."""
    found = [root for root in (raw, *(raw / name for name in FOLDERS)) if (root / "txt").is_dir()]
    if len(found) > 1:
        raise UserError(f"{raw}: holds {' and '.join(str(root) for root in found)}; name the one you mean")
    return found[0] if found else None


def read_raw(raw: Path, findings: list[Finding]) -> Raw:
    """Reads posts and annotations. Files that cannot be read become findings of level "error", repairs warnings."""
    root = find_raw(raw)
    if root is None:
        raise UserError(f"{raw}: neither it nor {' nor '.join(FOLDERS)} in it has a folder txt")
    posts: dict[str, list[Post]] = {}
    for split in SPLITS:
        path = root / "txt" / f"{split}.txt"
        try:
            posts[split] = read_posts(path)
        except UserError as error:
            posts[split] = []
            findings.append(Finding("unreadable file", str(path), str(error), "error"))
        for post in posts[split]:
            findings += [Finding(repair.kind, f"{path}:{repair.line}", repair.message) for repair in post.repairs]
            if not post.tokens:
                findings.append(Finding("empty post", f"{path}:{post.line}", f"{post.id} has no text; it is kept"))
    return Raw(root, posts, _read_annotations(root / "xml", findings))


def _read_annotations(folder: Path, findings: list[Finding]) -> dict[str, Annotation]:
    try:
        with os.scandir(folder) as entries:
            paths = sorted(entry.path for entry in entries if entry.name.endswith(".xml"))
    except OSError as error:
        raise UserError(f"{folder}: the folder of the annotations cannot be listed ({error.strerror})") from None
    annotations = {}
    for path in paths:
        identity = os.path.basename(path)[:-4]  # noqa: PTH119  (thousands of them)
        try:
            annotations[identity] = read_annotation(path)
        except UserError as error:
            findings.append(Finding("unreadable file", path, str(error), "error"))
            continue
        if annotations[identity].size is None:
            findings.append(Finding("no size", path, "width or height is 0; the picture's own size counts, if given"))
    return annotations


def _find_pictures(
    ids: Iterable[str], folders: Sequence[Path], out: Path, findings: list[Finding]
) -> dict[str, Picture]:
    index = PictureIndex(folders)
    for path in index.shadowed:
        findings.append(Finding("picture twice", str(path), "another picture of this id is taken instead"))
    paths: list[tuple[str, str]] = []
    for identity in sorted(ids):
        path = index.find(identity)
        if path is None:
            where = ", ".join(map(str, folders))
            findings.append(Finding("missing picture", identity, f"no picture of this name in {where}", "error"))
        else:
            paths.append((identity, str(path)))
    headers = for_each_picture(read_header, [path for _, path in paths], _THREADS)
    pictures = {}
    for (identity, path), header in zip(paths, headers, strict=True):
        if isinstance(header, PictureError):
            findings.append(Finding("unreadable picture", path, str(header), "error"))
            continue
        pictures[identity] = Picture(Path(os.path.relpath(path, out)).as_posix(), header)
        if header.orientation != 1:
            findings.append(Finding("rotated picture", path, f"EXIF orientation {header.orientation}; read upright"))
    return pictures


def to_samples(raw: Raw, pictures: dict[str, Picture], findings: list[Finding]) -> dict[str, list[Sample]]:
    """Posts and boxes brought together, by split."""
    sizes: dict[str, tuple[int, int] | None] = {}
    boxes: dict[str, dict[str, tuple[Box, ...]]] = {}
    for identity, annotation in raw.annotations.items():
        place = f"{raw.root}/xml/{identity}.xml"
        if identity in pictures:
            annotation = _on_picture(annotation, pictures[identity].header, place, findings)
        sizes[identity] = annotation.size
        boxes[identity], faults = usable_boxes(annotation)
        findings += [Finding(fault.kind, place, fault.message) for fault in faults]
    sizes.update((identity, picture.header.size) for identity, picture in pictures.items())
    _find_strays(raw, findings)
    samples = {}
    for split, posts in raw.posts.items():
        ids = _unique_ids(posts, f"{raw.root}/txt/{split}.txt", findings)
        samples[split] = [
            Sample(
                id=identity,
                tokens=post.tokens,
                image=pictures[post.id].path if post.id in pictures else "",
                size=sizes.get(post.id),
                entities=tuple([_grounded(entity, boxes.get(post.id, {})) for entity in post.entities]),
            )
            for identity, post in zip(ids, posts, strict=True)
        ]
    return samples


def _on_picture(annotation: Annotation, header: Header, place: str, findings: list[Finding]) -> Annotation:
    """The annotation in pixels of the upright picture."""
    if annotation.size is None or annotation.size == header.size:
        return replace(annotation, size=header.size)
    (width, height), boxes = annotation.size, [box for _, box in annotation.objects]
    upright_width, upright_height = header.size
    turned = header.orientation >= 5 and (width > height) != (upright_width > upright_height)
    if turned:
        boxes = [upright_box(box, (width, height), header.orientation) for box in boxes]
        width, height = height, width
    x, y = upright_width / width, upright_height / height
    if (x, y) != (1, 1):
        boxes = [Box(box.xmin * x, box.ymin * y, box.xmax * x, box.ymax * y) for box in boxes]
    done = " and ".join(["turned"] * turned + ["scaled"] * ((x, y) != (1, 1)))
    findings.append(Finding("size differs", place, f"{annotation.size}, the picture {header.size}; boxes are {done}"))
    names = [name for name, _ in annotation.objects]
    return Annotation(header.size, tuple(zip(names, boxes, strict=True)))


def _find_strays(raw: Raw, findings: list[Finding]) -> None:
    """Annotations without a post, and box names that are a mention in no post of their picture."""
    mentions: dict[str, set[str]] = {post.id: set() for posts in raw.posts.values() for post in posts}
    for posts in raw.posts.values():
        for post in posts:
            mentions[post.id].update([entity.text for entity in post.entities])
    for identity, annotation in raw.annotations.items():
        place = f"{raw.root}/xml/{identity}.xml"
        if identity not in mentions:
            findings.append(Finding("annotation without post", place, f"no split has the post {identity}"))
            continue
        for name in dict.fromkeys(name for name, _ in annotation.objects):
            if name not in mentions[identity]:
                there = ", ".join(map(repr, sorted(mentions[identity]))) or "none"
                findings.append(Finding("unmatched name", place, f"{name!r} is no mention of its post ({there})"))


def _unique_ids(posts: Sequence[Post], place: str, findings: list[Finding]) -> list[str]:
    seen: dict[str, int] = {}
    ids = []
    for post in posts:
        seen[post.id] = count = seen.get(post.id, 0) + 1
        ids.append(post.id if count == 1 else f"{post.id}#{count}")
        if count > 1:
            findings.append(Finding("repeated id", f"{place}:{post.line}", f"{post.id} again; it becomes {ids[-1]}"))
    return ids


def _grounded(entity: Entity, boxes: dict[str, tuple[Box, ...]]) -> Entity:
    own = boxes.get(entity.text, ())
    return Entity(entity.text, entity.type, entity.span, visible=bool(own), boxes=own)


def _with_knowledge(samples: Sequence[Sample], path: Path, findings: list[Finding]) -> list[Sample]:
    """Posts are matched by position; one whose words differ stays without knowledge."""
    texts = read_knowledge(path)
    if len(texts) != len(samples):
        message = f"{len(texts)} posts, but the split has {len(samples)}"
        findings.append(Finding("knowledge of other posts", str(path), message, "error"))
        return list(samples)
    known = []
    for number, (sample, (tokens, text)) in enumerate(zip(samples, texts, strict=True), 1):
        if tokens != sample.tokens:
            message = f"its words are not those of {sample.id}; left out"
            findings.append(Finding("knowledge of other words", f"{path}: post {number}", message))
        known.append(replace(sample, knowledge=(text,)) if text and tokens == sample.tokens else sample)
    return known


def _refusal(errors: Sequence[Finding], listing: Path) -> str:
    counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(error.kind for error in errors).items())
    shown = "".join(f"\n  {error.kind}: {error.place}: {error.message}" for error in errors[:SHOWN])
    return f"nothing built: {counts}; all are listed in {listing}{shown}"
