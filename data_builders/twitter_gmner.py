"""Twitter-GMNER as published (folders ``Twitter10000_v2.0`` and, version 1, ``Twitter10000``) into a dataset.

``txt/{train,dev,test}.txt`` holds posts under the ids of their pictures, ``xml/<id>.xml`` the boxes drawn on the
picture. A box belongs to every mention of the post whose text is the box's name, so repeated mentions share boxes, and
a mention is visible when it has a box. Names are the same that look the same: blanks, characters without width and
Unicode's two ways to write an accent make no difference.

What the published data leaves open is decided here:
- An id that comes again within a split is another post with the same picture: it becomes ``<id>#2``, and so on.
- With pictures, ``Sample.size`` is that of the upright picture. Where the XML has another size, its boxes are
  turned by the EXIF orientation if the XML's shape is that of the picture as stored, and then scaled.
- Boxes are clipped to the picture; boxes without area mark nothing and are left out.
Each such case is a finding, and all findings are written to ``findings.txt`` beside the splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_builders.common import (
    FoundPicture,
    check_images,
    find_pictures,
    look_of,
    read_splits,
    unique_ids,
    write_dataset,
)
from data_builders.findings import DatasetReport, Finding
from data_builders.formats.conll import ConllPost
from data_builders.formats.riveg_text import add_knowledge
from data_builders.formats.voc import Annotation, read_annotation, usable_boxes
from rivegs_mllm.data.images import Header, upright_box
from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.types import Box, Entity, Sample, UserError

FOLDERS = ("Twitter10000_v2.0", "Twitter10000")


@dataclass(frozen=True, slots=True)
class Raw:
    """The published files of ``root`` as they stand: posts by split, annotations by picture id."""

    root: Path
    posts: dict[str, list[ConllPost]]
    annotations: dict[str, Annotation]


def build_twitter_gmner(
    raw: Path,
    images: Sequence[Path],
    out: Path,
    without_images: bool = False,
    knowledge: Path | None = None,
) -> DatasetReport:
    """Writes ``out/{train,dev,test}.jsonl``, ``dataset.json``, ``findings.txt``; returns figures and findings.

    ``raw`` is the published folder or its parent, ``images`` the folders with the pictures, ``knowledge`` a folder
    of RiVEG's knowledge files. ``without_images`` takes the sizes from the XML; a post without XML then has none.
    Raises UserError, before a split is written, where anything is missing or cannot be read: pictures above all.
    """
    check_images(images, without_images)
    findings: list[Finding] = []
    source = read_raw(raw, findings)
    ids = {post.id for posts in source.posts.values() for post in posts}
    pictures = {} if without_images else find_pictures(ids, images, out, findings)
    samples = to_samples(source, pictures, findings)
    if knowledge is not None:
        add_knowledge(samples, knowledge, findings)
    return write_dataset(out, "twitter-gmner", samples, findings)


def find_raw(raw: Path) -> Path | None:
    """The published folder: ``raw`` itself or one in it, or None. Raises UserError where both versions are in it."""
    found = [root for root in (raw, *(raw / name for name in FOLDERS)) if (root / "txt").is_dir()]
    if len(found) > 1:
        raise UserError(f"{raw}: holds {' and '.join(str(root) for root in found)}; name the one you mean")
    return found[0] if found else None


def read_raw(raw: Path, findings: list[Finding]) -> Raw:
    """Reads posts and annotations. Files that cannot be read become findings of level "error", repairs warnings.

    Raises UserError where ``raw`` is no published folder.
    """
    root = find_raw(raw)
    if root is None:
        raise UserError(f"{raw}: neither it nor {' nor '.join(FOLDERS)} in it has a folder txt")
    posts = read_splits({split: root / "txt" / f"{split}.txt" for split in SPLITS}, findings)
    return Raw(root, posts, _read_annotations(root / "xml", findings))


def _read_annotations(folder: Path, findings: list[Finding]) -> dict[str, Annotation]:
    try:
        with os.scandir(folder) as entries:
            paths = sorted(entry.path for entry in entries if entry.name.lower().endswith(".xml"))
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


def to_samples(raw: Raw, pictures: dict[str, FoundPicture], findings: list[Finding]) -> dict[str, list[Sample]]:
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
        ids = unique_ids(posts, f"{raw.root}/txt/{split}.txt", findings)
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
    # From 5 on EXIF swaps the sides, so that the shapes differ where the picture was annotated as it is stored.
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
    if mentions and not raw.annotations.keys() & mentions.keys():
        message = "no annotation is of a post, so not one entity would be visible"
        findings.append(Finding("no annotation", f"{raw.root}/xml", message, "error"))
    for identity, annotation in raw.annotations.items():
        place = f"{raw.root}/xml/{identity}.xml"
        if identity not in mentions:
            findings.append(Finding("annotation without post", place, f"no split has the post {identity}"))
            continue
        for name in dict.fromkeys(name for name, _ in annotation.objects):
            if look_of(name) not in set(map(look_of, mentions[identity])):
                there = ", ".join(map(repr, sorted(mentions[identity]))) or "none"
                findings.append(Finding("unmatched name", place, f"{name!r} is no mention of its post ({there})"))


def _grounded(entity: Entity, boxes: dict[str, tuple[Box, ...]]) -> Entity:
    """The entity with the boxes of its name, as it is written or, where no box has that, as it looks."""
    own = boxes.get(entity.text, ())
    if not own and boxes:
        alike = [found for name, found in boxes.items() if look_of(name) == look_of(entity.text)]
        own = tuple(dict.fromkeys(box for found in alike for box in found))
    return Entity(entity.text, entity.type, entity.span, visible=bool(own), boxes=own)
