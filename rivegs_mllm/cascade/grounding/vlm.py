"""The grounder ``vlm``: a chat model that was pre-trained to ground, prompted in its own box format.

Qwen2-VL and Qwen3-VL answer in thousandths of the picture, Qwen2.5-VL in pixels of the picture as it was resized.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage, Localization
from rivegs_mllm.cascade.referring import all_parts, check_parts, slots_required_by
from rivegs_mllm.config.bounds import TokenCount
from rivegs_mllm.config.schema import AnswerRecipe, ModelRecipe
from rivegs_mllm.models.base_model import load_model, load_processor, make_answer_format
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.models.plain_text import escape_special_tokens, truncate_words
from rivegs_mllm.models.pretrained import own_files
from rivegs_mllm.types import Box, UserError

PROMPT = 'Locate {text} in the image. Answer with its bounding box as JSON: {{"bbox_2d": [x1, y1, x2, y2]}}'

_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"
MAX_EXPRESSION_TOKENS = 512
"""Tokens of an expression; more is no expression, and memory is bounded."""

_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]|\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
"""JSON, or Qwen2-VL's pair of corners: (x1,y1),(x2,y2)."""


@Grounder.register_subclass("vlm")
@dataclass
class VlmGrounder(Grounder):
    """``model`` is the base as in a recipe of the end-to-end model, ``query_fields`` the parts of the referring
    expression.

    ``prompt`` is what is asked; ``{text}`` stands for the referring expression, and a brace is written twice.
    """

    model: ModelRecipe
    query_fields: list[str] = field(default_factory=all_parts)
    prompt: str = PROMPT
    max_new_tokens: TokenCount = 128
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts(self.query_fields)
        try:
            asked = self.prompt.format(text="\0")
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"prompt: {error} cannot be filled in; only {{text}} can, and braces are doubled") from None
        if "\0" not in asked:
            raise UserError("prompt: has no {text}, so the model would not know what to find")

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self.query_fields)

    def files(self) -> Sequence[Path]:
        """The model's, where it is a folder."""
        return own_files(self.model.base)

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one. Raises UserError for a base of an untested family."""
        processor = load_processor(self.model)
        answer_format = make_answer_format(self.model, AnswerRecipe(encoding="native", bins=None), processor)
        model = load_model(self.model).eval()
        if self.model.quantization is None:  # bitsandbytes has placed 4-bit weights
            model.to(best_device())
        num_parameters = count_parameters(model)
        asker = VlmLocator(model, processor, answer_format, self.prompt, self.max_new_tokens)
        return GroundingStage("vlm", asker, self.query_fields, folder, num_parameters)


@dataclass(frozen=True)
class VlmLocator:
    """A model that is asked for one text at a time: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""

    model: PreTrainedModel
    processor: ProcessorMixin
    answer_format: AnswerFormat
    prompt: str
    max_new_tokens: int

    @torch.inference_mode()
    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[Localization]:
        """The boxes in the answer to each text, in their order."""
        tokenizer = self.processor.tokenizer
        plain = [escape_special_tokens(text, tokenizer) for text in texts]
        short = [truncate_words(tokenizer, text, MAX_EXPRESSION_TOKENS) for text in plain]
        inputs = self.processor(
            text=[self._chat(text) for text in short],
            images=[image] * len(texts),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device)
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # that of Qwen's own settings would change numbers that repeat
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        tokens = self.model.generate(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :]
        found = [parse_boxes(answer, self.answer_format, image.size) for answer in tokenizer.batch_decode(tokens)]
        return [
            own if kept == text else Localization(own.boxes, (f"cut to {MAX_EXPRESSION_TOKENS} tokens", *own.notes))
            for own, kept, text in zip(found, short, plain, strict=True)
        ]

    def _chat(self, text: str) -> str:
        asked = {"type": "text", "text": self.prompt.format(text=text)}
        turns = [{"role": "user", "content": [{"type": "image"}, asked]}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def parse_boxes(answer: str, answer_format: AnswerFormat, size: tuple[int, int]) -> Localization:
    """The boxes in an answer, whatever stands around them, in pixels of a picture of ``size`` = (width, height)."""
    boxes: list[Box] = []
    notes = []
    for match in _BOX.finditer(answer):
        numbers = [str(round(float(number))) for number in match.groups() if number is not None]
        own, faults = answer_format.decode_boxes(f"[{', '.join(numbers)}]", size)
        boxes += own
        notes += faults
    if not boxes and not notes:
        notes.append(f"the answer has no box: {answer[:200]!r}")
    return Localization(tuple(boxes), tuple(notes))
