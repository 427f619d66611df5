"""The tagger ``crf``: an encoder over ``[text ; knowledge]`` and a conditional random field over the text's words.

PLIM / RiVEG's first stage: loss and decoding are on the text's words alone, each at its first token.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from eval.scores import evaluate
from eval.stage_metrics import subset_names
from rivegs_mllm.cascade.checkpoint import WEIGHTS, StageMetadata, load_weights, read_metadata
from rivegs_mllm.cascade.rows import OUTSIDE, bio_tags
from rivegs_mllm.cascade.tagging.base import Tagged, Tagger
from rivegs_mllm.cascade.tagging.windows import EMPTY_WORDS, WordEncoder
from rivegs_mllm.cascade.training import StageData, Trainable, TrainableStage
from rivegs_mllm.config.bounds import BatchSize, Dropout, NonNegativeInt, OneOf, PositiveFloat, TokenCount
from rivegs_mllm.models.device import best_device, count_parameters, device_of
from rivegs_mllm.models.text_encoders import bare_encoder, load_encoder, load_tokenizer, marks
from rivegs_mllm.published.weights import save_weights
from rivegs_mllm.training.dataset.name_augmentation import name_words, rename, replacement_names
from rivegs_mllm.training.dataset.sampling import VARIANT_STRATEGIES, MultiVariantDataset
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

STAGE = "tagger (crf)"
FORBIDDEN_SCORE = -10_000.0  # finite: the CRF's log-sum-exp over infinities has no gradient
NO_KNOWLEDGE = "none"


def bio_labels(types: Sequence[str]) -> list[str]:
    """The BIO tags of a type set, in the order of the field's states."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


class WordTagger(nn.Module):
    """Encoder, a linear layer, and the field, in which I-X follows B-X and I-X only."""

    def __init__(self, encoder: PreTrainedModel, types: Sequence[str], dropout: float):
        from torchcrf import CRF  # of the extra `cascade`

        super().__init__()
        tags = bio_labels(types)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, len(tags))
        self.crf = CRF(len(tags), batch_first=True)
        with torch.no_grad():
            for after, tag in enumerate(tags):
                if tag.startswith("I-"):
                    self.crf.start_transitions[after] = FORBIDDEN_SCORE
                    for before, last in enumerate(tags):
                        if last[2:] != tag[2:]:
                            self.crf.transitions[before, after] = FORBIDDEN_SCORE

    def forward(
        self, inputs: Mapping[str, torch.Tensor], words: torch.Tensor, tags: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The loss: negative log-likelihood of the tags, a mean over windows.

        ``inputs`` is the encoder's, (windows, tokens); ``words`` the place of each word's first token and ``tags``
        its tag, (windows, words), -1 after the last word.
        """
        scores, mask = self._emissions(inputs, words)
        return {"loss": -self.crf(scores, tags.clamp(min=0), mask, reduction="mean")}

    def decode(self, inputs: Mapping[str, torch.Tensor], words: torch.Tensor) -> list[list[int]]:
        """The likeliest tags of each window's words; arguments as of ``forward``."""
        return self.crf.decode(*self._emissions(inputs, words))

    def _emissions(self, inputs: Mapping[str, torch.Tensor], words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The score of each tag, (windows, words, tags), in float32, and which words there are, (windows, words)."""
        hidden = self.encoder(**inputs).last_hidden_state
        indices = words.clamp(min=0).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return self.head(self.dropout(hidden.gather(1, indices))).float(), words >= 0


@dataclass(frozen=True)
class CrfPredictor:
    """A trained or untrained tagger with the encoder of its input."""

    model: WordTagger
    encoder: WordEncoder
    types: tuple[str, ...]
    batch_size: int

    def tag(self, posts: Sequence[Sample], knowledge: Sequence[str]) -> list[Tagged]:
        """The entities of each post, in the order of the text, and notes on what did not fit."""
        read = [self.encoder.windows(post.id, post.tokens, text) for post, text in zip(posts, knowledge, strict=True)]
        rows = [(index, window) for index, (windows, _) in enumerate(read) for window in windows]
        rows.sort(key=lambda row: row[1].tokens)  # little padding in a batch
        tags = [[OUTSIDE] * len(post.tokens) for post in posts]
        names = bio_labels(self.types)
        device = device_of(self.model)
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            batch = collate([{"window": window} for _, window in some], self.encoder.tokenizer)
            inputs = {key: value.to(device) for key, value in batch["inputs"].items()}
            with torch.no_grad():
                found = self.model.decode(inputs, batch["words"].to(device))
            for (index, window), states in zip(some, found, strict=True):
                tags[index][window.start : window.start + len(states)] = [names[state] for state in states]
        return [
            (tuple(entities(post.tokens, own)), tuple(notes))
            for post, own, (_, notes) in zip(posts, tags, read, strict=True)
        ]


def entities(tokens: Sequence[str], tags: Sequence[str]) -> Iterator[Entity]:
    """The entities that BIO tags mark. An I- tag that continues nothing of its type, as where a text was split into
    windows, begins an entity."""
    start, kind = 0, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        if kind and tag != f"I-{kind}":
            yield Entity(" ".join(tokens[start:index]), kind, (start, index))
            kind = ""
        if not kind and tag != OUTSIDE:
            start, kind = index, tag[2:]


def collate(rows: Sequence[Mapping], tokenizer: PreTrainedTokenizerFast) -> dict:
    """Windows as a batch for ``WordTagger``; rows have a ``window`` and, to train, the ``tags`` of its words."""
    inputs = tokenizer.pad([row["window"].inputs for row in rows], return_tensors="pt")
    batch = {"inputs": dict(inputs), "words": _padded([row["window"].first for row in rows])}
    if "tags" in rows[0]:
        batch["tags"] = _padded([row["tags"] for row in rows])
    return batch


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-1)


# The stage of a cascade


@Tagger.register_subclass("crf")
@dataclass
class CrfTagger(Tagger):
    """A trained tagger. ``checkpoint`` is the folder that ``rivegs train`` wrote, ``types`` what it must know."""

    checkpoint: Path
    types: list[str] | None = None
    batch_size: BatchSize = 32
    SEES_GOLD: ClassVar[bool] = False

    def requires(self) -> tuple[str, ...]:
        """The knowledge, where it was trained with knowledge."""
        metadata = read_metadata(self.checkpoint, STAGE, "crf", self.types, CrfTraining)
        return ("knowledge",) if _reads_knowledge(metadata) else ()

    def load(self, folder: Path) -> CrfStage:
        """The stage, on the GPU where there is one."""
        return CrfStage(*load_predictor(self.checkpoint, self.types, self.batch_size))


class CrfStage:
    """Fills ``entities``. A tagger that was trained with knowledge reads it from the partial predictions."""

    def __init__(self, predictor: CrfPredictor, reads_knowledge: bool):
        self.predictor = predictor
        self.reads_knowledge = reads_knowledge
        self.num_parameters = count_parameters(predictor.model)

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        if not samples:
            return []
        knowledge = [partial.knowledge if self.reads_knowledge else "" for partial in partials]
        filled = []
        for partial, (found, notes) in zip(partials, self.predictor.tag(samples, knowledge), strict=True):
            if self.reads_knowledge and not partial.knowledge:
                notes = (f"{STAGE}: was trained with knowledge, but none is given", *notes)
            filled.append(dataclasses.replace(partial, entities=found, errors=partial.errors + notes))
        return filled


def load_predictor(folder: Path, types: Sequence[str], batch_size: int) -> tuple[CrfPredictor, bool]:
    """A trained tagger, and whether it reads knowledge. Raises StageError for a folder that is incomplete."""
    metadata = read_metadata(folder, STAGE, "crf", types, CrfTraining)
    settings = metadata.settings
    model = WordTagger(bare_encoder(folder), metadata.types, settings["dropout"])
    load_weights(model, folder, STAGE)
    model.to(best_device()).eval()
    encoder = WordEncoder(
        load_tokenizer(folder), settings["max_length"], settings["on_empty_token"], STAGE, marks(model.encoder)
    )
    return CrfPredictor(model, encoder, metadata.types, batch_size), _reads_knowledge(metadata)


def _reads_knowledge(metadata: StageMetadata) -> bool:
    return metadata.settings["knowledge"] != NO_KNOWLEDGE


# Its training


@TrainableStage.register_subclass("crf")
@dataclass
class CrfTraining(TrainableStage):
    """How the tagger is trained.

    ``encoder`` is what ``rivegs_mllm.models.text_encoders.load_encoder`` takes. ``knowledge``: "none", or which of a
    post's texts is read: "draw" one an epoch, "copies" of the post for each, "first". Dev is always read with the
    first. ``renamed_variants``: how many more variants each text has with its mentions under made-up names
    (``rivegs_mllm.training.dataset.name_augmentation``), for an encoder that knows no language yet.
    ``head_learning_rate`` is the learning rate of the linear layer and the field, null for that of the encoder.
    ``max_length`` and ``on_empty_token`` are those of ``rivegs_mllm.cascade.tagging.windows.WordEncoder``.
    """

    encoder: str
    revision: str | None = None
    knowledge: str = "draw"
    renamed_variants: NonNegativeInt = 0
    max_length: TokenCount = 256
    on_empty_token: Annotated[str, OneOf(EMPTY_WORDS)] = "error"
    head_learning_rate: PositiveFloat | None = None
    dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        if self.knowledge not in (NO_KNOWLEDGE, *VARIANT_STRATEGIES):
            known = ", ".join((NO_KNOWLEDGE, *VARIANT_STRATEGIES))
            raise UserError(f"stage.knowledge: {self.knowledge!r} is none of {known}")

    def prepare(self, data: StageData) -> Trainable:
        """The tagger, untrained, and its rows: windows of posts with their tags, one variant a knowledge text.

        Raises UserError where it is to be trained with knowledge and no post has any.
        """
        if self.knowledge != NO_KNOWLEDGE and not any(sample.knowledge for sample in data.train):
            raise UserError(f"{data.folder}: no post has knowledge; set `stage.knowledge: none`, or build it with some")
        corpus = (text for sample in data.train for text in (sample.text, *self._texts(sample)))
        model, tokenizer = load_encoder(self.encoder, self.revision, corpus)
        encoder = WordEncoder(tokenizer, self.max_length, self.on_empty_token, STAGE, marks(model))
        tagger = WordTagger(model, data.types, self.dropout)
        rows = MultiVariantDataset(
            self._rows(data, encoder), "copies" if self.knowledge == "copies" else "draw", data.seed
        )
        predictor = CrfPredictor(tagger, encoder, data.types, batch_size=64)

        def figures(samples: Sequence[Sample]) -> dict[str, float]:
            return span_metrics(samples, predictor.tag(samples, [self._texts(sample)[0] for sample in samples]))

        def save(folder: Path) -> None:
            save_tagger(tagger, tokenizer, folder)

        return Trainable(
            model=tagger,
            train=rows,
            lengths=rows.lengths(lambda row: row["window"].tokens),
            collate=lambda batch: collate(batch, tokenizer),
            evaluate=figures,
            save=save,
            rates={}
            if self.head_learning_rate is None
            else {"head.": self.head_learning_rate, "crf.": self.head_learning_rate},
        )

    def _texts(self, sample: Sample) -> tuple[str, ...]:
        """The knowledge texts that the post may be read with, at least one, which may be empty."""
        chosen = {NO_KNOWLEDGE: (), "first": sample.knowledge[:1]}
        return chosen.get(self.knowledge, sample.knowledge) or ("",)

    def _rows(self, data: StageData, encoder: WordEncoder) -> list[list[dict]]:
        """A row a window of a post, and its variants. Prints what did not fit into the encoder."""
        rows, unfit, names = [], [], bio_labels(data.types)
        words, rng = name_words(data.train), random.Random(data.seed)
        for sample in data.train:
            tags = [names.index(tag) for tag in bio_tags(sample)]
            mentions = [entity.text for entity in sample.entities]
            texts = [(sample.tokens, text) for text in self._texts(sample)]
            texts += [_renamed(*text, mentions, words, rng) for text in texts for _ in range(self.renamed_variants)]
            read = [encoder.windows(sample.id, *text) for text in texts]
            notes = dict.fromkeys(note for _, own in read for note in own)
            unfit += [f"  {sample.id}: " + "; ".join(notes)] if notes else []
            # A variant that is split into another number of windows has none to put beside each of the first one's.
            alike = [windows for windows, _ in read if len(windows) == len(read[0][0])]
            for own in zip(*alike, strict=True):
                rows.append([{"window": part, "tags": tags[part.start :][: len(part.first)]} for part in own])
        if unfit:
            shown = "\n".join(unfit[:10])
            print(f"{len(unfit)} of {len(data.train)} posts do not fit into {encoder.max_length} tokens:\n{shown}")
        return rows


def _renamed(
    tokens: Sequence[str], knowledge: str, mentions: Sequence[str], words: Sequence[str], rng: random.Random
) -> tuple[tuple[str, ...], str]:
    new = replacement_names(mentions, words, rng)
    return tuple(rename(token, new) for token in tokens), rename(knowledge, new)


def span_metrics(samples: Sequence[Sample], found: Sequence[Tagged]) -> dict[str, float]:
    """Precision, recall and F1 of mention and type; F1 also of the posts' own subsets, as ``span_f1_unseen``."""
    predictions = [Prediction(sample.id, entities=own) for sample, (own, _) in zip(samples, found, strict=True)]
    scores = evaluate(samples, predictions)["strict"]
    figures = {f"span_{name}": scores["all"]["MNER"][name] for name in ("f1", "precision", "recall")}
    for subset in subset_names(samples):
        figures[f"span_f1_{subset}"] = scores[subset]["MNER"]["f1"]
    return figures


def save_tagger(tagger: WordTagger, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes what ``load_predictor`` reads, but for the metadata: the encoder's config, its tokenizer and all
    weights."""
    tagger.encoder.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_weights(tagger, folder / WEIGHTS)
