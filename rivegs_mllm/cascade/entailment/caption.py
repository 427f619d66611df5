"""The entailment ``caption``: text alone, the picture's caption against the referring expression in a cross-encoder.

What a captioner such as mPLUG-Owl says of the picture stands for the picture. A post without caption cannot be judged.
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
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.checkpoint import Card, read_card
from rivegs_mllm.cascade.entailment.base import (
    Decision,
    Entailment,
    entailment_figures,
    referred,
    with_decisions,
    with_nothing_visible,
)
from rivegs_mllm.cascade.entailment.scorer import device_of, outcome
from rivegs_mllm.cascade.expressions import Wordings
from rivegs_mllm.cascade.referring import all_parts, check_parts, needed
from rivegs_mllm.cascade.rows import EntailmentRow, entailment_view
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import Dropout, PositiveFloat, TokenCount
from rivegs_mllm.data.batching import batches
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.plain_text import shorten
from rivegs_mllm.models.text_encoders import bare_encoder, load_encoder, load_tokenizer
from rivegs_mllm.store.captions import Captions
from rivegs_mllm.training.sampling import MultiVariantDataset
from rivegs_mllm.types import TYPES, Prediction, Sample, UserError

STAGE = "entailment (caption)"
WEIGHTS = "model.safetensors"
AT_ONCE = 64
"""How many pairs are read together."""


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
        """``inputs`` is the tokenizer's, (pairs, tokens); ``labels`` (pairs,) of 0 and 1. Gives the ``outcome``."""
        hidden = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return outcome(self.head(self.dropout(mean)).squeeze(-1), labels)


@dataclass(frozen=True)
class Pair:
    """What the encoder reads of a caption and an expression, a list of one value a token each, and its label."""

    inputs: dict[str, list[int]]
    visible: bool = False


@dataclass(frozen=True)
class CaptionReader:
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

    def pair(self, caption: str, text: str) -> tuple[Pair, str]:
        """What is read of a caption and an expression, and in words what of the two did not fit, "" if all did.

        The caption is cut first, behind a word.
        """
        special = self.tokenizer.num_special_tokens_to_add(pair=False)
        between = self.tokenizer.num_special_tokens_to_add(pair=True)
        of_caption = min(1, len(self.tokenizer(caption, add_special_tokens=False).input_ids))
        short = shorten(self.tokenizer, text, self.max_length - between - of_caption + special)
        length = len(self.tokenizer(short, add_special_tokens=False).input_ids)
        beginning = shorten(self.tokenizer, caption, self.max_length - between - length + special)
        left_out = len(caption) - len(beginning) + len(text) - len(short)
        note = f"caption and {text!r} are longer than {self.max_length} tokens: {left_out} letters cut off"
        return Pair(dict(self.tokenizer(beginning, short))), note if left_out else ""

    def batch(self, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """The ``inputs`` of the model, padded."""
        return dict(self.tokenizer.pad([pair.inputs for pair in pairs], return_tensors="pt"))

    @torch.inference_mode()
    def logits(self, pairs: Sequence[Pair]) -> list[float]:
        """The logit of yes against no for each pair, those of like length read together."""
        logits = [0.0] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place].inputs["input_ids"]))
        for places in batches(order, AT_ONCE):
            inputs = send_to_device(self.batch([pairs[place] for place in places]), device_of(self.model))
            for place, logit in zip(places, self.model(inputs)["logits"].float().tolist(), strict=True):
                logits[place] = logit
        return logits


class CaptionStage:
    """Fills ``visible`` and ``visible_score``. ``refer``: parts of the referring expression."""

    def __init__(self, reader: CaptionReader, captions: Captions, refer: Sequence[str], decision: Decision):
        self.reader = reader
        self.captions = captions
        self.refer = tuple(refer)
        self.decision = decision
        self.parameters = sum(value.numel() for value in reader.model.parameters())

    def __call__(self, samples: Sequence[Sample], drafts: Sequence[Prediction]) -> list[Prediction]:
        filled, judged = list(drafts), []
        for place, (sample, draft) in enumerate(zip(samples, drafts, strict=True)):
            if not draft.entities:
                continue
            caption = self.captions.of(sample)
            if caption:
                judged.append((place, *self._pairs(caption, draft)))
            else:
                filled[place] = with_nothing_visible(draft, f"{STAGE}: no caption of the post's picture")
        logits = iter(self.reader.logits([pair for _, pairs, _ in judged for pair in pairs]))
        for place, pairs, notes in judged:
            own = [next(logits) for _ in pairs]
            filled[place] = with_decisions(filled[place], self.decision, own, notes)
        return filled

    def _pairs(self, caption: str, draft: Prediction) -> tuple[list[Pair], list[str]]:
        """A pair for each entity, and what is to be noted."""
        texts, notes = referred(draft.entities, self.refer)
        pairs, cut = zip(*(self.reader.pair(caption, text) for text in texts), strict=True)
        return list(pairs), [f"{STAGE}: {note}" for note in (*notes, *filter(None, cut))]


@Entailment.register_subclass("caption")
@dataclass
class CaptionEntailment(Entailment):
    """A trained cross-encoder. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know.

    ``captions`` are what ``rivegs_mllm.store.captions.Captions`` reads: stores and files, the earlier first.
    ``refer`` is the parts of the referring expression, null for those that it was trained with.
    """

    checkpoint: Path
    captions: list[Path]
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
        settings = self._card().settings
        try:
            model = CrossEncoder(bare_encoder(self.checkpoint), settings["dropout"])
            model.load_state_dict(load_file(self.checkpoint / WEIGHTS))
            tokenizer = load_tokenizer(self.checkpoint)
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise StageError(f"{STAGE}: {self.checkpoint} is damaged: {error}; train the stage again") from None
        reader = CaptionReader(model.to(best_device()).eval(), tokenizer, settings["max_length"])
        return CaptionStage(reader, Captions(self.captions), self._parts(), self.decision)

    def _card(self) -> Card:
        return read_card(self.checkpoint, STAGE, "caption", self.types, CaptionTraining)

    def _parts(self) -> Sequence[str]:
        return self.refer or self._card().settings["refer"]


# Its training


@TrainableStage.register_subclass("caption")
@dataclass
class CaptionTraining(TrainableStage):
    """How the cross-encoder is trained: one row an entity of a post with a caption.

    ``encoder`` is what ``rivegs_mllm.models.text_encoders.load_encoder`` takes, ``captions`` what
    ``rivegs_mllm.store.captions.Captions`` reads, those of all splits. ``refer`` is the parts of the referring
    expression. ``head_rate`` is the learning rate of the linear layer, null for that of the encoder.
    """

    encoder: str
    captions: list[Path]
    revision: str | None = None
    refer: list[str] = field(default_factory=all_parts)
    expressions: Wordings = field(default_factory=Wordings)
    max_length: TokenCount = 256
    head_rate: PositiveFloat | None = None
    dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        check_parts(self.refer)
        self.expressions.check(self.refer)

    def prepare(self, data: StageData) -> Trainable:
        """The cross-encoder, its head untrained, and its rows."""
        captions = Captions(self.captions)
        said = {sample.id: captions.of(sample) for sample in data.train}
        views = self._captioned(data, said)
        entities = self.expressions.variants(views, self.refer)
        texts = [list(dict.fromkeys(referred(own, self.refer)[0])) for own in entities]
        corpus = [*(text for own in texts for text in own), *said.values()]
        encoder, tokenizer = load_encoder(self.encoder, self.revision, corpus)
        reader = CaptionReader(CrossEncoder(encoder, self.dropout), tokenizer, self.max_length)
        rows = MultiVariantDataset(_pairs(views, texts, said, reader), self.expressions.how, data.seed)
        stage = CaptionStage(reader, captions, self.refer, Decision())

        def collate(pairs: Sequence[Pair]) -> dict:
            labels = torch.tensor([pair.visible for pair in pairs], dtype=torch.float32)
            return {"inputs": reader.batch(pairs), "labels": labels}

        def save(folder: Path) -> None:
            encoder.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            save_file({name: value.contiguous() for name, value in reader.model.state_dict().items()}, folder / WEIGHTS)

        return Trainable(
            model=reader.model,
            train=rows,
            lengths=rows.lengths(lambda pair: len(pair.inputs["input_ids"])),
            collate=collate,
            evaluate=lambda samples: entailment_figures(stage, self.expressions.first(samples)),
            save=save,
            rates={} if self.head_rate is None else {"head.": self.head_rate},
        )

    def _captioned(self, data: StageData, captions: Mapping[str, str]) -> list[EntailmentRow]:
        """The entities of posts with a caption. Prints how many others there are."""
        views = entailment_view(data.train)
        captioned = [view for view in views if captions[view.id]]
        if len({view.visible for view in captioned}) < 2:
            raise UserError(
                f"{data.folder}: of {len(captioned)} entities of posts with a caption all or none are visible, so "
                "there is nothing to tell apart; `captions` must know the posts' ids, and the data have regions"
            )
        if len(captioned) < len(views):
            print(f"{STAGE}: {len(views) - len(captioned)} of {len(views)} entities are of posts without caption")
        return captioned


def _pairs(
    views: Sequence[EntailmentRow], texts: Sequence[Sequence[str]], captions: Mapping[str, str], reader: CaptionReader
) -> list[list[Pair]]:
    """A pair for each text of an entity. Prints what is cut."""
    read = [[reader.pair(captions[view.id], text) for text in own] for view, own in zip(views, texts, strict=True)]
    cut = [note for own in read for _, note in own if note]
    if cut:
        print(f"{STAGE}: {len(cut)} of {sum(map(len, read))} pairs do not fit, the first: {cut[0]}")
    return [
        [dataclasses.replace(pair, visible=view.visible) for pair, _ in own]
        for view, own in zip(views, read, strict=True)
    ]
