"""Labelled samples as training rows, their batches with labels, and how long they are.

How prompts and answers are encoded and laid out in a batch is in ``rivegs_mllm.models.batching``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import ProcessorMixin

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.prompt import describe_types, messages
from rivegs_mllm.answer.serialization import AnswerLine, render
from rivegs_mllm.config.augmentation import Augmentation
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.models.batching import SampleEncoder, Tensors, batch, dummy_row, encode_prompt, ensure_picture
from rivegs_mllm.training.dataset.augmentation import augment_sample
from rivegs_mllm.training.dataset.name_augmentation import name_words
from rivegs_mllm.types import Sample, UserError

IGNORED = -100
"""The label of what is no target: by this value, cross_entropy's default, Trainer counts the targets of a step."""


class AnswerDataset(Dataset):
    """Labelled samples, each encoded when asked for: its picture is decoded and processed once a use, in a worker.

    ``set_epoch`` samples again what ``augmentation`` varies. Pictures are looked up from ``folder``.
    ``features`` are those of ``encode_pictures``: rows then have them instead of pixels, and prompts are cached.
    A row has the tensors of ``SampleEncoder.prompt`` and ``SampleEncoder.answer``, and its place among the samples as
    ``sample`` (1,). Raises UserError for a sample that cannot be written as an answer, or whose picture is missing or
    damaged.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        folder: Path,
        encoder: SampleEncoder,
        answer_format: AnswerFormat,
        instruction: str,
        augmentation: Augmentation,
        seed: int,
    ):
        self.samples = samples
        self.words = name_words(samples)
        self.folder = folder
        self.encoder = encoder
        self.answer_format = answer_format
        self.instruction = instruction
        self.augmentation = augmentation
        self.seed = seed
        self.features: dict[str, torch.Tensor] = {}
        self.prompts: dict[tuple, Tensors] = {}
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # for workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensors:
        sample = self.augment(self.samples[index])
        place = {"sample": torch.tensor([index])}
        return {**self.prompt(sample), **self.encoder.answer(self.pieces(sample)), **place}

    def prompt(self, sample: Sample) -> Tensors:
        """The prompt of a sample that ``augment`` returned, with features in place of pixels where there are some."""
        key = (sample.image, sample.tokens)
        if key in self.prompts:
            return self.prompts[key]
        prompt = encode_prompt(sample, self.folder, self.encoder, self.answer_format, self.instruction)
        if sample.image in self.features:
            del prompt["pixel_values"]
            prompt = self.prompts[key] = {**prompt, "image_features": self.features[sample.image]}
        return prompt

    def augment(self, sample: Sample) -> Sample:
        """The sample as it is trained with in this epoch."""
        return augment_sample(sample, self.augmentation, self.words, self.seed, int(self.epoch))

    def pieces(self, sample: Sample) -> tuple[AnswerLine, ...]:
        """The answer to a sample that ``augment`` returned. Raises UserError for one that an answer cannot express."""
        (knowledge,) = sample.knowledge or ("",)
        size = sample.size if sample.image else None
        try:
            return render(sample.tokens, knowledge, sample.entities, self.answer_format, size)
        except UserError as error:
            raise UserError(f"sample {sample.id}: {error}") from None


def dataset_of(
    recipe: Recipe, samples: Sequence[Sample], processor: ProcessorMixin, answer_format: AnswerFormat
) -> AnswerDataset:
    """The samples as a recipe trains with them; the model's weights are not needed."""
    return AnswerDataset(
        samples,
        recipe.data.folder,
        SampleEncoder(processor, recipe.answer.weights),
        answer_format,
        describe_types(recipe.answer.instruction, recipe.answer.types),
        recipe.augment,
        recipe.train.seed,
    )


class Collator:
    """Encoded rows as a batch for ``model.forward``, with ``labels`` and ``weights`` of the answer's columns.

    ``labels`` is (rows, 1 + longest answer): the tokens of the batch's last columns, IGNORED in the first of these,
    which is the prompt's last, and in the padding. With ``keep_vision`` a batch without any picture gets a blank one
    in a row of its own that no loss counts: under ZeRO-3 all processes must run the same modules, or all hang.
    """

    def __init__(self, encoder: SampleEncoder, keep_vision: bool):
        self.padding = encoder.tokenizer.pad_token_id
        self.blank = dummy_row(encoder) if keep_vision else None

    def __call__(self, rows: Sequence[Tensors]) -> Tensors:
        rows = ensure_picture(rows, self.blank)
        width = 1 + max(len(row["answer"]) for row in rows)
        labels = torch.full((len(rows), width), IGNORED)
        weights = torch.zeros(len(rows), width)
        for index, row in enumerate(rows):
            labels[index, 1 : 1 + len(row["answer"])] = row["answer"]
            weights[index, 1 : 1 + len(row["answer"])] = row["weights"]
        return {**batch(rows, self.padding), "labels": labels, "weights": weights}


def check_lengths(dataset: AnswerDataset, max_length: int) -> list[int]:
    """Tokens of each sample's prompt and answer in this epoch, pictures counted by their size and not opened.

    Raises UserError that lists every sample that has more than ``max_length`` in this epoch or in one that draws its
    longest knowledge: a model trained on truncated answers learns to stop early.
    """
    measured = [_lengths(dataset, sample) for sample in dataset.samples]
    lengths, longest = [own for own, _ in measured], [greatest for _, greatest in measured]
    long = [(sample.id, length) for sample, length in zip(dataset.samples, longest, strict=True) if length > max_length]
    if long:
        shown = "\n".join(f"  {identity}: {length} tokens" for identity, length in long[:20])
        more = f"\n  and {len(long) - 20} more" if len(long) > 20 else ""
        raise UserError(
            f"{len(long)} of {len(lengths)} samples are longer than max_length = {max_length} and would be truncated:\n"
            f"{shown}{more}\nRaise max_length, lower model.max_pixels, or take these samples out"
        )
    return lengths


def greatest_length(dataset: AnswerDataset, sample: Sample) -> int:
    """Tokens of a sample's prompt and answer with its longest knowledge."""
    return _lengths(dataset, sample)[1]


def _lengths(dataset: AnswerDataset, sample: Sample) -> tuple[int, int]:
    """Tokens of a sample in this epoch, and in one that draws its longest knowledge."""
    encoder, answer_format, drawn = dataset.encoder, dataset.answer_format, dataset.augment(sample)
    text = encoder.chat(messages(drawn, dataset.instruction, answer_format.types))
    pieces = dataset.pieces(drawn)
    tokens = len(encoder.tokenizer(text).input_ids) + len(encoder.answer(pieces)["answer"])
    tokens += picture_tokens(sample, answer_format)
    return tokens, tokens + extra_knowledge_tokens(dataset, sample, pieces)


def extra_knowledge_tokens(dataset: AnswerDataset, sample: Sample, pieces: Sequence[AnswerLine]) -> int:
    """By how many tokens the sample's longest knowledge text is longer than the one in ``pieces``."""
    answer_format = dataset.answer_format
    if "knowledge" not in answer_format.segments or dataset.augmentation.knowledge != "draw":
        return 0
    lines = [render(sample.tokens, text, (), answer_format.up_to("knowledge"), None) for text in sample.knowledge]
    drawn = [piece for piece in pieces if piece.segment == "knowledge"]
    lengths = [len(dataset.encoder.answer(line)["answer"]) for line in (drawn, *lines)]
    return max(lengths) - lengths[0]


def picture_tokens(sample: Sample, answer_format: AnswerFormat) -> int:
    """Tokens that the sample's picture adds to the one placeholder that the prompt's text holds for it.

    Raises UserError for a picture whose size is unknown.
    """
    if not sample.image:
        return 0
    if sample.size is None:
        raise UserError(f"sample {sample.id}: has a picture but no size; record it as [width, height]")
    return answer_format.picture_tokens(sample.size) - 1
