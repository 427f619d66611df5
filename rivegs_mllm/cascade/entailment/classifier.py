"""The entailment ``classifier``: a vision-language model with a two-way head over picture and referring expression.

RiVEG's second stage as a classifier of its own; which parts of the referring expression it is given is a setting
(the paper's Table X).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import draccus

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.checkpoint import FILE_NAME, Card, read_card
from rivegs_mllm.cascade.entailment.base import (
    Decision,
    Entailment,
    entailment_figures,
    referred,
    with_decisions,
    with_nothing_visible,
)
from rivegs_mllm.cascade.entailment.scorer import Batch, Judge, JudgeRecipe, fitting
from rivegs_mllm.cascade.expressions import Wordings
from rivegs_mllm.cascade.referring import all_parts, check_parts, needed
from rivegs_mllm.cascade.rows import entailment_view
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.data.batching import batches
from rivegs_mllm.data.foreign import loading
from rivegs_mllm.data.images import GLANCE, PictureError, open_for_model
from rivegs_mllm.data.progress import track
from rivegs_mllm.training.sampling import MultiVariantDataset
from rivegs_mllm.types import TYPES, Entity, Prediction, Sample, UserError

STAGE = "entailment (classifier)"
AT_ONCE = 32
"""How many pictures are looked at together before training."""


class ClassifierStage:
    """Fills ``visible`` and ``visible_score``. A picture is opened once for all entities of its post.

    ``refer`` is the parts of the referring expression, ``folder`` what pictures are relative to.
    """

    def __init__(self, judge: Judge, refer: Sequence[str], decision: Decision, folder: Path):
        self.judge = judge
        self.refer = tuple(refer)
        self.decision = decision
        self.folder = folder
        self.parameters = sum(value.numel() for value in judge.model.parameters())

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        filled, images, places = list(drafts), [], []
        for place, (sample, draft) in enumerate(zip(samples, drafts, strict=True)):
            if not draft.entities:
                continue
            try:
                if not sample.image:
                    raise PictureError("the post has none")
                images.append(open_for_model(self.folder / sample.image, GLANCE))
                places.append(place)
            except PictureError as error:
                filled[place] = with_nothing_visible(draft, f"{STAGE}: no picture: {error}")
        if places:
            self._judge(filled, places, self.judge.look(images))
        return filled

    def _judge(self, drafts: list[Prediction], places: Sequence[int], looks: Sequence) -> None:
        """Decides on the entities of the drafts at ``places``, in place; ``looks`` are at their pictures."""
        texts, owner, notes = [], [], []
        for number, place in enumerate(places):
            asked, unnamed = referred(drafts[place].entities, self.refer)
            short, cut = fitting(self.judge, asked)
            texts += short
            owner += [number] * len(short)
            notes.append([f"{STAGE}: {note}" for note in (*unnamed, *cut)])
        logits = self.judge.logits(looks, owner, texts).tolist()
        for number, place in enumerate(places):
            own = [logit for logit, whose in zip(logits, owner, strict=True) if whose == number]
            drafts[place] = with_decisions(drafts[place], self.decision, own, notes[number])


@Entailment.register_subclass("classifier")
@dataclass
class ClassifierEntailment(Entailment):
    """A trained classifier. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``refer`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    refer: list[str] | None = None
    decision: Decision = field(default_factory=Decision)
    types: list[str] = field(default_factory=lambda: list(TYPES))
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.refer is not None:
            check_parts(self.refer)

    def needs(self) -> Sequence[str]:
        """Expressions, where they are referred by."""
        return needed(self._parts())

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError for a folder that is not whole."""
        judge = self._judge().load(self.checkpoint)
        return ClassifierStage(judge, self._parts(), self.decision, folder)

    def _judge(self) -> JudgeRecipe:
        """The judge that the card says was trained. Raises StageError where it cannot be made of that."""
        with loading(f"{STAGE}: {self.checkpoint / FILE_NAME}: settings.model", StageError):
            return draccus.decode(JudgeRecipe, self._card().settings["model"])

    def _card(self) -> Card:
        return read_card(self.checkpoint, STAGE, "classifier", self.types, ClassifierTraining)

    def _parts(self) -> Sequence[str]:
        return self.refer or self._card().settings["refer"]


# Its training


@dataclass(frozen=True)
class Row:
    """A gold entity and the text that is asked about it. ``spoken``: all names that the picture's posts speak of."""

    image: Path
    text: str
    visible: bool
    names: frozenset[str]
    spoken: frozenset[str]


@TrainableStage.register_subclass("classifier")
@dataclass
class ClassifierTraining(TrainableStage):
    """How the classifier is trained: one row an entity. ``refer`` is the parts of the referring expression."""

    model: JudgeRecipe
    refer: list[str] = field(default_factory=all_parts)
    expressions: Wordings = field(default_factory=Wordings)

    def __post_init__(self) -> None:
        check_parts(self.refer)
        self.expressions.check(self.refer)

    def prepare(self, data: StageData) -> Trainable:
        """The classifier, its head untrained, and its rows: the gold entities of posts with a picture."""
        data = data.with_checked_pictures()
        judge = self.model.build()
        rows = MultiVariantDataset(self._rows(data, judge), self.expressions.how, data.seed)
        seen = _looked_at(rows.variants, judge) if judge.looks_once else {}
        stage = ClassifierStage(judge, self.refer, Decision(), data.folder)
        return Trainable(
            model=judge.model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.text)),
            collate=lambda batch: collate(batch, judge, seen),
            evaluate=lambda samples: entailment_figures(stage, self.expressions.first(samples)),
            save=judge.save,
        )

    def _rows(self, data: StageData, judge: Judge) -> list[list[Row]]:
        """A row an entity, and its variants. Prints what is left out or cut."""
        views = entailment_view(data.train)
        shown = [view for view in views if view.image]
        if len(shown) < len(views):
            print(f"{STAGE}: {len(views) - len(shown)} of {len(views)} entities are of posts without picture: left out")
        if len({view.visible for view in shown}) < 2:
            raise UserError(
                f"{data.folder}: of {len(shown)} entities of posts with a picture all or none are visible, so there is "
                "nothing to tell apart; train on data with pictures and regions"
            )
        spoken: dict[str, frozenset[str]] = {}
        for view in shown:
            spoken[view.image] = spoken.get(view.image, frozenset()) | _names(view.entity)
        rows, cut = [], []
        for view, entities in zip(shown, self.expressions.variants(shown, self.refer), strict=True):
            texts, notes = fitting(judge, list(dict.fromkeys(referred(entities, self.refer)[0])))
            cut += notes
            image, names = data.folder / view.image, _names(view.entity)
            rows.append([Row(image, text, view.visible, names, spoken[view.image]) for text in texts])
        if cut:
            print(f"{STAGE}: {len(cut)} texts are too long, the first: {cut[0]}")
        return rows


def _looked_at(rows: Sequence[Sequence[Row]], judge: Judge) -> dict[Path, object]:
    """The judge's looks at all pictures of the rows."""
    looks: dict[Path, object] = {}
    paths = list(dict.fromkeys(variants[0].image for variants in rows))
    for some in track(list(batches(paths, AT_ONCE)), "pictures"):
        looks.update(zip(some, judge.look([open_for_model(path, GLANCE) for path in some]), strict=True))
    return looks


def collate(rows: Sequence[Row], judge: Judge, seen: Mapping[Path, object]) -> Batch:
    """A batch to learn from, each picture in it once; those not among ``seen`` are opened."""
    paths = list(dict.fromkeys(row.image for row in rows))
    new = [path for path in paths if path not in seen]
    fresh = judge.look([open_for_model(path, GLANCE) for path in new]) if new else []
    looks = {**seen, **dict(zip(new, fresh, strict=True))}
    spoken = {row.image: row.spoken for row in rows}
    return judge.learn(
        [looks[path] for path in paths],
        [paths.index(row.image) for row in rows],
        [row.text for row in rows],
        [row.visible for row in rows],
        [[not row.names & spoken[path] for path in paths] for row in rows],
    )


def _names(entity: Entity) -> frozenset[str]:
    """What tells that two entities are one."""
    return frozenset({entity.text.lower(), entity.expression} - {""})
