"""Answers from a model: batched, left-padded, after a forced prefix or none, with the probability of being visible."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from rivegs_mllm.answer.contract import SEGMENTS, Contract
from rivegs_mllm.answer.serialization import Piece, line_start, parse, render
from rivegs_mllm.data.images import PictureError, with_size
from rivegs_mllm.data.post_errors import CUT, NO_PICTURE
from rivegs_mllm.models.batching import SampleEncoder, Tensors, batch, dummy_row, encode_prompt, ensure_picture
from rivegs_mllm.models.constrained_decoding import MentionConstraint, TokenBytes
from rivegs_mllm.models.loading import System, check_decision_tokens
from rivegs_mllm.types import Prediction, Sample, UserError

Item = TypeVar("Item")

_BEFORE_DECISION = re.compile(r"visible ([0-9]+):$")


class VisibleScores(LogitsProcessor):
    """Notes at each step how probable yes is against no, for each row."""

    def __init__(self, yes: int, no: int):
        self.yes = yes
        self.no = no
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append((scores[:, self.yes] - scores[:, self.no]).float().sigmoid())
        return scores


class SegmentStoppingCriteria(StoppingCriteria):
    """Stops a row as soon as it begins a line of another segment than ``segments``; ``prompt`` columns come before."""

    REACH = 16
    """Tokens, from the end, in which the beginning of a line is looked for: more than its label can have."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, segments: Collection[str], prompt: int):
        self.tokenizer = tokenizer
        self.foreign = other_segment_pattern(segments)
        self.prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        start = max(self.prompt, input_ids.shape[1] - self.REACH)
        before = "" if start == self.prompt else " "  # what is looked at does not begin a line then
        texts = self.tokenizer.batch_decode(input_ids[:, start:], clean_up_tokenization_spaces=False)
        ended = [self.foreign.search(before + text) is not None for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def other_segment_pattern(segments: Collection[str]) -> re.Pattern[str]:
    """Finds where a text begins a line of another segment than ``segments``."""
    labels = [line_start(other).rstrip(":") for other in SEGMENTS if other not in segments]
    return re.compile(rf"^(?:{'|'.join(labels)})", re.MULTILINE)


class Generator:
    """Answers samples with one system; the mentions it writes are words of the post (constrain.py).

    ``max_length`` is the most tokens that a prompt may have, so that memory is bounded whatever a post holds: none is
    longer than a prompt and answer of training. ``keep_vision`` and ``synced`` are for ranks that share a sharded
    model. Raises UserError where ``max_new_tokens`` leave no room for a prompt in the model's context.
    """

    def __init__(
        self,
        system: System,
        folder: Path,
        max_new_tokens: int,
        max_length: int = 2048,
        keep_vision: bool = False,
        synced: bool = False,
    ):
        self.system = system
        self.folder = folder
        self.room = min(max_length, _context(system) - max_new_tokens)
        if self.room < 1:
            raise UserError(
                f"predict.max_new_tokens: {max_new_tokens} leaves no room for a prompt in the base's context of "
                f"{_context(system)} tokens; lower it"
            )
        self.encoder = SampleEncoder(system.processor)
        self.blank = dummy_row(self.encoder) if keep_vision else None
        self.synced = synced
        self.decision = check_decision_tokens(system.processor.tokenizer)
        self.spelling = TokenBytes(system.processor.tokenizer)
        tokenizer = self.encoder.tokenizer
        self.settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            repetition_penalty=1.0,  # else the base's own holds, and those of Qwen would shift boxes and scores
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def answer(
        self,
        samples: Sequence[Sample],
        drafts: Sequence[Prediction] | None = None,
        until: str | None = None,
        only: str | None = None,
        last: str | None = None,
    ) -> list[Prediction]:
        """One prediction a sample, in order. With ``drafts`` the segments up to ``until`` are forced to what they say.

        A draft that says what its ``raw`` says up to there is forced as it stands in ``raw``, so that a model goes on
        from its own words. ``only`` is the one segment to be generated, ``last`` the one behind which to stop; None
        generates all the rest. Raises UserError for a draft that an answer cannot say.

        A post whose picture cannot be opened is answered from its text alone, and one whose text is too long from its
        beginning; its ``errors`` say so. With ``drafts``, whose entities may be in the rest, only the prompt is cut.
        """
        seen, rows, forced, faults = [], [], [], []
        for index, sample in enumerate(samples):
            shown, prompt, fault = self._prompt(sample)
            if drafts:
                shown = dataclasses.replace(shown, tokens=sample.tokens)
            text, tokens = self._forced(shown, drafts[index] if drafts else None, until)
            rows.append({**batch([{**prompt, **tokens}], self.encoder.tokenizer.pad_token_id), **_NO_ANSWER})
            seen.append(shown)
            forced.append(text)
            faults.append(fault)
        scores = VisibleScores(*self.decision)
        mentions = MentionConstraint(self.spelling, [sample.tokens for sample in seen], self.system.contract.types)
        wanted = self._wanted(only, last)
        generated = self._generate(rows, [scores, mentions], wanted)[: len(samples)]
        probabilities = torch.stack(scores.steps, 1)
        return [
            self._read(sample, text, tokens, row, fault, wanted)
            for sample, text, tokens, row, fault in zip(
                seen, forced, generated.tolist(), probabilities.tolist()[: len(samples)], faults, strict=True
            )
        ]

    def _wanted(self, only: str | None, last: str | None) -> tuple[str, ...] | None:
        """The segments to be generated, None for all the rest."""
        if only is not None:
            return (only,)
        return None if last is None else self.system.contract.until(last).segments

    def _prompt(self, sample: Sample) -> tuple[Sample, Tensors, tuple[str, ...]]:
        """The sample as it can be shown, without a picture that cannot be opened; its prompt; and what was wrong."""
        try:
            shown, faults = with_size(sample, self.folder), ()
            prompt = self._encoded(shown)
        except PictureError as error:
            shown, faults = dataclasses.replace(sample, image="", size=None), (f"{NO_PICTURE}: {error}",)
            prompt = self._encoded(shown)
        if _length(prompt) <= self.room:
            return shown, prompt, faults
        shown = self._cut(shown)
        read = f"read {len(shown.tokens)} of {len(sample.tokens)} words"
        fault = f"{CUT}: {read}, as a prompt may have {self.room} tokens"
        return shown, self._encoded(shown), (*faults, fault)

    def _encoded(self, sample: Sample) -> Tensors:
        return encode_prompt(sample, self.folder, self.encoder, self.system.contract, self.system.instruction)

    def _cut(self, sample: Sample) -> Sample:
        """The sample with as many words as fit; where not one does, also without its picture."""

        def beginning(words: int) -> Sample:
            return dataclasses.replace(sample, tokens=sample.tokens[:words])

        least, most = 0, len(sample.tokens)  # so many fit, if any do; so many do not
        while most - least > 1:
            middle = (least + most) // 2
            fits = _length(self._encoded(beginning(middle))) <= self.room
            least, most = (middle, most) if fits else (least, middle)
        short = beginning(least)
        return short if least else dataclasses.replace(short, image="", size=None)

    def _forced(self, sample: Sample, draft: Prediction | None, until: str | None) -> tuple[str, Tensors]:
        if draft is None:
            return "", self.encoder.answer((), end=False)
        contract = self.system.contract.until(until)
        if _says(sample, draft, contract):
            pieces = [Piece(until, f"{line}\n") for line in draft.raw[:-1].split("\n")]
        else:
            try:
                pieces = render(sample.tokens, draft.knowledge, draft.entities, contract, _size(sample))
            except UserError as error:
                raise UserError(f"post {sample.id!r}: {error}") from None
        return "".join(piece.text for piece in pieces), self.encoder.answer(pieces, end=False)

    @torch.inference_mode()
    def _generate(
        self, rows: Sequence[Tensors], watchers: list[LogitsProcessor], wanted: Collection[str] | None
    ) -> torch.Tensor:
        """The new tokens of each row, (rows, steps), padded behind the end token."""
        model = self.system.model
        inputs = batch(ensure_picture(rows, self.blank), self.encoder.tokenizer.pad_token_id)
        inputs = {key: value.to(model.device) for key, value in inputs.items()}
        prompt = inputs["input_ids"].shape[1]
        ends = [] if wanted is None else [SegmentStoppingCriteria(self.encoder.tokenizer, wanted, prompt)]
        whole = model.generate(
            **inputs,
            generation_config=self.settings,
            logits_processor=LogitsProcessorList(watchers),
            stopping_criteria=StoppingCriteriaList(ends),
            synced_gpus=self.synced,
        )
        return whole[:, prompt:]

    def _read(
        self,
        sample: Sample,
        forced: str,
        tokens: list[int],
        probabilities: list[float],
        faults: tuple[str, ...],
        wanted: Sequence[str] | None = None,
    ) -> Prediction:
        contract, tokenizer = self.system.contract, self.encoder.tokenizer
        if not sample.tokens and faults:  # nothing was read, so nothing can be said
            return Prediction(sample.id, errors=faults)
        if tokenizer.eos_token_id in tokens:
            tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
        text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        if wanted is not None:
            contract = contract.until(wanted[-1])
            text = other_segment_pattern(wanted).split(text, maxsplit=1)[0]
        scores = self._scores(tokens, probabilities)
        prediction = parse(sample.id, forced + text, sample.tokens, contract, _size(sample), scores)
        return dataclasses.replace(prediction, errors=faults + prediction.errors)

    def _scores(self, tokens: list[int], probabilities: list[float]) -> dict[int, float]:
        """The probability of yes by the number of the entity it was decided for."""
        scores: dict[int, float] = {}
        for step, token in enumerate(tokens):
            if token in self.decision:
                before = self.encoder.tokenizer.decode(tokens[max(0, step - 8) : step])
                if match := _BEFORE_DECISION.search(before):
                    scores.setdefault(int(match[1]), probabilities[step])
        return scores


_NO_ANSWER = {"answer": torch.empty(0, dtype=torch.long), "weights": torch.empty(0)}


def _context(system: System) -> int:
    """How many tokens the base can read and write."""
    return system.model.config.get_text_config().max_position_embeddings


def _length(prompt: Tensors) -> int:
    return prompt["input_ids"].shape[1]


def _says(sample: Sample, draft: Prediction, contract: Contract) -> bool:
    """Whether the draft's raw text is whole lines up to the contract's last segment that say what its fields say."""
    last = contract.segments[-1]
    numbers = range(1, len(draft.entities) + 1) if last in ("expressions", "visible") else ()
    begun = [*(line_start(last, number) for number in numbers)] or [line_start(last).rstrip(":")]
    lines = draft.raw.split("\n")
    if lines.pop() or not all(any(line.startswith(start) for line in lines) for start in begun):
        return False
    for segment in SEGMENTS[SEGMENTS.index(last) + 1 :]:
        if any(line.startswith(line_start(segment).rstrip(":")) for line in lines):
            return False
    read = parse(sample.id, draft.raw, sample.tokens, contract, _size(sample))
    entities = tuple(dataclasses.replace(entity, visible_score=None) for entity in draft.entities)
    return (read.knowledge, read.entities) == (draft.knowledge, entities)


def _size(sample: Sample) -> tuple[int, int] | None:
    return sample.size if sample.image else None


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items, ``size`` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
