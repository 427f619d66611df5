"""The tagger ``hindex`` (ACL 2023): names, types and regions written as indices by a BART that sees regions.

It fills boxes and visibility too, so that it can be a complete system by itself; later stages may override it.
Without regions it writes names and types alone, as the baseline BARTMNER.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from eval.scores import evaluate
from eval.stage_metrics import subset_names
from rivegs_mllm.cascade.base import Stage, named_errors
from rivegs_mllm.cascade.checkpoint import read_metadata
from rivegs_mllm.cascade.tagging.base import Tagger, TaggingStage
from rivegs_mllm.cascade.tagging.hindex_predictor import STAGE, HIndexPredictor, RegionFolder, region_file
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import BatchSize, Bounds, NonNegativeInt
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.pretrained import resolve_model_path
from rivegs_mllm.models.text_encoders import TINY, load_tokenizer, tiny_bart_tokenizer
from rivegs_mllm.published.hindex.checkpoint import load, load_published, save, start_from_bart
from rivegs_mllm.published.hindex.model import HIndex
from rivegs_mllm.published.hindex.regions import MAX_REGIONS, overlap_shares, read_regions
from rivegs_mllm.published.hindex.sizes import NO_REGION, Sizes
from rivegs_mllm.published.hindex.sizes import TYPES as PUBLISHED_TYPES
from rivegs_mllm.published.hindex.text import (
    TargetEntity,
    TokenizedPost,
    init_label_embeddings,
    pad_posts,
    pad_sequences,
    target_sequence,
)
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.training.dataset.name_augmentation import name_words, renamed_tokens
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

TYPE_NAME = "hindex"
_TINY_STD = 0.07  # a score is the dot product of two rows, without a scale
_WORDS = {"PER": "person", "LOC": "location", "ORG": "organization", "OTHER": "others"}
"""The words whose embeddings a type's row is initialised with; other types have their own name."""


@Tagger.register_subclass(TYPE_NAME)
@dataclass
class HIndexTagger(Tagger):
    """A trained tagger. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``regions`` the folder of the
    pictures' regions, null for the one that it was trained with, ``types`` what it must know.

    Or ``checkpoint`` is one of the authors, a file or a folder of safetensors, ``bart`` the folder or hub id of the
    BART that it was trained from, whose tokenizer it reads by. ``as_published`` keeps what is doubtful in the original
    (``rivegs_mllm.published.hindex.model`` and ``writing``); null: where it was trained so.
    """

    checkpoint: Path
    regions: Path | None = None
    bart: str | None = None
    types: list[str] | None = None
    batch_size: BatchSize = 32
    as_published: bool | None = None
    SEES_GOLD: ClassVar[bool] = False

    def files(self) -> Sequence[Path]:
        """The regions', where they are those of the training."""
        if self.regions is not None or self._foreign():
            return ()
        return _folders(self._metadata().settings["regions"])

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises StageError in one line."""
        predictor = self.predictor()
        return TaggingStage(predictor.tag, predictor.num_parameters)

    def predictor(self) -> HIndexPredictor:
        """The model with its tokenizer and images. Raises StageError as ``load`` does."""
        with named_errors(STAGE):
            predictor = self._published() if self._foreign() else self._trained()
        predictor.model.to(best_device())
        return predictor

    def _foreign(self) -> bool:
        """Whether the checkpoint is one of the authors."""
        return self.bart is not None or self.checkpoint.is_file()

    def _published(self) -> HIndexPredictor:
        if self.bart is None or self.regions is None:
            raise UserError(f"{self.checkpoint} has neither tokenizer nor regions; set `bart` and `regions`")
        model = load_published(self.checkpoint, as_published=bool(self.as_published))
        regions = RegionFolder(self.regions, MAX_REGIONS, model.sizes.region)
        most = model.sizes.positions
        return HIndexPredictor(model, load_tokenizer(self.bart), regions, PUBLISHED_TYPES, self.batch_size, most)

    def _trained(self) -> HIndexPredictor:
        metadata = self._metadata()
        settings = metadata.settings
        doubtful = settings["as_published"] if self.as_published is None else self.as_published
        model = load(self.checkpoint, doubtful)
        folder = next(iter(_folders(settings["regions"])), None) if self.regions is None else self.regions
        regions = RegionFolder(
            folder, settings["boxes"] if folder is not None else 1, model.sizes.region, settings["normalise"]
        )
        tokenizer = load_tokenizer(self.checkpoint)
        return HIndexPredictor(model, tokenizer, regions, metadata.types, self.batch_size, settings["max_tokens"])

    def _metadata(self):
        return read_metadata(self.checkpoint, STAGE, TYPE_NAME, self.types, HIndexTraining)


def _folders(regions: object) -> tuple[Path, ...]:
    """The folder that a training's settings name, if any."""
    return () if regions is None else (Path(str(regions)),)


# Its training


@dataclass(frozen=True)
class HIndexExample:
    """A post, its picture's features (boxes, width), the sequence to be written, and the shares of its regions."""

    source: TokenizedPost
    features: torch.Tensor
    indices: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]


@TrainableStage.register_subclass(TYPE_NAME)
@dataclass
class HIndexTraining(TrainableStage):
    """How the tagger is trained.

    ``bart`` is a BART, a hub id or a folder, or ``tiny``: a small one, untrained. ``regions`` is the folder of the
    pictures' regions, of which ``boxes`` are seen, all held in memory; null for text alone. ``normalise`` brings a
    picture's features to length 1. ``renamed_variants``: how many more variants each text has with its mentions under
    made-up names, for a model that knows no language yet. ``max_tokens`` of a post are read. ``overlap`` learns which
    boxes overlap the gold ones, not how much each does (the original without ``--use_kl``). ``as_published`` trains a
    model that is used so.
    """

    bart: str
    regions: Path | None = None
    revision: str | None = None
    boxes: Annotated[int, Bounds(1, 10_000)] = MAX_REGIONS
    normalise: bool = True
    renamed_variants: NonNegativeInt = 0
    max_tokens: Annotated[int, Bounds(3, 100_000)] = 256
    overlap: bool = False
    as_published: bool = False

    def prepare(self, data: StageData) -> Trainable:
        """The model, BART's layers as they are and its own untrained, and its rows, one a post.

        Raises UserError for a BART that cannot be loaded or reads fewer tokens, and where no picture has regions.
        """
        width = self._width(data)
        model, tokenizer = self._model(data, width)
        if self.max_tokens > model.sizes.positions:
            raise UserError(f"stage.max_tokens: {self.max_tokens}; the BART reads {model.sizes.positions}")
        regions = RegionFolder(self.regions, self._seen(), width, self.normalise)
        predictor = HIndexPredictor(model, tokenizer, regions, data.types, 32, self.max_tokens)
        rows = MultiVariantDataset(_rows(data, predictor, self.renamed_variants), "draw", data.seed)

        def store(folder: Path) -> None:
            save(model, folder)
            tokenizer.save_pretrained(folder)

        return Trainable(
            model=model,
            train=rows,
            lengths=rows.lengths(lambda row: len(row.source.ids)),
            collate=lambda batch: collate(batch, regions.max_regions),
            evaluate=lambda samples: hindex_metrics(samples, predictor),
            save=store,
        )

    def _seen(self) -> int:
        """How many regions the model sees; without regions, one that is padding."""
        return self.boxes if self.regions is not None else 1

    def _width(self, data: StageData) -> int:
        """The width of the regions' features, of the first picture that has some."""
        if self.regions is None:
            return 1
        paths = (region_file(self.regions, sample.image) for sample in data.train)
        path = next((path for path in paths if path is not None), None)
        if path is None:
            raise UserError(
                f"{self.regions}: no file of regions for any of the pictures; they are called <picture>.npz"
            )
        return read_regions(path).features.shape[1]

    def _model(self, data: StageData, width: int) -> tuple[HIndex, PreTrainedTokenizerFast]:
        labels = [*("which region", "no region"), *(_WORDS.get(kind, kind.lower()) for kind in data.types)]
        if self.bart == TINY:
            tokenizer = tiny_bart_tokenizer(sample.text for sample in data.train)
            size = {"width": 128, "layers": 2, "heads": 4, "ffn": 256, "positions": 512}
            sizes = Sizes(len(tokenizer) + len(labels), len(labels), region=width, **size)
            model = HIndex(sizes, len(tokenizer), self.as_published, self.overlap)
            torch.nn.init.normal_(model.table.weight, std=_TINY_STD)
            return model, tokenizer
        bart, tokenizer = _bart(self.bart, self.revision)
        config = bart.config
        sizes = Sizes(
            rows=config.vocab_size + len(labels),
            labels=len(labels),
            width=config.d_model,
            layers=config.encoder_layers,
            heads=config.encoder_attention_heads,
            ffn=config.encoder_ffn_dim,
            positions=config.max_position_embeddings,
            region=width,
        )
        model = HIndex(sizes, config.vocab_size, self.as_published, self.overlap)
        start_from_bart(model, bart.state_dict(), Path(self.bart))
        ids = {
            config.vocab_size + row: tokenizer(name, add_special_tokens=False).input_ids
            for row, name in enumerate(labels)
        }
        init_label_embeddings(model.table, ids, self.as_published)
        return model, tokenizer


def _bart(name: str, revision: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A BART by hub id or folder. Raises UserError where it is none."""
    source = resolve_model_path(name)
    try:
        bart = AutoModel.from_pretrained(source, revision=revision, use_safetensors=True, dtype="float32")
    except (OSError, ValueError) as error:
        raise UserError(f"stage.bart: {name}: {one_line(error)}") from None
    if bart.config.model_type != "bart":
        raise UserError(f"stage.bart: {name} is a {bart.config.model_type}, no BART")
    return bart, load_tokenizer(source, revision)


def _rows(data: StageData, predictor: HIndexPredictor, renamed_variants: int) -> list[list[HIndexExample]]:
    """A row a post, and its variants. Prints how many pictures have no regions, how many entities' boxes none of them
    overlaps, and what is cut."""
    rows, lost, uncovered, cut = [], [], [], []
    words, rng = name_words(data.train), random.Random(data.seed)
    for sample in data.train:
        regions, there = predictor.regions.of(sample.image)
        wanted = [_wanted(sample, own, regions.boxes, predictor.types) for own in sample.entities]
        pairs = zip(sample.entities, wanted, strict=True)
        uncovered += [sample.id] if any(gold.boxes and not own.shares for gold, own in pairs) else []
        lost += [] if there else [sample.id]
        texts = [sample.tokens, *(renamed_tokens(sample, words, rng) for _ in range(renamed_variants))]
        variants = [predictor.tokenize(dataclasses.replace(sample, tokens=text)) for text in texts]
        cut += [sample.id] if len(variants[0].first) < len(sample.tokens) else []
        features = torch.from_numpy(regions.features)
        rows.append([_row(post, wanted, features, predictor.model.sizes.words) for post in variants])
    for ids, what in ((lost, "have no regions"), (uncovered, "have an entity that no region overlaps by half")):
        if ids:
            print(f"{len(ids)} of {len(rows)} posts {what}, such as {ids[0]}")
    if cut:
        print(f"{len(cut)} of {len(rows)} posts do not fit into {predictor.max_tokens} tokens, such as {cut[0]}")
    return rows


def _row(post: TokenizedPost, wanted: Sequence[TargetEntity], features: torch.Tensor, words: int) -> HIndexExample:
    indices, found = target_sequence(post, sorted(wanted, key=lambda own: own.start), words)
    return HIndexExample(post, features, tuple(indices), tuple(found))


def _wanted(sample: Sample, entity: Entity, boxes: np.ndarray, types: Sequence[str]) -> TargetEntity:
    own = overlap_shares(boxes, [(box.xmin, box.ymin, box.xmax, box.ymax) for box in entity.boxes])
    return TargetEntity(*_span(sample, entity), NO_REGION + 1 + types.index(entity.type), own)


def _span(sample: Sample, entity: Entity) -> tuple[int, int]:
    if entity.span is None:
        raise UserError(f"post {sample.id!r}: entity {entity.text!r} has no span within the post's tokens")
    return entity.span


def collate(rows: Sequence[HIndexExample], boxes: int) -> dict[str, torch.Tensor]:
    """The arguments of ``HIndex.forward`` by name."""
    every = [own for row in rows for own in row.shares]
    return {
        "ids": pad_posts([row.source for row in rows]),
        "features": torch.stack([row.features for row in rows]),
        "indices": pad_sequences([row.indices for row in rows]),
        "shares": torch.tensor(every) if every else torch.zeros(0, boxes),
    }


def hindex_metrics(samples: Sequence[Sample], predictor: HIndexPredictor) -> dict[str, float]:
    """F1 of mention and type, and of mention, type and region; the latter also of the posts' own subsets."""
    predicted = [
        Prediction(one.id, entities=own) for one, (own, _) in zip(samples, predictor.tag(samples), strict=True)
    ]
    scores = evaluate(samples, predicted)["strict"]
    found = {"span_f1": scores["all"]["MNER"]["f1"], "gmner_f1": scores["all"]["GMNER"]["f1"]}
    for subset in subset_names(samples):
        found |= {
            f"{name}_{subset}": scores[subset][task]["f1"]
            for name, task in (("span_f1", "MNER"), ("gmner_f1", "GMNER"))
        }
    return found
