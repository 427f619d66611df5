"""The training of SeqTR on referring expressions: of the grounder, of the segmenter, or of both at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from eval.stage_metrics import segmentation_scores
from rivegs_mllm.cascade.base import without_labels
from rivegs_mllm.cascade.checkpoint import VISION_FOLDER
from rivegs_mllm.cascade.encoding import encode_pictures
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.grounding.base import GroundingStage, grounding_metrics
from rivegs_mllm.cascade.grounding.seqtr_masks import ExpressionSegmentingStage
from rivegs_mllm.cascade.grounding.seqtr_predictor import PixelInput, SeqTRPredictor, TowerInput
from rivegs_mllm.cascade.referring import all_parts, check_parts, training_texts
from rivegs_mllm.cascade.rows import GroundingRow, grounding_rows
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Bounds, NonNegativeInt, OneOf, Side
from rivegs_mllm.data.images import open_for_model
from rivegs_mllm.data.masks import decode
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.seqtr.checkpoint import load_published, read_vocabulary, save
from rivegs_mllm.published.seqtr.darknet import FROZEN
from rivegs_mllm.published.seqtr.model import SeqTR
from rivegs_mllm.published.seqtr.optimisation import WithAveragedWeights, adam, learning_rate_factor
from rivegs_mllm.published.seqtr.preparation import SIDE, PreparedImage, batch_images, outline_of, vocabulary
from rivegs_mllm.published.seqtr.sizes import BOX, MASK, TASKS, Depth, Sizes, Width
from rivegs_mllm.published.seqtr.tokens import MISSING, quantise, targets
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

TYPE_NAME = "seqtr"
STAGE = "grounder (seqtr)"


@dataclass(frozen=True)
class SeqTRExample:
    """A picture, the words of an expression (1, words), and the sequence (places,) to be written."""

    view: GroundingRow
    words: torch.Tensor


@TrainableStage.register_subclass(TYPE_NAME)
@dataclass
class SeqTRTraining(TrainableStage):
    """How SeqTR is trained: ``task`` is box, mask, or both.

    ``start`` is a checkpoint of the authors to continue from, of whose DarkNet-53 the first ``frozen`` items are not
    trained, with the words that it knows in ``words``, a JSON file of numbers by word. Without it the model has the
    sizes given here, the words of the training data, and nothing learned. ``base`` is the Qwen-VL whose vision tower it
    then looks through and whose word vectors it reads by, a hub id, a folder, or ``tiny``, both left as they are; all
    training pictures' patch features are held in memory. Null is for DarkNet-53 of the widths ``darknet``, on pictures
    within a square of ``side``, with word vectors of ``word_width`` that are learned.
    ``query_fields`` is the parts of the referring expression. ``drop_mentions``: every other time, by chance, the
    mention is left out, so that expressions are used even where names have been memorised. ``max_words`` of an
    expression are read. ``as_published`` keeps what is doubtful in the original
    (``rivegs_mllm.published.seqtr.model``), and trains with its Adam and its rates, in the place of those of
    ``train``; what is evaluated and saved is the average of the weights.
    """

    task: Annotated[str, OneOf(TASKS)] = BOX
    start: Path | None = None
    words: Path | None = None
    base: str | None = None
    side: Side = SIDE
    darknet: list[Width] = field(default_factory=lambda: [32, 64, 128, 256, 512, 1024])
    frozen: NonNegativeInt = FROZEN
    query_fields: list[str] = field(default_factory=all_parts)
    expressions: ExpressionVariants = field(default_factory=ExpressionVariants)
    drop_mentions: bool = False
    max_words: Annotated[int, Bounds(1, 1000)] = 40
    points: Depth = 18
    bins: Width = 1000
    word_width: Width = 300
    gru: Width = 512
    width: Width = 256
    heads: Depth = 8
    ffn: Width = 1024
    encoder_layers: Depth = 6
    decoder_layers: Depth = 3
    as_published: bool = False

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        self.expressions.check(self.query_fields)
        if (self.start is None) != (self.words is None):
            raise UserError(
                "stage.start: training continues from a checkpoint with its own vocabulary; set stage.words"
            )
        if self.start is not None and self.base is not None:
            raise UserError("stage.base: the authors' checkpoints use DarkNet-53; leave out base or start")
        if len(self.darknet) != 6:
            raise UserError(f"stage.darknet: {len(self.darknet)} widths; DarkNet-53 has 6")

    def prepare(self, data: StageData) -> Trainable:
        """The model and its rows: visible entities, each with its largest box and that box's mask."""
        data = data.with_checked_pictures()
        views = self._views(data)
        texts = [
            training_texts(own, self.query_fields, self.drop_mentions)
            for own in self.expressions.variants(views, self.query_fields)
        ]
        vision_encoder = None if self.base is None else VisionEncoder.of_base(self.base)
        model, known = self._model([text for row in texts for text in row], vision_encoder)
        image_input = PixelInput(self.side) if vision_encoder is None else TowerInput(vision_encoder)
        averaged = WithAveragedWeights(model) if self.as_published else None
        asked = model if averaged is None else averaged.mean
        predictor = SeqTRPredictor(asked, image_input, known, self.max_words)
        rows = MultiVariantDataset(_rows(views, texts, predictor), self.expressions.strategy, data.seed)
        pictures = {} if vision_encoder is None else {view.image: data.folder / view.image for view in views}
        seen = encode_pictures(pictures, image_input.prepare)

        def collate(batch: Sequence[SeqTRExample]) -> dict[str, torch.Tensor]:
            images = [
                seen.get(row.view.image) or image_input.prepare([open_for_model(data.folder / row.view.image)])[0]
                for row in batch
            ]
            pairs = zip(batch, images, strict=True)
            sequences = [_sequence(row.view, own, model.sizes, self.as_published) for row, own in pairs]
            return {
                **batch_images(images),
                "words": torch.stack([row.words for row in batch]),
                "targets": torch.cat(sequences),
            }

        def store(folder: Path) -> None:
            if vision_encoder is not None:
                vision_encoder.save(folder / VISION_FOLDER)
            save(asked, known, folder)

        return Trainable(
            model=model if averaged is None else averaged,
            train=rows,
            lengths=[1] * len(rows),  # sequence and words have the same length in all rows
            collate=collate,
            evaluate=lambda samples: seqtr_metrics(
                predictor, self.query_fields, self.expressions.first(samples), data.folder
            ),
            save=store,
            optimizer=None if averaged is None else lambda rate: _followed(averaged, rate),
            schedule=(lambda done: learning_rate_factor(done, self.task)) if self.as_published else None,
        )

    def _views(self, data: StageData) -> list[GroundingRow]:
        views = [view for view in grounding_rows(data.train) if view.image]
        if self.task != BOX:
            views = [view for view in views if _mask_of(view) is not None]
        if not views:
            wanted = "visible" if self.task == BOX else "visible and has a mask for each box"
            raise UserError(f"{data.folder}: no entity is {wanted}, so there is nothing to train on")
        return views

    def _model(self, texts: Sequence[str], vision_encoder: VisionEncoder | None) -> tuple[SeqTR, Mapping[str, int]]:
        """The model and the words that it knows."""
        if self.start is not None:
            model = load_published(self.start, self.frozen, self.as_published)
            if model.sizes.task != self.task:
                raise UserError(f"{self.start}: writes {model.sizes.task}; set stage.task to that")
            return model, read_vocabulary(self.words, model.sizes.words)
        known = vocabulary(texts)
        own = {name: getattr(self, name) for name in ("task", "points", "bins", "gru", "width", "heads", "ffn")}
        own |= {"encoder_layers": self.encoder_layers, "decoder_layers": self.decoder_layers, "words": len(known)}
        if vision_encoder is None:
            sizes = Sizes(**own, word_width=self.word_width, darknet=tuple(self.darknet))
            model = SeqTR(sizes, 0, self.as_published)
            model.lan_enc.embedding.requires_grad_(True)
            return model, known
        model = SeqTR(
            Sizes(**own, word_width=vision_encoder.width, darknet=(), channels=vision_encoder.width),
            0,
            self.as_published,
        )
        model.lan_enc.embedding.weight.data[1:] = _vectors(list(known)[1:], vision_encoder)
        return model, known


def _followed(averaged: WithAveragedWeights, rate: float) -> torch.optim.Optimizer:
    """The published optimiser, each of whose steps the average follows."""
    optimizer = adam([own for own in averaged.model.parameters() if own.requires_grad], rate)
    optimizer.register_step_post_hook(lambda *_: averaged.follow())
    return optimizer


def _vectors(words: Sequence[str], vision_encoder: VisionEncoder) -> torch.Tensor:
    """(words, width): the mean of the base's vectors of each word's tokens, scaled to entries of about 1."""
    own = [vision_encoder.words[ids].float().mean(0) for ids in vision_encoder.tokenize([f" {word}" for word in words])]
    return torch.stack(own) * vision_encoder.width**0.5


def _rows(
    views: Sequence[GroundingRow], texts: Sequence[Sequence[str]], predictor: SeqTRPredictor
) -> list[list[SeqTRExample]]:
    """A row a view, a variant each of its texts. Prints how many texts are cut."""
    flat = [text for row in texts for text in row]
    words, notes = predictor.tokenize(flat)
    cut = [(text, note[0]) for text, note in zip(flat, notes, strict=True) if note]
    if cut:
        print(f"{STAGE}: {len(cut)} of {len(flat)} texts are too long, such as {cut[0][0]!r}: {cut[0][1]}")
    rest = iter(words)
    return [[SeqTRExample(view, next(rest)) for _ in own] for view, own in zip(views, texts, strict=True)]


def _mask_of(view: GroundingRow):
    """The mask of the view's box, None where the entity has not one for each box."""
    entity = view.entity
    paired = zip(entity.boxes, entity.masks, strict=True) if len(entity.boxes) == len(entity.masks) else ()
    return next((mask for box, mask in paired if box == view.target), None)


def _sequence(view: GroundingRow, seen: PreparedImage, sizes: Sizes, doubtful: bool) -> torch.Tensor:
    """(1, places): the target sequence of a row; ``doubtful`` as published."""
    box, frame = view.target, torch.tensor([seen.frame])
    factors = torch.tensor(seen.factors * 2, dtype=torch.float64)
    edges = torch.tensor([box.xmin, box.ymin, box.xmax, box.ymax], dtype=torch.float64) * factors
    points = [MISSING] * (2 * sizes.points)
    if sizes.task != BOX:
        mask = decode(_mask_of(view))
        height, width = mask.shape
        x, y = seen.factors
        points = outline_of(mask, sizes.points, (round(height * y), round(width * x)))
    outlines = torch.tensor([points], dtype=torch.float64)
    return targets(quantise(edges[None], frame, sizes, doubtful), quantise(outlines, frame, sizes, doubtful), sizes)


def seqtr_metrics(
    predictor: SeqTRPredictor, parts: Sequence[str], samples: Sequence[Sample], folder: Path
) -> dict[str, float]:
    """Prec@0.5 and mean IoU given the gold entities: of boxes, as ``precision`` and ``mean_iou``, or of masks, as
    ``mask_precision`` and ``mask_iou``."""
    found: dict[str, float] = {}
    if predictor.model.sizes.task != MASK:
        found |= grounding_metrics(GroundingStage(TYPE_NAME, predictor.locate, parts, folder, 0), samples)
    if predictor.model.sizes.task != BOX:
        found |= mask_metrics(ExpressionSegmentingStage(TYPE_NAME, predictor.segment, parts, folder, 0), samples)
    return found


def mask_metrics(stage: ExpressionSegmentingStage, samples: Sequence[Sample]) -> dict[str, float]:
    """The share of masks with an IoU above 0.5 and their mean IoU, of a segmenter that is given the gold entities but
    no box."""
    partials = []
    for sample in samples:
        bare = [
            Entity(own.text, own.type, own.span, own.expression, visible=bool(own.boxes)) for own in sample.entities
        ]
        partials.append(Prediction(sample.id, entities=tuple(bare)))
    scores = segmentation_scores(samples, stage([without_labels(sample) for sample in samples], partials))
    return {"mask_precision": scores["precision"], "mask_iou": scores["mean_iou"]}
