"""The grounder ``florence2``: Florence-2 (arXiv 2311.06242), asked to ground the referring expression as a caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage, Localization
from rivegs_mllm.cascade.referring import all_parts, check_parts, slots_required_by
from rivegs_mllm.config.bounds import TokenCount
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.models.plain_text import escape_special_tokens, truncate_words
from rivegs_mllm.models.pretrained import load_pretrained, own_files
from rivegs_mllm.types import Box

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
PARSED_SIDE = 100_000
"""The side of the picture that boxes are first parsed in: the processor rounds them to whole pixels."""


@Grounder.register_subclass("florence2")
@dataclass
class Florence2Grounder(Grounder):
    """``model`` is a hub id or a folder, ``query_fields`` the parts of the referring expression."""

    model: str
    revision: str | None = None
    query_fields: list[str] = field(default_factory=all_parts)
    max_new_tokens: TokenCount = 256
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts(self.query_fields)

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self.query_fields)

    def files(self) -> Sequence[Path]:
        """The model's, where it is a folder."""
        return own_files(self.model)

    def load(self, folder: Path) -> Stage:
        """The stage, on the GPU where there is one."""
        model, processor = load_pretrained(
            Florence2ForConditionalGeneration,
            self.model,
            self.revision,
            {"florence2": Florence2Processor},
            "grounder (florence2)",
        )
        model.to(best_device())
        num_parameters = count_parameters(model)
        return GroundingStage(
            "florence2",
            Florence2Locator(model, processor, self.max_new_tokens),
            self.query_fields,
            folder,
            num_parameters,
        )


@dataclass(frozen=True)
class Florence2Locator:
    """A model with its processor: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""

    model: Florence2ForConditionalGeneration
    processor: Florence2Processor
    max_new_tokens: int

    @torch.inference_mode()
    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[Localization]:
        """The boxes of the phrases that the model finds in each text, in the order of the phrases."""
        pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
        tokenizer = self.processor.tokenizer
        ask = self.processor.task_prompts_with_input[TASK]
        patches = self.processor.replace_image_token({}, 0)
        head, tail = f"{patches}{tokenizer.bos_token}", tokenizer.eos_token
        empty = len(tokenizer(f"{head}{ask.format(input='')}{tail}", add_special_tokens=False).input_ids)
        room = self.model.config.text_config.max_position_embeddings - empty
        plain = [escape_special_tokens(text, tokenizer) for text in texts]
        short = [truncate_words(tokenizer, text, room) for text in plain]
        prompts = [f"{head}{ask.format(input=text)}{tail}" for text in short]
        words = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt").to(self.model.device)
        answers = self.model.generate(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            pixel_values=pixels.expand(len(texts), -1, -1, -1).to(self.model.device),
            max_new_tokens=self.max_new_tokens,
            num_beams=1,
            do_sample=False,
        )
        decoded = tokenizer.batch_decode(answers, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found = [self.parse(answer, image.size) for answer in decoded]
        return [
            own if kept == text else Localization(own.boxes, (f"cut to {room} tokens", *own.notes))
            for own, kept, text in zip(found, short, plain, strict=True)
        ]

    def parse(self, answer: str, size: tuple[int, int]) -> Localization:
        """The boxes in an answer, in pixels of a picture of ``size`` = (width, height)."""
        parsed = self.processor.post_process_generation(answer, task=TASK, image_size=(PARSED_SIDE, PARSED_SIDE))[TASK]
        read = [
            Box(*(edge * side / PARSED_SIDE for edge, side in zip(corners, size * 2, strict=True)))
            for corners in parsed["bboxes"]
        ]
        boxes = [box for box in read if box.xmin < box.xmax and box.ymin < box.ymax]
        notes = []
        if len(boxes) < len(read):
            notes.append(f"{len(read) - len(boxes)} boxes without area in the answer {answer[:200]!r}")
        if not parsed["bboxes"]:
            notes.append(f"the answer has no box: {answer[:200]!r}")
        return Localization(tuple(boxes), tuple(notes))
