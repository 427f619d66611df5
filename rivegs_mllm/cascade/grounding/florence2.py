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
from rivegs_mllm.cascade.grounding.base import Found, Grounder, GroundingStage
from rivegs_mllm.cascade.referring import all_parts, check_parts, needed
from rivegs_mllm.config.bounds import TokenCount
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.plain_text import escape_special_tokens, shorten
from rivegs_mllm.models.pretrained import load_pretrained, own_files
from rivegs_mllm.types import Box

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
FINE = 100_000
"""The side of the picture that boxes are first read in: the processor cuts them to whole pixels."""


@Grounder.register_subclass("florence2")
@dataclass
class Florence2Grounder(Grounder):
    """``model`` is a hub id or a folder, ``refer`` the parts of the referring expression."""

    model: str
    revision: str | None = None
    refer: list[str] = field(default_factory=all_parts)
    max_new_tokens: TokenCount = 256
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts(self.refer)

    def needs(self) -> Sequence[str]:
        """Expressions, where they are referred by."""
        return needed(self.refer)

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
        parameters = sum(value.numel() for value in model.parameters())
        return GroundingStage(
            "florence2", Florence2(model, processor, self.max_new_tokens), self.refer, folder, parameters
        )


@dataclass(frozen=True)
class Florence2:
    """A model with its processor: a ``Locate`` of ``rivegs_mllm.cascade.grounding.base``."""

    model: Florence2ForConditionalGeneration
    processor: Florence2Processor
    max_new_tokens: int

    @torch.inference_mode()
    def __call__(self, image: Image.Image, texts: Sequence[str]) -> list[Found]:
        """The boxes of the phrases that the model finds in each text, in its order: the head comes first."""
        pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
        tokenizer = self.processor.tokenizer
        ask = self.processor.task_prompts_with_input[TASK]
        cells = self.processor.replace_image_token({}, 0)
        head, tail = f"{cells}{tokenizer.bos_token}", tokenizer.eos_token
        empty = len(tokenizer(f"{head}{ask.format(input='')}{tail}", add_special_tokens=False).input_ids)
        room = self.model.config.text_config.max_position_embeddings - empty
        plain = [escape_special_tokens(text, tokenizer) for text in texts]
        short = [shorten(tokenizer, text, room) for text in plain]
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
        said = tokenizer.batch_decode(answers, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        found = [self.read(answer, image.size) for answer in said]
        return [
            own if kept == text else Found(own.boxes, (f"cut to {room} tokens", *own.notes))
            for own, kept, text in zip(found, short, plain, strict=True)
        ]

    def read(self, answer: str, size: tuple[int, int]) -> Found:
        """The boxes in an answer, in pixels of a picture of ``size`` = (width, height)."""
        parsed = self.processor.post_process_generation(answer, task=TASK, image_size=(FINE, FINE))[TASK]
        read = [
            Box(*(edge * side / FINE for edge, side in zip(corners, size * 2, strict=True)))
            for corners in parsed["bboxes"]
        ]
        boxes = [box for box in read if box.xmin < box.xmax and box.ymin < box.ymax]
        notes = []
        if len(boxes) < len(read):
            notes.append(f"{len(read) - len(boxes)} boxes without area in the answer {answer[:200]!r}")
        if not parsed["bboxes"]:
            notes.append(f"the answer has no box: {answer[:200]!r}")
        return Found(tuple(boxes), tuple(notes))
