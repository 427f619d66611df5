"""One HTML page that shows a dataset: its figures, its types, and some of its posts with their gold annotation.

It needs no other file and no network, and has no script. Its template is ``templates/dataset.html.jinja``.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from pathlib import Path

from markupsafe import Markup

from eval.protocols import boxes_of, masks_of
from eval.report.posts import PictureFault, picture_faults_in_words, picture_of
from eval.report.thumbnails import Picture, outline
from rivegs_mllm.data.written import as_written, blanks, written
from rivegs_mllm.pages.colours import type_colours
from rivegs_mllm.pages.labelled_picture import LabelledPicture, label_boxes
from rivegs_mllm.pages.template import page_template, shared_style
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Entity, Sample, UserError

_TEMPLATE = Path(__file__).parent / "templates" / "dataset.html.jinja"


@dataclass(frozen=True, slots=True)
class Word:
    """Words of a post, the ``type`` of the first entity that they belong to, "" for none, and whether a ``blank`` is
    written before them."""

    text: str
    type: str
    blank: bool


@dataclass(frozen=True, slots=True)
class ShownPost:
    """A post on the page; ``fault`` is what is wrong with its picture, "" for nothing."""

    sample: Sample
    split: str
    picture: Picture | None
    fault: str

    @property
    def words(self) -> list[Word]:
        """The post's text in its entities and what is between them."""
        tokens, entities = self.sample.tokens, self.sample.entities
        owners = [-1] * len(tokens)
        for index, entity in enumerate(entities):
            for place in range(*entity.span) if entity.span else ():
                owners[place] = index if owners[place] < 0 else owners[place]
        apart, words = blanks(tokens), []
        for owner, group in groupby(range(len(tokens)), owners.__getitem__):
            first, *others = group
            text = written(tokens[first : first + 1 + len(others)])
            words.append(Word(text, "" if owner < 0 else entities[owner].type, apart[first]))
        return words

    @property
    def labelled(self) -> LabelledPicture:
        """The names of the boxes on the picture, in pixels of the original; there must be a ``picture``."""
        named = [(as_written(own.text), own.type, box) for own in self.sample.entities for box in boxes_of(own)]
        return label_boxes(named, (self.picture.width, self.picture.height))

    def outlines(self, entity: Entity) -> list[str]:
        """The paths of an entity's masks, in pixels of the original."""
        return [outline(mask) for mask in masks_of(entity)]


def write_dataset_page(
    out: Path,
    folder: Path,
    figures: Sequence[tuple[str, Sequence[str]]],
    splits: Mapping[str, Sequence[Sample]],
    count: int = 24,
    seed: int = 0,
    image_root: Path | None = None,
) -> list[str]:
    """Writes the page of the dataset in ``folder`` to ``out``, atomically, with ``count`` posts of ``splits``.

    ``figures`` are the rows of its table, a name with one value for each split. The posts are drawn by ``seed``, in
    turns from those that have an entity of each type in the picture, out of it or undecided, and those without entity,
    so that rare kinds are seen. Pictures from outside ``folder`` are shown only from ``image_root``. Returns what is
    wrong with pictures that cannot be shown, or are not of the size on record. Raises UserError for no posts to show.
    """
    if count < 1:
        raise UserError(f"data: --count {count} posts; it must be 1 or more")
    drawn = draw_posts(splits, count, seed)
    if not drawn:
        raise UserError(f"{folder}: has no post to show")
    shown, faults = [], []
    for split, sample in drawn:
        picture, fault = picture_of(sample, folder, image_root) if sample.image else (None, None)
        shown.append(ShownPost(sample, split, picture, str(fault) if fault else ""))
        faults += [fault] if fault else []
    _write(out, folder, figures, splits, shown, faults)
    return picture_faults_in_words(faults)


def draw_posts(splits: Mapping[str, Sequence[Sample]], count: int, seed: int) -> list[tuple[str, Sample]]:
    """At most ``count`` posts with their splits, in the order of the dataset; see `write_dataset_page`."""
    every = [(split, sample) for split, samples in splits.items() for sample in samples]
    order = list(range(len(every)))
    random.Random(seed).shuffle(order)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place in order:
        for kind in _kinds(every[place][1]):
            groups[kind].append(place)
    rarest = sorted(groups.values(), key=len)
    turns = (place for turn in zip_longest(*rarest) for place in turn if place is not None)
    return [every[place] for place in sorted(islice(dict.fromkeys(turns), count))]


def _kinds(sample: Sample) -> set[tuple[str, str]]:
    if not sample.entities:
        return {("", "")}
    where = {True: "shown", False: "not shown", None: "undecided"}
    return {(own.type, where[own.visible]) for own in sample.entities}


def _write(
    out: Path,
    folder: Path,
    figures: Sequence[tuple[str, Sequence[str]]],
    splits: Mapping[str, Sequence[Sample]],
    shown: Sequence[ShownPost],
    faults: Sequence[PictureFault],
) -> None:
    entities = (own for samples in splits.values() for sample in samples for own in sample.entities)
    counts = dict(Counter(own.type for own in entities).most_common())
    page = page_template(_TEMPLATE).render(
        as_written=as_written,
        folder=folder,
        figures=figures,
        posts=shown,
        total=sum(map(len, splits.values())),
        counts=counts,
        splits=list(splits),
        colours=type_colours(counts),
        problems=picture_faults_in_words(faults),
        boxes_of=boxes_of,
        style=Markup(shared_style()),
    )
    write_text(out, page)
