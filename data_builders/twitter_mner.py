"""Twitter-2015 (Zhang et al., AAAI 2018) and Twitter-2017 (Lu et al., ACL 2018) into a dataset of text and pictures.

The raw folder holds CoNLL files ``train.txt``, ``test.txt`` and ``dev.txt``, ``valid.txt`` or ``val.txt``, posts under
the ids of their pictures; MISC is read as OTHER. Nobody annotated what the pictures show, so ``visible`` is undecided.

Some pictures of these sets are lost or damaged, and published systems put another in their place. Here such a post has
no picture, and is listed. A split whose posts are those of another split is an error: a copy of Twitter-2017 went round
whose test file repeats its dev file. All findings are written to ``findings.txt`` beside the splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from data_builders.common import FoundPicture, check_images, find_pictures, read_splits, unique_ids, write_dataset
from data_builders.findings import DatasetReport, Finding
from data_builders.formats.conll import ConllPost
from data_builders.formats.riveg_text import add_knowledge
from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.types import Sample, UserError

_FILES = {"train": ("train",), "dev": ("dev", "valid", "val"), "test": ("test",)}

POSTS = {"twitter-2015": (4000, 1000, 3257), "twitter-2017": (3373, 723, 723)}
"""How many posts each split has as published."""


def build_mner(
    name: str,
    raw: Path,
    images: Sequence[Path],
    out: Path,
    without_images: bool = False,
    knowledge: Path | None = None,
) -> DatasetReport:
    """Writes ``out/{train,dev,test}.jsonl``, ``dataset.json`` and ``findings.txt``; returns figures and findings.

    ``name`` is one of POSTS; other numbers of posts are a finding. ``images`` are the folders with the pictures,
    ``knowledge`` a folder of RiVEG's knowledge files ``{train,dev,test}.txt``. Raises UserError, before a split is
    written, where a file is missing or cannot be read, a split repeats another, or no picture is found.
    """
    check_images(images, without_images)
    paths = {split: _find_file(raw, split) for split in SPLITS}
    findings: list[Finding] = []
    posts = read_splits(paths, findings)
    _find_repeated_splits(posts, paths, findings)
    counts = tuple(len(posts[split]) for split in SPLITS)
    if counts != POSTS[name]:
        findings.append(Finding("other figures", str(raw), f"{counts} posts; {name} is published with {POSTS[name]}"))
    names = {post.id for split in posts.values() for post in split}
    pictures = {} if without_images else find_pictures(names, images, out, findings, level="warning")
    if images and names and not pictures:
        where = ", ".join(map(str, images))
        findings.append(
            Finding("no picture", where, f"holds none of the {len(names)} pictures; wrong folder?", "error")
        )
    samples = {}
    for split in SPLITS:
        ids = unique_ids(posts[split], str(paths[split]), findings)
        samples[split] = [_sample(identity, post, pictures) for identity, post in zip(ids, posts[split], strict=True)]
    if knowledge is not None:
        add_knowledge(samples, knowledge, findings)
    return write_dataset(out, name, samples, findings)


def _sample(identity: str, post: ConllPost, pictures: dict[str, FoundPicture]) -> Sample:
    if post.id not in pictures:
        return Sample(identity, post.tokens, entities=post.entities)
    picture = pictures[post.id]
    return Sample(identity, post.tokens, picture.path, picture.header.size, post.entities)


def _find_file(raw: Path, split: str) -> Path:
    found = [path for name in _FILES[split] if (path := raw / f"{name}.txt").is_file()]
    if not found:
        raise UserError(
            f"{raw}: no {' or '.join(f'{name}.txt' for name in _FILES[split])}; name the folder that has it"
        )
    if len(found) > 1:
        raise UserError(
            f"{raw}: both {found[0].name} and {found[1].name}; delete the one that is not the {split} split"
        )
    return found[0]


def _find_repeated_splits(posts: dict[str, list[ConllPost]], paths: dict[str, Path], findings: list[Finding]) -> None:
    """Splits that have all their posts in another are errors, single posts in two splits warnings."""
    keys = {split: [(post.id, post.tokens) for post in posts[split]] for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        known = set(keys[first])
        shared = [post for post, key in zip(posts[second], keys[second], strict=True) if key in known]
        if shared and len(shared) == len(posts[second]):
            message = f"all its {len(shared)} posts are in {paths[first]}, so that scores on it mean nothing; "
            findings.append(Finding("repeated split", str(paths[second]), message + "get another copy", "error"))
            continue
        for post in shared:
            message = f"{post.id} is in {paths[first].name} too"
            findings.append(Finding("post in two splits", f"{paths[second]}:{post.line}", message))
