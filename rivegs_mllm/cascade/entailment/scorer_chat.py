"""The scorer ``chat``: a chat model is asked whether the picture shows it; the logits of yes and no are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from rivegs_mllm.answer.serialization import NO, YES, AnswerLine, escape
from rivegs_mllm.cascade.base import StageError
from rivegs_mllm.cascade.entailment.scorer import Batch, ScorerRecipe, pad_narrow
from rivegs_mllm.config.schema import ModelRecipe
from rivegs_mllm.models.adapter import load_adapter_weights
from rivegs_mllm.models.base_model import check_decision_tokens, load_model, load_processor
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.models.device import best_device, device_of
from rivegs_mllm.training.dataset.rows import Collator
from rivegs_mllm.types import UserError

QUESTION = "Does the picture show {entity}? Answer yes or no."


class ChatScorer:
    """A ``VisibilityScorer`` by question and answer. A picture is opened once for all its entities, and encoded again
    for each."""

    cacheable = False
    max_tokens = 256

    def __init__(self, model: PeftModel, processor: ProcessorMixin, question: str):
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.question = question
        self.encoder = SampleEncoder(processor)
        self.collate = Collator(self.encoder, keep_vision=False)
        self.yes, self.no = check_decision_tokens(processor.tokenizer)

    def encode_images(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """The pictures themselves."""
        return [pad_narrow(image) for image in images]

    def training_batch(
        self,
        encoded: Sequence[Image.Image],
        image_index: Sequence[int],
        texts: Sequence[str],
        visible: Sequence[bool],
        negative_mask: Sequence[Sequence[bool]],
    ) -> Batch:
        """See ``VisibilityScorer.training_batch``; the loss is that of the answer's one token."""
        return self._batch(
            encoded, image_index, texts, [(AnswerLine("visible", YES if own else NO),) for own in visible]
        )

    @torch.inference_mode()
    def logits(self, encoded: Sequence[Image.Image], image_index: Sequence[int], texts: Sequence[str]) -> torch.Tensor:
        """See ``VisibilityScorer.logits``."""
        batch = self._batch(encoded, image_index, texts, [()] * len(texts))
        del batch["labels"]
        last = self.model(**send_to_device(batch, device_of(self.model))).logits[:, -1].float().cpu()
        return last[:, self.yes] - last[:, self.no]

    def save(self, folder: Path) -> None:
        """Adapter and processor; the stage's metadata name the base."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _batch(
        self,
        encoded: Sequence[Image.Image],
        image_index: Sequence[int],
        texts: Sequence[str],
        answers: Sequence[tuple[AnswerLine, ...]],
    ) -> Batch:
        rows = []
        for index, text, answer in zip(image_index, texts, answers, strict=True):
            asked = self.question.format(entity=escape(text))
            turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}]
            rows.append({**self.encoder.prompt(turns, encoded[index]), **self.encoder.answer(answer, end=False)})
        batch = self.collate(rows)
        del batch["weights"]
        return {**batch, "logits_to_keep": batch["labels"].shape[1]}


@ScorerRecipe.register_subclass("chat")
@dataclass
class ChatScorerRecipe(ScorerRecipe):
    """``base`` is a model as of an end-to-end recipe, ``lora`` the adapter that is trained.

    ``question`` has ``{entity}`` where the referring expression comes in.
    """

    base: ModelRecipe
    lora: LoraConfig
    question: str = QUESTION

    def __post_init__(self) -> None:
        if "{entity}" not in self.question:
            raise UserError("model.question: has no {entity} for the referring expression")
        if self.base.quantization is not None:
            raise UserError("model.base.quantization: a scorer is trained on a base that is not quantized; set null")

    def build(self) -> ChatScorer:
        """The base, with an adapter that does nothing yet."""
        processor = load_processor(self.base)
        return ChatScorer(get_peft_model(load_model(self.base), self.lora), processor, self.question)

    def load(self, folder: Path) -> ChatScorer:
        """See ``ScorerRecipe.load``."""
        try:
            processor = AutoProcessor.from_pretrained(folder)
            model = load_adapter_weights(load_model(self.base), folder)
        except (OSError, ValueError) as error:
            raise StageError(f"entailment (classifier): {folder} is damaged: {error}; train the stage again") from None
        return ChatScorer(model.to(best_device()).eval(), processor, self.question)
