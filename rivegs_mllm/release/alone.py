"""A merged folder as others use it: loaded and asked by transformers alone, with nothing of this project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True)
class Question:
    """What a model is asked: a text, the instruction with the post filled in, and the post's picture, upright RGB."""

    text: str
    image: Image.Image | None


@dataclass(frozen=True)
class Answer:
    """Token ids, (tokens,), the text that they are, and the logarithms of their probabilities, (tokens,) float32."""

    tokens: torch.Tensor
    text: str
    log_probabilities: torch.Tensor


@dataclass(frozen=True)
class LoadedFolder:
    """The model in a folder, and its processor."""

    model: PreTrainedModel
    processor: ProcessorMixin

    @classmethod
    def load(cls, folder: Path, dtype: str, device: str) -> LoadedFolder:
        """By the auto classes of transformers."""
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        return cls(model.to(device).eval(), processor)

    def inputs(self, question: Question) -> dict[str, torch.Tensor]:
        """The prompt of a question, by the folder's own chat template; ``input_ids`` is (1, tokens)."""
        picture = [] if question.image is None else [{"type": "image", "image": question.image}]
        turns = [{"role": "user", "content": [*picture, {"type": "text", "text": question.text}]}]
        inputs = self.processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return dict(inputs)

    def answer(self, question: Question) -> Answer:
        """What the model generates by the folder's own settings of generation."""
        return generate(self.model, self.processor, self.inputs(question))

    def rate(self, question: Question, tokens: torch.Tensor) -> torch.Tensor:
        """The logarithms of the probabilities, (tokens,) float32, that the model gives another's answer."""
        return rate(self.model, self.inputs(question), tokens)


@torch.inference_mode()
def generate(
    model: PreTrainedModel, processor: ProcessorMixin, inputs: dict[str, torch.Tensor], **settings: int
) -> Answer:
    """The answer of a model to a prompt, with ``settings`` of generation beside the model's own."""
    given = {key: value.to(model.device) for key, value in inputs.items()}
    output = model.generate(**given, **settings)
    tokens = output[0, given["input_ids"].shape[1] :].cpu()
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(tokens, text, rate(model, inputs, tokens))


@torch.inference_mode()
def rate(model: PreTrainedModel, inputs: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The logarithms of the probabilities, (tokens,) float32, that a model gives an answer after a prompt."""
    own = len(tokens)
    whole = {key: value.to(model.device) for key, value in inputs.items()}
    for key, tail in _tails(tokens).items():
        if key in whole:
            whole[key] = torch.cat([whole[key], tail.to(model.device)], 1)
    logits = model(**whole, logits_to_keep=own + 1).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, tokens.to(logits.device)[:, None])[:, 0].cpu()


def _tails(tokens: Sequence[int]) -> dict[str, torch.Tensor]:
    """What an answer adds to each key of a prompt that has a value for each token, (1, tokens)."""
    row = torch.as_tensor(tokens)[None]
    nothing = torch.zeros_like(row)
    return {
        "input_ids": row,
        "attention_mask": torch.ones_like(row),
        "token_type_ids": nothing,
        "mm_token_type_ids": nothing,
    }
