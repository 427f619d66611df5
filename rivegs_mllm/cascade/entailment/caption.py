"""The entailment ``caption``: text alone, the picture's caption against the referring expression in a cross-encoder.

The text of a captioner such as mPLUG-Owl stands for the picture. A post without a caption cannot be scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.checkpoint import WEIGHTS, StageMetadata, read_metadata
from rivegs_mllm.cascade.entailment.base import (
    DecisionRule,
    Entailment,
    entailment_metrics,
    query_texts,
    with_decisions,
    with_nothing_visible,
)
from rivegs_mllm.cascade.entailment.scorer import with_bce_loss
from rivegs_mllm.cascade.expressions import ExpressionVariants
from rivegs_mllm.cascade.referring import all_parts, check_parts, slots_required_by
from rivegs_mllm.cascade.rows import EntailmentRow, entailment_rows
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Dropout, PositiveFloat, TokenCount
from rivegs_mllm.models.device import best_device, count_parameters, device_of
from rivegs_mllm.models.plain_text import truncate_words
from rivegs_mllm.models.text_encoders import bare_encoder, load_encoder, load_tokenizer
from rivegs_mllm.published.weights import save_weights
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.training.dataset.sampling import MultiVariantDataset
from rivegs_mllm.types import Prediction, Sample, UserError

STAGE = "entailment (caption)"
BATCH_SIZE = 64
"""Pairs in a batch."""


class CrossEncoder(nn.Module):
    """An encoder over ``caption [SEP] expression``, and a linear layer over the mean of its tokens."""

    def __init__(self, encoder: PreTrainedModel, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, 1)

    def forward(
        self, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """``inputs`` is the tokenizer's, (pairs, tokens); ``labels`` (pairs,) of 0 and 1. Gives what
        ``with_bce_loss`` does."""
        hidden = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return with_bce_loss(self.head(self.dropout(mean)).squeeze(-1), labels)


@dataclass(frozen=True)
class CaptionPair:
    """The encoder's input of a caption and an expression, lists with a value for each token, and its label."""

    inputs: dict[str, list[int]]
    visible: bool = False


@dataclass(frozen=True)
class CaptionScorer:
    """A cross-encoder with its tokenizer, which reads at most ``max_length`` tokens of caption and expression."""

    model: CrossEncoder
    tokenizer: PreTrainedTokenizerFast
    max_length: int

    def __post_init__(self) -> None:
        least = self.tokenizer.num_special_tokens_to_add(pair=True) + 2
        if not least <= self.max_length <= self.tokenizer.model_max_length:
            raise StageError(
                f"{STAGE}: max_length is {self.max_length}, but this encoder reads {least} to "
                f"{self.tokenizer.model_max_length} tokens; change max_length, or choose another encoder"
            )

    def pair(self, caption: str, text: str) -> tuple[CaptionPair, str]:
        """The tokens of a caption and an expression, and a note on what did not fit, "" if all did.

        The caption is cut first, at a word's end.
        """
        special = self.tokenizer.num_special_tokens_to_add(pair=False)
        between = self.tokenizer.num_special_tokens_to_add(pair=True)
        of_caption = min(1, len(self.tokenizer(caption, add_special_tokens=False).input_ids))  # at least a token
        short = truncate_words(self.tokenizer, text, self.max_length - between - of_caption + special)
        length = len(self.tokenizer(short, add_special_tokens=False).input_ids)
        beginning = truncate_words(self.tokenizer, caption, self.max_length - between - length + special)
        left_out = len(caption) - len(beginning) + len(text) - len(short)
        note = f"caption and {text!r} are longer than {self.max_length} tokens: {left_out} letters cut off"
        return CaptionPair(dict(self.tokenizer(beginning, short))), note if left_out else ""

    def batch(self, pairs: Sequence[CaptionPair]) -> dict[str, torch.Tensor]:
        """The ``inputs`` of the model, padded: each (pairs, longest)."""
        return dict(self.tokenizer.pad([pair.inputs for pair in pairs], return_tensors="pt"))

    @torch.inference_mode()
    def logits(self, pairs: Sequence[CaptionPair]) -> list[float]:
        """The logit of yes against no for each pair, in batches of similar length."""
        logits = [0.0] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].inputs["input_ids"]))
        for indices in batches(order, BATCH_SIZE):
            inputs = send_to_device(self.batch([pairs[index] for index in indices]), device_of(self.model))
            for index, logit in zip(indices, self.model(inputs)["logits"].float().tolist(), strict=True):
                logits[index] = logit
        return logits


class CaptionStage:
    """Fills ``visible`` and ``visible_score``. ``query_fields``: parts of the referring expression."""

    def __init__(self, reader: CaptionScorer, captions: Captions, query_fields: Sequence[str], decision: DecisionRule):
        self.reader = reader
        self.captions = captions
        self.query_fields = tuple(query_fields)
        self.decision = decision
        self.num_parameters = count_parameters(reader.model)

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        filled, asked = list(partials), []
        for index, (sample, partial) in enumerate(zip(samples, partials, strict=True)):
            if not partial.entities:
                continue
            caption = self.captions.of(sample)
            if caption:
                asked.append((index, *self._pairs(caption, partial)))
            else:
                filled[index] = with_nothing_visible(partial, f"{STAGE}: no caption of the post's picture")
        logits = iter(self.reader.logits([pair for _, pairs, _ in asked for pair in pairs]))
        for index, pairs, notes in asked:
            own = [next(logits) for _ in pairs]
            filled[index] = with_decisions(filled[index], self.decision, own, notes)
        return filled

    def _pairs(self, caption: str, partial: Prediction) -> tuple[list[CaptionPair], list[str]]:
        """A pair for each entity, and what is to be noted."""
        texts, notes = query_texts(partial.entities, self.query_fields)
        pairs, cut = zip(*(self.reader.pair(caption, text) for text in texts), strict=True)
        return list(pairs), [f"{STAGE}: {note}" for note in (*notes, *filter(None, cut))]


@Entailment.register_subclass("caption")
@dataclass
class CaptionEntailment(Entailment):
    """A trained cross-encoder. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``captions`` are what ``rivegs_mllm.store.captions.Captions`` reads: stores and files, the earlier first.
    ``query_fields`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    captions: list[Path]
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
        settings = self._metadata().settings
        try:
            model = CrossEncoder(bare_encoder(self.checkpoint), settings["dropout"])
            model.load_state_dict(load_file(self.checkpoint / WEIGHTS))
            tokenizer = load_tokenizer(self.checkpoint)
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise StageError(f"{STAGE}: {self.checkpoint} is damaged: {error}; train the stage again") from None
        reader = CaptionScorer(model.to(best_device()).eval(), tokenizer, settings["max_length"])
        return CaptionStage(reader, Captions(self.captions), self._parts(), self.decision)

    def _metadata(self) -> StageMetadata:
        return read_metadata(self.checkpoint, STAGE, "caption", self.types, CaptionTraining)

    def _parts(self) -> Sequence[str]:
        return self.query_fields or self._metadata().settings["query_fields"]


# Its training


@TrainableStage.register_subclass("caption")
@dataclass
class CaptionTraining(TrainableStage):
    """How the cross-encoder is trained: one row an entity of a post with a caption.

    ``encoder`` is what ``rivegs_mllm.models.text_encoders.load_encoder`` takes, ``captions`` what
    ``rivegs_mllm.store.captions.Captions`` reads, those of all splits. ``query_fields`` is the parts of the referring
    expression. ``head_learning_rate`` is the learning rate of the linear layer, null for that of the encoder.
    """

    encoder: str
    captions: list[Path]
    revision: str | None = None
    query_fields: list[str] = field(default_factory=all_parts)
    expressions: ExpressionVariants = field(default_factory=ExpressionVariants)
    max_length: TokenCount = 256
    head_learning_rate: PositiveFloat | None = None
    dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        self.expressions.check(self.query_fields)

    def prepare(self, data: StageData) -> Trainable:
        """The cross-encoder, its head untrained, and its rows."""
        captions = Captions(self.captions)
        by_post = {sample.id: captions.of(sample) for sample in data.train}
        views = self._captioned(data, by_post)
        entities = self.expressions.variants(views, self.query_fields)
        texts = [list(dict.fromkeys(query_texts(own, self.query_fields)[0])) for own in entities]
        corpus = [*(text for own in texts for text in own), *by_post.values()]
        encoder, tokenizer = load_encoder(self.encoder, self.revision, corpus)
        reader = CaptionScorer(CrossEncoder(encoder, self.dropout), tokenizer, self.max_length)
        rows = MultiVariantDataset(_pairs(views, texts, by_post, reader), self.expressions.strategy, data.seed)
        stage = CaptionStage(reader, captions, self.query_fields, DecisionRule())

        def collate(pairs: Sequence[CaptionPair]) -> dict:
            labels = torch.tensor([pair.visible for pair in pairs], dtype=torch.float32)
            return {"inputs": reader.batch(pairs), "labels": labels}

        def save(folder: Path) -> None:
            encoder.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            save_weights(reader.model, folder / WEIGHTS)

        return Trainable(
            model=reader.model,
            train=rows,
            lengths=rows.lengths(lambda pair: len(pair.inputs["input_ids"])),
            collate=collate,
            evaluate=lambda samples: entailment_metrics(stage, self.expressions.first(samples)),
            save=save,
            rates={} if self.head_learning_rate is None else {"head.": self.head_learning_rate},
        )

    def _captioned(self, data: StageData, captions: Mapping[str, str]) -> list[EntailmentRow]:
        """The entities of posts with a caption. Prints how many others there are."""
        views = entailment_rows(data.train)
        captioned = [view for view in views if captions[view.id]]
        if len({view.visible for view in captioned}) < 2:
            raise UserError(
                f"{data.folder}: of {len(captioned)} entities of posts with a caption all or none are visible, so "
                "there is nothing to classify; `captions` must know the posts' ids, and the data have regions"
            )
        if len(captioned) < len(views):
            print(f"{STAGE}: {len(views) - len(captioned)} of {len(views)} entities are of posts without caption")
        return captioned


def _pairs(
    views: Sequence[EntailmentRow], texts: Sequence[Sequence[str]], captions: Mapping[str, str], reader: CaptionScorer
) -> list[list[CaptionPair]]:
    """A pair for each text of an entity. Prints what is cut."""
    read = [[reader.pair(captions[view.id], text) for text in own] for view, own in zip(views, texts, strict=True)]
    cut = [note for own in read for _, note in own if note]
    if cut:
        print(f"{STAGE}: {len(cut)} of {sum(map(len, read))} pairs do not fit, the first: {cut[0]}")
    return [
        [dataclasses.replace(pair, visible=view.visible) for pair, _ in own]
        for view, own in zip(views, read, strict=True)
    ]
