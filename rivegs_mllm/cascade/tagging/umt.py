"""The tagger ``umt`` (ACL 2020): a post's words and its picture, by two conditional random fields over word-pieces.

It looks through a ResNet, or through the vision tower of a Qwen-VL base; both stay as they are.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from safetensors.torch import save_file

from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.checkpoint import Card, read_card
from rivegs_mllm.cascade.rows import bio_tags
from rivegs_mllm.cascade.tagging.base import Tagger
from rivegs_mllm.cascade.tagging.crf import span_figures
from rivegs_mllm.cascade.tagging.umt_reader import STAGE, Reader, ResNetSight, Sight, TowerSight, sized_like
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import BatchSize, Bounds, NonNegativeInt, OneOf, PositiveFloat
from rivegs_mllm.data.batching import batches
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.models.text_encoders import load_encoder, load_tokenizer
from rivegs_mllm.published.umt.checkpoint import load, load_published, save
from rivegs_mllm.published.umt.model import UMT
from rivegs_mllm.published.umt.optimisation import BertAdam, groups, rate_factor
from rivegs_mllm.published.umt.pictures import RESNETS, load_resnet
from rivegs_mllm.published.umt.text import MOST_PIECES, Pieces, batch, pieces, targets
from rivegs_mllm.training.name_augmentation import name_words, renamed_tokens
from rivegs_mllm.training.sampling import MultiVariantDataset
from rivegs_mllm.types import TYPES, Prediction, Sample, UserError

KIND = "umt"
EYES = "eyes"
RESNET = "resnet.safetensors"
_NAMES = {"MISC": "OTHER"}
_AT_ONCE = 32


class UmtStage:
    """Fills ``entities``."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.parameters = reader.parameters

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        return [
            dataclasses.replace(draft, entities=found, errors=draft.errors + notes)
            for draft, (found, notes) in zip(drafts, self.reader.tag(samples), strict=True)
        ]


@Tagger.register_subclass(KIND)
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
    types: list[str] = field(default_factory=lambda: list(TYPES))
    batch_size: BatchSize = 16
    as_published: bool | None = None
    SEES_GOLD: ClassVar[bool] = False

    def load(self, folder: Path) -> UmtStage:
        """The stage, on the GPU where there is one. Raises StageError in one line."""
        return UmtStage(self.reader(folder))

    def reader(self, folder: Path) -> Reader:
        """The model with what it reads and looks by. Raises StageError as ``load`` does."""
        try:
            foreign = self.encoder is not None or self.checkpoint.is_file()
            found = self._published(folder) if foreign else self._trained(folder)
        except UserError as error:
            said = str(error)
            raise StageError(said if said.startswith(STAGE) else f"{STAGE}: {said}") from None
        device = best_device()
        found.model.to(device)
        found.sight.model.to(device)
        return found

    def _published(self, folder: Path) -> Reader:
        if self.encoder is None or self.resnet is None:
            raise UserError(
                f"{self.checkpoint} is read with the tokenizer and the ResNet that it was trained with; set `encoder` "
                "to the BERT and `resnet` to the file"
            )
        sight = ResNetSight(load_resnet("resnet152", self.resnet), bool(self.as_published))
        model, tokenizer = load_published(self.checkpoint), load_tokenizer(self.encoder)
        return Reader(model.eval(), tokenizer, sight, folder, _NAMES, self.batch_size)

    def _trained(self, folder: Path) -> Reader:
        card = read_card(self.checkpoint, STAGE, KIND, self.types, UmtTraining)
        sight = self._sight(card)
        model, tokenizer = load(self.checkpoint), load_tokenizer(self.checkpoint)
        return Reader(model, tokenizer, sight, folder, {}, self.batch_size, card.settings["most_pieces"])

    def _sight(self, card: Card) -> Sight:
        part = card.settings["as_published"] if self.as_published is None else self.as_published
        if card.settings["base"] is not None:
            return TowerSight(VisionEncoder.load(self.checkpoint / EYES), part)
        return ResNetSight(load_resnet(card.settings["resnet"], self.checkpoint / RESNET), part)


# Its training


@dataclass(frozen=True)
class Row:
    """A post's pieces with their labels, and its picture's places (49, channels), in half precision."""

    pieces: Pieces
    places: torch.Tensor


@TrainableStage.register_subclass(KIND)
@dataclass
class UmtTraining(TrainableStage):
    """How the tagger is trained.

    ``encoder`` is a BERT that ``rivegs_mllm.models.text_encoders.load_encoder`` takes. It looks through ``resnet`` of
    torchvision with the weights of a file, or through the vision tower of ``base``, a Qwen-VL or ``tiny``. All training
    pictures' places are held in memory, with ResNet-152 200 kB each. ``renamings``: how many more variants each text
    has with its mentions under made-up names, for an encoder that knows no language yet. ``most_pieces`` of a post are
    read; ``head_rate`` is the learning rate of all but the encoder, null for that of the encoder. ``as_published``
    looks at a part of each picture that is drawn once and by chance mirrored, and trains with BERT's first optimiser
    and its rates, in the place of those of ``train``.
    """

    encoder: str
    revision: str | None = None
    resnet: Annotated[str, OneOf(RESNETS)] = "resnet152"
    resnet_weights: Path | None = None
    base: str | None = None
    renamings: NonNegativeInt = 0
    most_pieces: Annotated[int, Bounds(3, 100_000)] = MOST_PIECES
    head_rate: PositiveFloat | None = None
    as_published: bool = False

    def __post_init__(self) -> None:
        if (self.base is None) == (self.resnet_weights is None):
            raise UserError("stage.resnet_weights: say the ResNet's file, or in its place stage.base, and not both")
        if self.as_published and (self.base is not None or self.head_rate is not None):
            raise UserError("stage.as_published: the original has a ResNet and one rate; leave out base and head_rate")

    def prepare(self, data: StageData) -> Trainable:
        """The tagger, its encoder's layers as they are and its own untrained, and its rows, one a post."""
        encoder, tokenizer = load_encoder(self.encoder, self.revision, (sample.text for sample in data.train))
        eyes = None if self.base is None else VisionEncoder.of_base(self.base)
        sight = TowerSight(eyes) if eyes is not None else self._resnet()
        sizes = sized_like(encoder.config, sight.channels, data.types)
        if self.most_pieces > sizes.positions:
            raise UserError(f"stage.most_pieces: {self.most_pieces}; the encoder reads {sizes.positions}")
        model = UMT(sizes, encoder)
        reader = Reader(model, tokenizer, sight, data.folder, {}, 16, self.most_pieces)
        sight.model.to(best_device())
        rows = MultiVariantDataset(self._rows(data, reader), "draw", data.seed)
        rate = self.head_rate

        def store(folder: Path) -> None:
            save(model, folder)
            encoder.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            if eyes is None:
                save_file({name: own.contiguous() for name, own in sight.model.state_dict().items()}, folder / RESNET)
            else:
                eyes.save(folder / EYES)

        return Trainable(
            model=model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.pieces.ids)),
            collate=lambda some: collate(some, sizes.labels),
            evaluate=lambda samples: span_figures(samples, reader.tag(samples)),
            save=store,
            rates={} if rate is None else _rates(model, rate),
            optimizer=(lambda own: BertAdam(groups(model), own)) if self.as_published else None,
            schedule=rate_factor if self.as_published else None,
        )

    def _resnet(self) -> ResNetSight:
        return ResNetSight(load_resnet(self.resnet, self.resnet_weights), self.as_published)

    def _rows(self, data: StageData, reader: Reader) -> list[list[Row]]:
        """A row a post, and its variants. Prints how many posts do not fit, and of how many the picture cannot be
        opened."""
        rows, unfit, lost = [], [], []
        words, rng = name_words(data.train), random.Random(data.seed)
        for some in batches(data.train, _AT_ONCE):
            places, notes = reader.look(some)
            lost += [note[0] for note in notes if note]
            for sample, own in zip(some, places.half(), strict=True):
                tags = bio_tags(sample)
                texts = [sample.tokens, *(renamed_tokens(sample, words, rng) for _ in range(self.renamings))]
                read = [pieces(text, tags, reader.tokenizer, self.most_pieces) for text in texts]
                unfit += [sample.id] if len(read[0].first) < len(sample.tokens) else []
                rows.append([Row(one, own) for one in read])
        if unfit:
            print(f"{len(unfit)} of {len(rows)} posts do not fit into {self.most_pieces} pieces, such as {unfit[0]}")
        if lost:
            print(f"{len(lost)} of {len(rows)} posts are read without their picture, such as {lost[0]}")
        return rows


def _rates(model: UMT, rate: float) -> Mapping[str, float]:
    """The rate of every part but the encoder."""
    return {f"{name}.": rate for name, _ in model.named_children() if name != "bert"}


def collate(rows: Sequence[Row], names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The arguments of ``UMT.forward`` by name."""
    read = [row.pieces for row in rows]
    return {**batch(read), **targets(read, names), "places": torch.stack([row.places for row in rows]).float()}
