"""Which posts are answered together: those of like length, as many as a budget of tokens allows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.prompt import messages
from rivegs_mllm.config.schema import PredictRecipe
from rivegs_mllm.models.base_model import System
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.types import Sample, UserError


def plan(samples: Sequence[Sample], generator: Generator, settings: PredictRecipe) -> list[list[int]]:
    """Indices of all samples, batch by batch, as ``plan_batches`` gives them."""
    prompts = prompt_lengths(samples, generator.system, generator.max_prompt_tokens)
    lengths = [prompt + settings.max_new_tokens for prompt in prompts]
    return plan_batches(lengths, settings.batch_tokens, settings.batch_size)


def prompt_lengths(samples: Sequence[Sample], system: System, max_tokens: int) -> list[int]:
    """Tokens of the samples' prompts, at most ``max_tokens`` each; pictures are counted by their size, not opened."""
    encoder, answer_format = SampleEncoder(system.processor), system.answer_format
    if not samples:
        return []
    texts = [encoder.chat(messages(sample, system.instruction, answer_format.types)) for sample in samples]
    tokens = map(len, encoder.tokenizer(texts).input_ids)
    counted = zip(tokens, samples, strict=True)
    return [min(text + _picture_tokens(sample, answer_format), max_tokens) for text, sample in counted]


def plan_batches(lengths: Sequence[int], batch_tokens: int, batch_size: int) -> list[list[int]]:
    """Indices batch by batch: of at most ``batch_size`` rows and, padded to the longest, ``batch_tokens`` tokens.

    ``lengths`` are those of the rows, at their longest. A row that alone has more is a batch. The batches come in an
    order that is random and always the same, so that processes that take turns have alike work, and the time that is
    left can be told from the beginning.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        last = batches[-1] if batches else []
        if last and len(last) < batch_size and (len(last) + 1) * lengths[last[0]] <= batch_tokens:
            last.append(index)
        else:
            batches.append([index])
    random.Random(0).shuffle(batches)
    return batches


def _picture_tokens(sample: Sample, answer_format: AnswerFormat) -> int:
    """Beyond the placeholder in the text; of a picture of unknown size the most that one can have, of one that is
    refused none."""
    if not sample.image:
        return 0
    if sample.size is None:
        return answer_format.max_pixels // answer_format.patch_factor**2
    try:
        return answer_format.picture_tokens(sample.size) - 1
    except UserError:
        return 0
