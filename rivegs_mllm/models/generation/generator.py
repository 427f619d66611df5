"""Answers from a model, in left-padded batches: complete ones, or the continuation of a given prefix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from rivegs_mllm.answer.format import loc_tokens
from rivegs_mllm.answer.serialization import AnswerLine, given_entities, parse
from rivegs_mllm.data.images import PictureError, with_size
from rivegs_mllm.models.base_model import System, check_decision_tokens
from rivegs_mllm.models.batching import SampleEncoder, Tensors, batch, encode_prompt
from rivegs_mllm.models.generation.constraint import AnswerRow, Constraint, MentionsRow
from rivegs_mllm.models.generation.grammar import Grammar
from rivegs_mllm.models.generation.mentions import Mentions
from rivegs_mllm.models.generation.prefix import answer_prefix
from rivegs_mllm.models.generation.processors import (
    SegmentStoppingCriteria,
    VisibleScores,
    other_segment_pattern,
    visible_scores,
)
from rivegs_mllm.models.generation.vocabulary import Vocabulary
from rivegs_mllm.runtime.post_errors import NO_PICTURE, TRUNCATED
from rivegs_mllm.types import Prediction, Sample, UserError


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A sample as the model is given it: without a picture that cannot be opened, truncated where it is too long.

    ``errors`` say what of it could not be given.
    """

    sample: Sample
    tensors: Tensors
    errors: tuple[str, ...]


class Generator:
    """Answers samples with one system, held to what may be written (constraint.py) as far as ``constrain`` says.

    Pictures are looked up from ``folder``, boxes are in pixels of the upright originals. ``max_length`` is the most
    tokens that a prompt may have, so that memory is bounded whatever a post holds: none is longer than a prompt and
    answer of training. Raises UserError where ``max_new_tokens`` leave no room for a prompt in the model's context.
    """

    def __init__(
        self,
        system: System,
        folder: Path,
        max_new_tokens: int,
        max_length: int = 2048,
        constrain: str = "mentions",
    ):
        context = system.model.config.get_text_config().max_position_embeddings
        self.system = system
        self.folder = folder
        self.max_prompt_tokens = min(max_length, context - max_new_tokens)
        if self.max_prompt_tokens < 1:
            raise UserError(
                f"predict.max_new_tokens: {max_new_tokens} leaves no room for a prompt in the base's context of "
                f"{context} tokens; lower it"
            )
        self.encoder = SampleEncoder(system.processor)
        self.decision = check_decision_tokens(system.processor.tokenizer)
        tokenizer, columns = self.encoder.tokenizer, system.model.config.get_text_config().vocab_size
        self.constrain = constrain
        self.vocabulary = Vocabulary(tokenizer, columns) if constrain != "none" else None
        self.settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            repetition_penalty=1.0,  # else the base's own holds, and those of Qwen would shift boxes and scores
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def answer(self, samples: Sequence[Sample], last: str | None = None) -> list[Prediction]:
        """One prediction a sample, in order: all segments, or those up to ``last``.

        A post whose picture cannot be opened is answered from its text alone, and one whose text is too long from its
        beginning; its ``errors`` say so.
        """
        segments = None if last is None else self.system.answer_format.up_to(last).segments
        prompts = [self._prompt(sample) for sample in samples]
        return self._generate(prompts, [()] * len(samples), segments, segments or self.system.answer_format.segments)

    def continue_answers(
        self, samples: Sequence[Sample], predictions: Sequence[Prediction], prefix: str, only: str | None = None
    ) -> list[Prediction]:
        """As ``answer``, the segments up to ``prefix`` being those of ``predictions``; then all the rest, or ``only``.

        A text that is too long is truncated in the prompt alone: entities may be in the rest. Raises UserError for a
        prediction that an answer cannot express.
        """
        answer_format = self.system.answer_format.up_to(prefix)
        prompts = [self._with_all_tokens(self._prompt(sample), sample) for sample in samples]
        prefixes = [
            answer_prefix(prompt.sample, prediction, answer_format)
            for prompt, prediction in zip(prompts, predictions, strict=True)
        ]
        rest = self.system.answer_format.segments[len(answer_format.segments) :]
        return self._generate(prompts, prefixes, None if only is None else (only,), rest if only is None else (only,))

    def _prompt(self, sample: Sample) -> _Prompt:
        try:
            given, errors = with_size(sample, self.folder), ()
            tensors = self._encode(given)
        except PictureError as error:
            given, errors = dataclasses.replace(sample, image="", size=None), (f"{NO_PICTURE}: {error}",)
            tensors = self._encode(given)
        if _length(tensors) <= self.max_prompt_tokens:
            return _Prompt(given, tensors, errors)
        given = self._truncate(given)
        read = f"read {len(given.tokens)} of {len(sample.tokens)} words"
        error = f"{TRUNCATED}: {read}, as a prompt may have {self.max_prompt_tokens} tokens"
        return _Prompt(given, self._encode(given), (*errors, error))

    @staticmethod
    def _with_all_tokens(prompt: _Prompt, sample: Sample) -> _Prompt:
        return dataclasses.replace(prompt, sample=dataclasses.replace(prompt.sample, tokens=sample.tokens))

    def _encode(self, sample: Sample) -> Tensors:
        return encode_prompt(sample, self.folder, self.encoder, self.system.answer_format, self.system.instruction)

    def _truncate(self, sample: Sample) -> Sample:
        """The sample with as many words as fit, found by bisection, since a picture and a chat template take tokens of
        their own; where not one fits, also without its picture."""

        def beginning(words: int) -> Sample:
            return dataclasses.replace(sample, tokens=sample.tokens[:words])

        least, most = 0, len(sample.tokens)  # `least` words fit, if any do; `most` do not
        while most - least > 1:
            middle = (least + most) // 2
            fits = _length(self._encode(beginning(middle))) <= self.max_prompt_tokens
            least, most = (middle, most) if fits else (least, middle)
        short = beginning(least)
        return short if least else dataclasses.replace(short, image="", size=None)

    @torch.inference_mode()
    def _generate(
        self,
        prompts: Sequence[_Prompt],
        prefixes: Sequence[Sequence[AnswerLine]],
        segments: Sequence[str] | None,
        parts: Sequence[str],
    ) -> list[Prediction]:
        """The answers after ``prefixes``: of ``segments`` alone, None for all. ``parts`` are the segments by name."""
        model, tokenizer = self.system.model, self.encoder.tokenizer
        # A given prefix becomes part of the prompt, so that all padding is on the left, as generate wants it.
        rows = [
            {
                **batch([{**prompt.tensors, **self.encoder.answer(prefix, end=False)}], tokenizer.pad_token_id),
                **_NO_ANSWER,
            }
            for prompt, prefix in zip(prompts, prefixes, strict=True)
        ]
        inputs = batch(rows, tokenizer.pad_token_id)
        inputs = {key: value.to(model.device) for key, value in inputs.items()}
        columns = inputs["input_ids"].shape[1]
        scores = VisibleScores(*self.decision)
        bound = [self._row(prompt, prefix, parts) for prompt, prefix in zip(prompts, prefixes, strict=True)]
        constraint = Constraint([row for row in bound if row], greedy=not self.settings.do_sample)
        stops = [] if segments is None else [SegmentStoppingCriteria(tokenizer, segments, columns)]
        output = model.generate(
            **inputs,
            generation_config=self.settings,
            logits_processor=LogitsProcessorList([scores, constraint]),  # scores first: the model's own
            stopping_criteria=StoppingCriteriaList([*stops, constraint.watcher]),
            synced_gpus=False,  # its default under ZeRO-3 waits for the others at every token; training/sharding.py
        )
        generated = output[:, columns:].tolist()
        return [
            self._read(prompt, prefix, tokens, probabilities, segments, isinstance(row, AnswerRow) and row.room.short)
            for prompt, prefix, tokens, probabilities, row in zip(
                prompts, prefixes, generated, scores.probabilities(), bound, strict=True
            )
        ]

    def _row(
        self, prompt: _Prompt, prefix: Sequence[AnswerLine], segments: Sequence[str]
    ) -> AnswerRow | MentionsRow | None:
        """What the answer to a prompt is held to; None for nothing."""
        if self.vocabulary is None:
            return None
        sample, answer_format = prompt.sample, self.system.answer_format
        if self.constrain == "mentions":
            mentions = Mentions(self.vocabulary, sample.tokens, answer_format.types)
            return MentionsRow(self.vocabulary, mentions)
        names = loc_tokens(answer_format.bins) if answer_format.bins else []
        grammar = Grammar(
            self.vocabulary,
            answer_format,
            segments,
            sample.tokens,
            sample.size if sample.image else None,
            self.encoder.tokenizer.convert_tokens_to_ids(names),
            self.settings.max_new_tokens,
            given_entities("".join(line.text for line in prefix), answer_format),
        )
        return AnswerRow(grammar)

    def _read(
        self,
        prompt: _Prompt,
        prefix: Sequence[AnswerLine],
        tokens: list[int],
        probabilities: list[float],
        segments: Sequence[str] | None,
        short: bool,
    ) -> Prediction:
        """The prediction in the generated ``tokens``; ``short``: they were held to their number."""
        sample, tokenizer = prompt.sample, self.encoder.tokenizer
        answer_format = self.system.answer_format
        if not sample.tokens and prompt.errors:  # nothing was read, so nothing can be said
            return Prediction(sample.id, errors=prompt.errors)
        if tokenizer.eos_token_id in tokens:
            tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
        text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)  # the clean-up would join "Bob ." to "Bob."
        if segments is not None:
            answer_format = answer_format.up_to(segments[-1])
            text = other_segment_pattern(segments).split(text, maxsplit=1)[0]
        answer = "".join(piece.text for piece in prefix) + text
        scores = visible_scores(tokens, probabilities, self.decision, tokenizer)
        prediction = parse(
            sample.id, answer, sample.tokens, answer_format, sample.size if sample.image else None, scores
        )
        most = f"{TRUNCATED}: ended within {self.settings.max_new_tokens} tokens; raise predict.max_new_tokens"
        return dataclasses.replace(prediction, errors=(*prompt.errors, *[most] * short, *prediction.errors))


_NO_ANSWER = {"answer": torch.empty(0, dtype=torch.long), "weights": torch.empty(0)}


def _length(prompt: Tensors) -> int:
    return prompt["input_ids"].shape[1]
