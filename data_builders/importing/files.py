"""The files that are to be read, which split each holds, and regions from other files than the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_builders.findings import Finding
from data_builders.importing.formats import FORMATS, ColumnNames
from data_builders.importing.records import Post, Source
from data_builders.importing.splitting import folder_split, split_named
from rivegs_mllm.runtime.words import plural
from rivegs_mllm.types import UserError


def read_all(name: str, paths: Sequence[Path], columns: ColumnNames) -> Source:
    """The posts of all files, each with the split that it or its file says. Raises UserError."""
    posts: list[Post] = []
    notes: list[str] = []
    left = []
    source = None
    for path in paths:
        for file in _files(name, path):
            source = FORMATS[name].read(file, columns)
            split = split_named(file.stem) or folder_split(file.parent.name)
            posts += [replace(post, split=split_named(post.split) or split) for post in source.posts]
            notes += [note for note in source.notes if note not in notes]
            left += source.left
    if not posts:
        raise UserError(f"{', '.join(map(str, paths))}: holds nothing to import as {name}")
    return Source(posts, source.boxes, source.layout, notes, left)


def _files(name: str, path: Path) -> list[Path]:
    endings = FORMATS[name].endings
    if not path.is_dir() or not endings:
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in endings and file.is_file())
    if not found:
        raise UserError(f"{path}: has no file that ends with {' or '.join(endings)}")
    return found


def with_regions(source: Source, regions: Source, findings: list[Finding]) -> Source:
    """The posts of one source with the regions of another, by the name of the picture or the id.

    A picture that the second does not name has nothing in it, unless it names others in which there is nothing.
    Raises UserError where both have regions, or nothing of the second belongs to the first.
    """
    if any(post.regions for post in source.posts):
        raise UserError("--regions: the texts come with regions already")
    if not regions.posts:
        raise UserError("--regions: holds no picture")
    by_name: dict[str, Post] = {}
    for post in regions.posts:
        for name in _names(post):
            by_name.setdefault(name, post)
    names_all = any(not post.regions for post in regions.posts)
    used = set()
    posts = []
    for post in source.posts:
        other = next((by_name[name] for name in _names(post) if name in by_name), None)
        if other is None:
            posts.append(replace(post, unseen=names_all))
            if names_all and post.image:
                message = f"{post.image} is not among the pictures of --regions, some of which have none either"
                findings.append(Finding("picture not annotated", post.place, message))
            continue
        used.add(other.place)
        posts.append(
            replace(post, regions=other.regions, size=other.size or post.size, image=post.image or other.image)
        )
    if not used:
        first = regions.posts[0]
        raise UserError(f"--regions: no post has the picture or id of any of them, such as {first.image or first.id!r}")
    for post in regions.posts:
        if post.regions and post.place not in used:
            left = plural(len(post.regions), "region")
            message = f"{post.image or post.id}: no post has this picture; {left} of it left out"
            findings.append(Finding("regions without post", post.place, message))
    return Source(posts, regions.boxes, regions.layout, [*source.notes, *regions.notes], [*source.left, *regions.left])


def _names(post: Post) -> list[str]:
    """What a post and its picture are called, the surest first."""
    file = post.image.replace("\\", "/").rpartition("/")[2]
    return list(dict.fromkeys(name for name in (file, file.rpartition(".")[0], post.id) if name))
