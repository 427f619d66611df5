"""The tagger ``umt`` (ACL 2020): a post's words and its picture, by two conditional random fields over word-pieces.

It encodes pictures with a ResNet, or with the vision tower of a Qwen-VL base; both are frozen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from rivegs_mllm.cascade.base import Stage, named_errors
from rivegs_mllm.cascade.checkpoint import VISION_FOLDER, StageMetadata, read_metadata
from rivegs_mllm.cascade.rows import bio_tags
from rivegs_mllm.cascade.tagging.base import Tagger, TaggingStage
from rivegs_mllm.cascade.tagging.crf import span_metrics
from rivegs_mllm.cascade.tagging.umt_predictor import (
    STAGE,
    ImageEncoder,
    ResNetEncoder,
    TowerEncoder,
    UmtPredictor,
    sized_like,
)
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import BatchSize, Bounds, NonNegativeInt, OneOf, PositiveFloat
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.models.text_encoders import load_encoder, load_tokenizer
from rivegs_mllm.published.umt.checkpoint import load, load_published, save
from rivegs_mllm.published.umt.model import UMT
from rivegs_mllm.published.umt.optimisation import BertAdam, groups, learning_rate_factor
from rivegs_mllm.published.umt.pictures import RESNETS, load_resnet
from rivegs_mllm.published.umt.text import MAX_PIECES, WordPieces, batch, targets, word_pieces
from rivegs_mllm.published.weights import save_weights
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.training.dataset.name_augmentation import name_words, renamed_tokens
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import UserError

TYPE_NAME = "umt"
RESNET = "resnet.safetensors"
_NAMES = {"MISC": "OTHER"}
_BATCH_SIZE = 32


@Tagger.register_subclass(TYPE_NAME)
@dataclass
class UmtTagger(Tagger):
    """A trained tagger. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    Or ``checkpoint`` is the authors' ``pytorch_model.bin`` or a folder of safetensors, ``encoder`` the folder or hub id
    of the BERT that it was trained from, whose tokenizer it reads by, and ``resnet`` their ``pytorch_encoder.bin``.
    ``as_published`` looks at a part of each picture that is drawn and by chance mirrored, as the original does in
    testing too; null: where it was trained so.
    """

    checkpoint: Path
    encoder: str | None = None
    resnet: Path | None = None
    types: list[str] | None = None
    batch_size: BatchSize = 16
    as_published: bool | None = None
    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError in one line."""
        predictor = self.predictor(folder)
        return TaggingStage(predictor.tag, predictor.num_parameters)

    def predictor(self, folder: Path) -> UmtPredictor:
        """The model with its tokenizer and images. Raises StageError as ``load`` does."""
        with named_errors(STAGE):
            foreign = self.encoder is not None or self.checkpoint.is_file()
            found = self._published(folder) if foreign else self._trained(folder)
        device = best_device()
        found.model.to(device)
        found.image_encoder.model.to(device)
        return found

    def _published(self, folder: Path) -> UmtPredictor:
        if self.encoder is None or self.resnet is None:
            raise UserError(
                f"{self.checkpoint} is read with the tokenizer and the ResNet that it was trained with; set `encoder` "
                "to the BERT and `resnet` to the file"
            )
        image_encoder = ResNetEncoder(load_resnet("resnet152", self.resnet), bool(self.as_published))
        model, tokenizer = load_published(self.checkpoint), load_tokenizer(self.encoder)
        return UmtPredictor(model.eval(), tokenizer, image_encoder, folder, _NAMES, self.batch_size)

    def _trained(self, folder: Path) -> UmtPredictor:
        metadata = read_metadata(self.checkpoint, STAGE, TYPE_NAME, self.types, UmtTraining)
        image_encoder = self._image_encoder(metadata)
        model, tokenizer = load(self.checkpoint), load_tokenizer(self.checkpoint)
        return UmtPredictor(
            model, tokenizer, image_encoder, folder, {}, self.batch_size, metadata.settings["max_pieces"]
        )

    def _image_encoder(self, metadata: StageMetadata) -> ImageEncoder:
        part = metadata.settings["as_published"] if self.as_published is None else self.as_published
        if metadata.settings["base"] is not None:
            return TowerEncoder(VisionEncoder.load(self.checkpoint / VISION_FOLDER), part)
        return ResNetEncoder(load_resnet(metadata.settings["resnet"], self.checkpoint / RESNET), part)


# Its training


@dataclass(frozen=True)
class UmtExample:
    """A post's pieces with their labels, and its picture's regions (49, channels), in half precision."""

    pieces: WordPieces
    regions: torch.Tensor


@TrainableStage.register_subclass(TYPE_NAME)
@dataclass
class UmtTraining(TrainableStage):
    """How the tagger is trained.

    ``encoder`` is a BERT that ``rivegs_mllm.models.text_encoders.load_encoder`` takes. It looks through ``resnet`` of
    torchvision with the weights of a file, or through the vision tower of ``base``, a Qwen-VL or ``tiny``. All training
    pictures' regions are held in memory, with ResNet-152 200 kB each. ``renamed_variants``: how many more variants
    each text has with its mentions under made-up names, for an encoder that knows no language yet. ``max_pieces`` of a
    post are read; ``head_learning_rate`` is the learning rate of all but the encoder, null for that of the encoder.
    ``as_published`` looks at a part of each picture that is drawn once and by chance mirrored, and trains with BERT's
    first optimiser and its rates, in the place of those of ``train``.
    """

    encoder: str
    revision: str | None = None
    resnet: Annotated[str, OneOf(RESNETS)] = "resnet152"
    resnet_weights: Path | None = None
    base: str | None = None
    renamed_variants: NonNegativeInt = 0
    max_pieces: Annotated[int, Bounds(3, 100_000)] = MAX_PIECES
    head_learning_rate: PositiveFloat | None = None
    as_published: bool = False

    def __post_init__(self) -> None:
        if (self.base is None) == (self.resnet_weights is None):
            raise UserError("stage.resnet_weights: set the ResNet's file, or stage.base instead, and not both")
        if self.as_published and (self.base is not None or self.head_learning_rate is not None):
            raise UserError(
                "stage.as_published: the original has a ResNet and one rate; leave out base and head_learning_rate"
            )

    def prepare(self, data: StageData) -> Trainable:
        """The tagger, its encoder's layers as they are and its own untrained, and its rows, one a post.

        Raises UserError for an encoder that is no BERT or reads fewer pieces.
        """
        encoder, tokenizer = load_encoder(self.encoder, self.revision, (sample.text for sample in data.train))
        vision_encoder = None if self.base is None else VisionEncoder.of_base(self.base)
        if vision_encoder is None:
            image_encoder = ResNetEncoder(load_resnet(self.resnet, self.resnet_weights), self.as_published)
        else:
            image_encoder = TowerEncoder(vision_encoder)
        sizes = sized_like(encoder.config, image_encoder.channels, data.types)
        if self.max_pieces > sizes.positions:
            raise UserError(f"stage.max_pieces: {self.max_pieces}; the encoder reads {sizes.positions}")
        model = UMT(sizes, encoder)
        predictor = UmtPredictor(model, tokenizer, image_encoder, data.folder, {}, 16, self.max_pieces)
        image_encoder.model.to(best_device())
        rows = MultiVariantDataset(self._rows(data, predictor), "draw", data.seed)
        rate = self.head_learning_rate

        def store(folder: Path) -> None:
            save(model, folder)
            encoder.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            if vision_encoder is None:
                save_weights(image_encoder.model, folder / RESNET)
            else:
                vision_encoder.save(folder / VISION_FOLDER)

        return Trainable(
            model=model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.pieces.ids)),
            collate=lambda some: collate(some, sizes.labels),
            evaluate=lambda samples: span_metrics(samples, predictor.tag(samples)),
            save=store,
            rates={} if rate is None else _rates(model, rate),
            optimizer=(lambda own: BertAdam(groups(model), own)) if self.as_published else None,
            schedule=learning_rate_factor if self.as_published else None,
        )

    def _rows(self, data: StageData, predictor: UmtPredictor) -> list[list[UmtExample]]:
        """A row a post, and its variants. Prints how many posts do not fit, and of how many the picture cannot be
        opened."""
        rows, unfit, lost = [], [], []
        words, rng = name_words(data.train), random.Random(data.seed)
        for some in batches(data.train, _BATCH_SIZE):
            regions, notes = predictor.encode_images(some)
            lost += [note[0] for note in notes if note]
            for sample, own in zip(some, regions.half(), strict=True):
                tags = bio_tags(sample)
                texts = [sample.tokens, *(renamed_tokens(sample, words, rng) for _ in range(self.renamed_variants))]
                read = [word_pieces(text, tags, predictor.tokenizer, self.max_pieces) for text in texts]
                unfit += [sample.id] if len(read[0].first) < len(sample.tokens) else []
                rows.append([UmtExample(one, own) for one in read])
        if unfit:
            print(f"{len(unfit)} of {len(rows)} posts do not fit into {self.max_pieces} pieces, such as {unfit[0]}")
        if lost:
            print(f"{len(lost)} of {len(rows)} posts are read without their picture, such as {lost[0]}")
        return rows


def _rates(model: UMT, rate: float) -> Mapping[str, float]:
    """The rate of every part but the encoder."""
    return {f"{name}.": rate for name, _ in model.named_children() if name != "bert"}


def collate(rows: Sequence[UmtExample], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The arguments of ``UMT.forward`` by name."""
    read = [row.pieces for row in rows]
    return {**batch(read), **targets(read, names), "regions": torch.stack([row.regions for row in rows]).float()}
