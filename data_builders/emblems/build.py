"""Builds the benchmark: posts, their pictures and their gold."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from data_builders.emblems.encyclopedia import NameEntry, make_encyclopedia, write_encyclopedia
from data_builders.emblems.language import UNNAMED, write_post
from data_builders.emblems.looks import Look, near_look, random_look
from data_builders.emblems.scene import MOST_EMBLEMS, Placement, Scene, compose
from rivegs_mllm.data.dataset_info import NAME as INFO_FILE
from rivegs_mllm.data.dataset_info import DatasetInfo, counted, write_info
from rivegs_mllm.data.jsonl import SPLITS, write_records
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.runtime.lock import LOCK_NAME as LOCK
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.types import TYPES, Entity, Mask, Sample, UserError

# The statistics of Twitter-GMNER, train split.
MENTIONS = {0: 0.04, 1: 0.47, 2: 0.30, 3: 0.13, 4: 0.06}
TYPE_SHARES = {"PER": 0.43, "LOC": 0.16, "ORG": 0.26, "OTHER": 0.15}
VISIBLE = 0.40
SEVERAL_BOXES = 0.095  # of the visible; a few find no room

NEAR_INVISIBLE = 0.7  # share of the distractors that resemble an entity the picture does not show
ROTATED = 0.03  # share of the pictures that are stored turned, with the EXIF orientation that turns them back
STORED_AS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""For each EXIF orientation used, how the upright picture is turned before it is stored."""
ORIENTATION_TAG = 0x0112  # EXIF's

_PICTURE = re.compile(rf"(?:{'|'.join(SPLITS)})-[0-9]{{5,}}\.jpg")
MARKER = "emblems.txt"
MARKER_TEXT = "An Emblems build of RiVEGS-MLLM. It is complete when test.jsonl is there; building again replaces it.\n"


@dataclass(frozen=True, slots=True)
class PlannedMention:
    """A named entity of a post: its entry, its token span, and how often the picture shows it."""

    entry: NameEntry
    span: tuple[int, int]
    shown: int


@dataclass(frozen=True, slots=True)
class PostPlan:
    """A post before its picture is drawn: ``mentions`` in the order of the text, and the distractors' looks."""

    tokens: tuple[str, ...]
    mentions: tuple[PlannedMention, ...]
    distractors: tuple[Look, ...]


MOST_POSTS = 10_000_000  # eight hours at 350 a second, with pictures


def build_emblems(
    out: Path, seed: int, train: int = 2400, dev: int = 200, test: int = 400, names: int = 48, unseen: int = 24
) -> dict[str, dict[str, int]]:
    """Writes ``out/{train,dev,test}.jsonl``, ``dataset.json``, ``images`` and ``encyclopedia.jsonl``.

    ``train``, ``dev`` and ``test`` are numbers of posts, ``names`` and ``unseen`` of names. The same arguments give
    the same files. An earlier build in ``out`` is replaced. Raises UserError when ``out`` holds anything else, and for
    numbers that are out of bounds. Returns for each split its counts of posts, posts without entity, entities, visible
    entities, entities with several boxes, boxes, and rotated pictures.
    """
    for what, number, least in (("train", train, 1), ("dev", dev, 0), ("test", test, 0)):
        if not least <= number <= MOST_POSTS:
            raise UserError(f"emblems: --{what} {number} posts; it must be from {least} to {MOST_POSTS:,}")
    if seed < 0:
        raise UserError(f"emblems: --seed {seed}; it must be 0 or more")
    entries = make_encyclopedia(Random(f"{seed}/encyclopedia"), names, unseen)
    out = Path(out)
    _clear(out)
    write_encyclopedia(out / "encyclopedia.jsonl", entries)
    built: dict[str, list[Sample]] = {}
    counts = {}
    for split, number in (("train", train), ("dev", dev), ("test", test)):
        posts = _posts(out, seed, split, number, entries)
        shown = track(posts, split, number)
        built[split], counts[split] = _gather(shown)
    write_info(out, counted(DatasetInfo(dict.fromkeys(TYPES, ""), format="emblems"), built))
    for split, samples in built.items():
        write_records(out / f"{split}.jsonl", samples)
    return counts


def plan_posts(
    seed: int, split: str, number: int, entries: Sequence[NameEntry]
) -> Iterator[tuple[Random, str, PostPlan]]:
    """Each post's own random numbers, its subset and its plan. A post depends on its seed, split and index only."""
    for index in range(number):
        rng = Random(f"{seed}/{split}/{index}")
        subset = ("seen", "unseen")[index % 2] if split == "test" else ""  # in turns, so any prefix has both
        pool = [entry for entry in entries if entry.seen != (subset == "unseen")]
        yield rng, subset, plan_post(rng, pool)


def plan_post(rng: Random, pool: Sequence[NameEntry]) -> PostPlan:
    """A post about names of ``pool``; its text is drawn without regard to its picture, so it betrays nothing of it."""
    named = _names(rng, pool)
    post = write_post(rng, [(entry.name, entry.type) for entry in named])
    shown = _times_shown(rng, len(named))
    mentions = [PlannedMention(*triple) for triple in zip(named, post.spans, shown, strict=True)]
    mentions.sort(key=lambda mention: mention.span)
    return PostPlan(post.tokens, tuple(mentions), _distractors(rng, mentions, pool))


def draw_post(rng: Random, identity: str, subset: str, plan: PostPlan) -> tuple[Scene, Sample]:
    """The picture of a planned post and the post's record."""
    looks = [mention.entry.look for mention in plan.mentions for _ in range(mention.shown)]
    looks += plan.distractors
    rng.shuffle(looks)
    scene = compose(rng, looks)
    sample = Sample(
        id=identity,
        tokens=plan.tokens,
        image=f"images/{identity}.jpg",
        size=scene.image.size,
        entities=tuple(_entity(mention, plan.tokens, scene.placements) for mention in plan.mentions),
        knowledge=_knowledge(plan.mentions),
        subset=subset,
    )
    return scene, sample


def _posts(
    out: Path, seed: int, split: str, number: int, entries: Sequence[NameEntry]
) -> Iterator[tuple[Sample, bool]]:
    """The split's records, each after its picture is stored, and whether that is stored rotated."""
    for index, (rng, subset, plan) in enumerate(plan_posts(seed, split, number, entries)):
        scene, sample = draw_post(rng, f"{split}-{index:05d}", subset, plan)
        yield sample, _store(rng, scene.image, out / sample.image)


def _names(rng: Random, pool: Sequence[NameEntry]) -> list[NameEntry]:
    """Names for one post, none twice: a type first, then one of its names."""
    named: list[NameEntry] = []
    for _ in range(rng.choices(list(MENTIONS), list(MENTIONS.values()))[0]):
        left = [entry for entry in pool if entry not in named]
        types = [kind for kind in TYPES if any(entry.type == kind for entry in left)]
        kind = rng.choices(types, [TYPE_SHARES[kind] for kind in types])[0]
        named.append(rng.choice([entry for entry in left if entry.type == kind]))
    return named


def _times_shown(rng: Random, count: int) -> list[int]:
    """How often each of ``count`` entities is shown; together they leave room for a distractor."""
    shown = [int(rng.random() < VISIBLE) for _ in range(count)]
    room = MOST_EMBLEMS - 1 - sum(shown)
    for index, times in enumerate(shown):
        if times and rng.random() < SEVERAL_BOXES:
            more = min(rng.choice((1, 1, 1, 2)), room)
            shown[index] += more
            room -= more
    return shown


def _distractors(rng: Random, mentions: Sequence[PlannedMention], pool: Sequence[NameEntry]) -> tuple[Look, ...]:
    """One to three looks that no name of the post has."""
    taken = {mention.entry.look for mention in mentions}
    invisible = [mention.entry.look for mention in mentions if not mention.shown]
    room = MOST_EMBLEMS - sum(mention.shown for mention in mentions)
    looks: list[Look] = []
    for _ in range(min(rng.randint(1, 3), room)):
        if invisible and rng.random() < NEAR_INVISIBLE:
            model = rng.choice(invisible)
        elif taken:
            model = rng.choice(mentions).entry.look
        else:
            model = random_look(rng, rng.choice(TYPES))
        others = [entry.look for entry in pool if entry.type == model.type and entry.look not in taken]
        look = rng.choice(others) if others and rng.random() < 0.5 else near_look(rng, model)
        while look in taken:
            look = near_look(rng, look)
        looks.append(look)
    return tuple(looks)


def _entity(mention: PlannedMention, tokens: tuple[str, ...], placements: Iterable[Placement]) -> Entity:
    regions = [placement for placement in placements if placement.look == mention.entry.look]
    return Entity(
        text=" ".join(tokens[slice(*mention.span)]),
        type=mention.entry.type,
        span=mention.span,
        expression=mention.entry.look.expression,
        visible=bool(regions),
        boxes=tuple(region.box for region in regions),
        masks=tuple(_run_lengths(region.mask) for region in regions),
    )


def _run_lengths(mask: np.ndarray) -> Mask:
    coded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return Mask(mask.shape, coded["counts"].decode("ascii"))


def _knowledge(mentions: Sequence[PlannedMention]) -> tuple[str, ...]:
    """One text a teacher, on all of the post's names."""
    if not mentions:
        return UNNAMED
    return tuple(" ".join(texts) for texts in zip(*(mention.entry.knowledge for mention in mentions), strict=True))


def _store(rng: Random, picture: Image.Image, path: Path) -> bool:
    """Saves an upright picture as JPEG; now and then turned, with the EXIF orientation that turns it back."""
    quality, rotated, exif = rng.randint(60, 95), rng.random() < ROTATED, Image.Exif()
    if rotated:
        orientation = rng.choice(list(STORED_AS))
        exif[ORIENTATION_TAG] = orientation
        picture = picture.transpose(STORED_AS[orientation])
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, exif=exif)
    try:
        path.write_bytes(content.getvalue())
    except OSError:  # a full disk, on which Pillow would leave what there was room for
        path.unlink(missing_ok=True)
        raise
    return rotated


def _gather(posts: Iterable[tuple[Sample, bool]]) -> tuple[list[Sample], dict[str, int]]:
    """The samples of a split and their counts."""
    samples = []
    counts = Counter(
        {"posts": 0, "without entity": 0, "entities": 0, "visible": 0, "several boxes": 0, "boxes": 0, "rotated": 0}
    )
    for sample, rotated in posts:
        samples.append(sample)
        counts["posts"] += 1
        counts["without entity"] += not sample.entities
        counts["entities"] += len(sample.entities)
        counts["visible"] += sum(entity.visible is True for entity in sample.entities)
        counts["several boxes"] += sum(len(entity.boxes) > 1 for entity in sample.entities)
        counts["boxes"] += sum(len(entity.boxes) for entity in sample.entities)
        counts["rotated"] += rotated
    return samples, dict(counts)


def _clear(out: Path) -> None:
    """Makes ``out`` an empty build; removes an earlier one's files, its splits first, so that none looks complete."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a folder to build into")
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()) and not (out / MARKER).is_file():
        raise UserError(f"{out}: holds files and is no earlier Emblems build; give an empty folder or a new one")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / MARKER, MARKER_TEXT)
    for name in ("test", "dev", "train", "encyclopedia"):
        for ending in ("jsonl", "jsonl.partial"):
            (out / f"{name}.{ending}").unlink(missing_ok=True)
    (out / INFO_FILE).unlink(missing_ok=True)
    images = out / "images"
    images.mkdir(exist_ok=True)
    for path in images.iterdir():
        if _PICTURE.fullmatch(path.name):
            path.unlink()
