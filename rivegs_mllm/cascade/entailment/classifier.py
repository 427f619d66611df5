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
from rivegs_mllm.cascade.checkpoint import METADATA_FILE, StageMetadata, read_metadata
from rivegs_mllm.cascade.encoding import encode_pictures
from rivegs_mllm.cascade.entailment.base import (
    DecisionRule,
    Entailment,
    entailment_metrics,
    query_texts,
    with_decisions,
    with_nothing_visible,
)
from rivegs_mllm.cascade.entailment.scorer import Batch, ScorerRecipe, VisibilityScorer, truncate_texts
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.referring import all_parts, check_parts, entity_names, slots_required_by
from rivegs_mllm.cascade.rows import entailment_rows
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.data.images import OVERVIEW_SIDE, PictureError, open_for_model
from rivegs_mllm.models.device import count_parameters
from rivegs_mllm.runtime.foreign import loading
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Prediction, Sample, UserError

STAGE = "entailment (classifier)"


class ClassifierStage:
    """Fills ``visible`` and ``visible_score``. A picture is opened once for all entities of its post.

    ``query_fields`` is the parts of the referring expression, ``folder`` what pictures are relative to.
    """

    def __init__(self, scorer: VisibilityScorer, query_fields: Sequence[str], decision: DecisionRule, folder: Path):
        self.scorer = scorer
        self.query_fields = tuple(query_fields)
        self.decision = decision
        self.folder = folder
        self.num_parameters = count_parameters(scorer.model)

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        filled, images, indices = list(partials), [], []
        for index, (sample, partial) in enumerate(zip(samples, partials, strict=True)):
            if not partial.entities:
                continue
            try:
                if not sample.image:
                    raise PictureError("the post has none")
                images.append(open_for_model(self.folder / sample.image, OVERVIEW_SIDE))
                indices.append(index)
            except PictureError as error:
                filled[index] = with_nothing_visible(partial, f"{STAGE}: no picture: {error}")
        if indices:
            self._score(filled, indices, self.scorer.encode_images(images))
        return filled

    def _score(self, partials: list[Prediction], indices: Sequence[int], encoded: Sequence) -> None:
        """Decides on the entities of the partial predictions at ``indices``, in place; ``encoded`` are their
        pictures."""
        texts, image_index, notes = [], [], []
        for number, index in enumerate(indices):
            asked, drop_mentions = query_texts(partials[index].entities, self.query_fields)
            short, cut = truncate_texts(self.scorer, asked)
            texts += short
            image_index += [number] * len(short)
            notes.append([f"{STAGE}: {note}" for note in (*drop_mentions, *cut)])
        logits = self.scorer.logits(encoded, image_index, texts).tolist()
        for number, index in enumerate(indices):
            own = [logit for logit, whose in zip(logits, image_index, strict=True) if whose == number]
            partials[index] = with_decisions(partials[index], self.decision, own, notes[number])


@Entailment.register_subclass("classifier")
@dataclass
class ClassifierEntailment(Entailment):
    """A trained classifier. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``query_fields`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    query_fields: list[str] | None = None
    decision: DecisionRule = field(default_factory=DecisionRule)
    types: list[str] | None = None
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.query_fields is not None:
            check_parts(self.query_fields)

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self._parts())

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError for a folder that is incomplete."""
        scorer = self._recipe().load(self.checkpoint)
        return ClassifierStage(scorer, self._parts(), self.decision, folder)

    def _recipe(self) -> ScorerRecipe:
        """The scorer that the metadata describe. Raises StageError where they cannot be used."""
        with loading(f"{STAGE}: {self.checkpoint / METADATA_FILE}: settings.model", StageError):
            return draccus.decode(ScorerRecipe, self._metadata().settings["model"])

    def _metadata(self) -> StageMetadata:
        return read_metadata(self.checkpoint, STAGE, "classifier", self.types, ClassifierTraining)

    def _parts(self) -> Sequence[str]:
        return self.query_fields or self._metadata().settings["query_fields"]


# Its training


@dataclass(frozen=True)
class EntailmentExample:
    """A gold entity and the query about it. ``spoken``: all names in the posts that have this picture."""

    image: Path
    text: str
    visible: bool
    names: frozenset[str]
    spoken: frozenset[str]


@TrainableStage.register_subclass("classifier")
@dataclass
class ClassifierTraining(TrainableStage):
    """How the classifier is trained: one row an entity. ``query_fields`` is the parts of the referring expression."""

    model: ScorerRecipe
    query_fields: list[str] = field(default_factory=all_parts)
    expressions: ExpressionVariants = field(default_factory=ExpressionVariants)

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        self.expressions.check(self.query_fields)

    def prepare(self, data: StageData) -> Trainable:
        """The classifier, its head untrained, and its rows: the gold entities of posts with a picture."""
        data = data.with_checked_pictures()
        scorer = self.model.build()
        rows = MultiVariantDataset(self._rows(data, scorer), self.expressions.strategy, data.seed)
        images = {row[0].image: row[0].image for row in rows.variants} if scorer.cacheable else {}
        seen = encode_pictures(images, scorer.encode_images, OVERVIEW_SIDE)
        stage = ClassifierStage(scorer, self.query_fields, DecisionRule(), data.folder)
        return Trainable(
            model=scorer.model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.text)),
            collate=lambda batch: collate(batch, scorer, seen),
            evaluate=lambda samples: entailment_metrics(stage, self.expressions.first(samples)),
            save=scorer.save,
        )

    def _rows(self, data: StageData, scorer: VisibilityScorer) -> list[list[EntailmentExample]]:
        """A row an entity, and its variants. Prints what is left out or cut."""
        views = entailment_rows(data.train)
        shown = [view for view in views if view.image]
        if len(shown) < len(views):
            print(f"{STAGE}: {len(views) - len(shown)} of {len(views)} entities are of posts without picture: left out")
        if len({view.visible for view in shown}) < 2:
            raise UserError(
                f"{data.folder}: of {len(shown)} entities of posts with a picture all or none are visible, so there is "
                "nothing to classify; train on data with pictures and regions"
            )
        spoken: dict[str, frozenset[str]] = {}
        for view in shown:
            spoken[view.image] = spoken.get(view.image, frozenset()) | entity_names(view.entity)
        rows, cut = [], []
        for view, entities in zip(shown, self.expressions.variants(shown, self.query_fields), strict=True):
            texts, notes = truncate_texts(scorer, list(dict.fromkeys(query_texts(entities, self.query_fields)[0])))
            cut += notes
            image, names = data.folder / view.image, entity_names(view.entity)
            rows.append([EntailmentExample(image, text, view.visible, names, spoken[view.image]) for text in texts])
        if cut:
            print(f"{STAGE}: {len(cut)} texts are too long, the first: {cut[0]}")
        return rows


def collate(rows: Sequence[EntailmentExample], scorer: VisibilityScorer, seen: Mapping[Path, object]) -> Batch:
    """A batch to train on, each picture in it once; those not among ``seen`` are opened."""
    paths = list(dict.fromkeys(row.image for row in rows))
    new = [path for path in paths if path not in seen]
    fresh = scorer.encode_images([open_for_model(path, OVERVIEW_SIDE) for path in new]) if new else []
    encoded = {**seen, **dict(zip(new, fresh, strict=True))}
    spoken = {row.image: row.spoken for row in rows}
    return scorer.training_batch(
        [encoded[path] for path in paths],
        [paths.index(row.image) for row in rows],
        [row.text for row in rows],
        [row.visible for row in rows],
        [[not row.names & spoken[path] for path in paths] for row in rows],
    )
