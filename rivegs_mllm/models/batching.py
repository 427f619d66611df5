"""Samples as a model's inputs: the prompt with its picture, the answer piece by piece, and batches of both.

A batch is laid out around the line between prompt and answer: prompts are padded on the left, answers on the right.
The answers of all rows then stand in the same columns, and logits are needed in these columns alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import pad
from transformers import ProcessorMixin

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.prompt import messages
from rivegs_mllm.answer.serialization import AnswerLine
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.types import Sample

BLANK = Image.new("RGB", (64, 64), "gray")

TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""The keys of a processor's output that have a value for each token; all others are of pictures."""

Tensors = dict[str, torch.Tensor]


class SampleEncoder:
    """Prompts and answers as tensors. ``weights`` multiplies the loss of a segment's tokens, 1 where absent."""

    def __init__(self, processor: ProcessorMixin, weights: Mapping[str, float] | None = None):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.weights = dict(weights or {})

    def chat(self, turns: list[dict]) -> str:
        """The text of a chat up to where the answer begins, by the processor's own chat template.

        Templates of bases that think open a block of thoughts there: it is closed at once, as an empty one, or the
        answer would be trained and read as a thought.
        """
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        opened = text.rstrip()
        return f"{opened}\n\n</think>\n\n" if opened.endswith("<think>") else text

    def prompt(self, turns: list[dict], image: Image.Image | None) -> Tensors:
        """The processor's tensors of a chat up to where the answer begins, by its own chat template.

        ``input_ids`` and the other token keys are (1, tokens); ``pixel_values`` and ``image_grid_thw`` are those of
        the picture, if there is one.
        """
        text = self.chat(turns)
        return dict(self.processor(text=[text], images=None if image is None else [image], return_tensors="pt"))

    def answer(self, pieces: Sequence[AnswerLine], end: bool = True) -> Tensors:
        """``answer``, the token ids, and ``weights``, both (tokens,); ``end`` adds the end token.

        Tokenised piece by piece, so that the pieces of a forced prefix have the tokens that they have in training.
        """
        ids, weights = [], []
        for piece in pieces:
            tokens = self.tokenizer(piece.text, add_special_tokens=False).input_ids
            ids += tokens
            weights += [self.weights.get(piece.segment, 1.0)] * len(tokens)
        if end:
            ids.append(self.tokenizer.eos_token_id)
            weights.append(1.0)  # the end is of no segment
        return {"answer": torch.tensor(ids, dtype=torch.long), "weights": torch.tensor(weights)}


def encode_prompt(
    sample: Sample, folder: Path, encoder: SampleEncoder, answer_format: AnswerFormat, instruction: str
) -> Tensors:
    """The prompt of a sample, its picture opened, as ``SampleEncoder.prompt`` gives it.

    Raises PictureError where that cannot be done, the processor refuses it, or it is not of the recorded size.
    """
    turns = messages(sample, instruction, answer_format.types)
    if not sample.image:
        return encoder.prompt(turns, None)
    path = folder / sample.image
    image = open_for_model(path)
    if sample.size != image.size:
        raise PictureError(
            f"sample {sample.id}: its size is recorded as {sample.size}, but {path} is {image.size} upright, so every "
            f"box would be off; run `rivegs audit {folder}`"
        )
    with processed(path, image.size):
        return encoder.prompt(turns, image)


def dummy_row(encoder: SampleEncoder) -> Tensors:
    """A row of a batch with a grey picture and no answer."""
    prompt = encoder.prompt([{"role": "user", "content": [{"type": "image"}]}], BLANK)
    return {**prompt, **encoder.answer((), end=False)}


def ensure_picture(rows: Iterable[Tensors], blank: Tensors | None) -> list[Tensors]:
    """The rows, and ``blank`` (if any) after them when none of them has a picture."""
    rows = list(rows)
    if blank is not None and all("pixel_values" not in row for row in rows):
        rows.append(blank)
    return rows


def batch(rows: Sequence[Tensors], padding: int) -> Tensors:
    """What ``model.forward`` takes: prompts padded on the left, then the rows' ``answer`` padded on the right.

    Token keys are (rows, longest prompt + longest answer), padded with ``padding`` or 0; what is of pictures is joined
    in the order of the rows.
    """
    prompts = max(row["input_ids"].shape[1] for row in rows)
    answers = max(len(row["answer"]) for row in rows)
    joined: dict[str, list[torch.Tensor]] = {}
    for row in rows:
        own = len(row["answer"])
        sides = (prompts - row["input_ids"].shape[1], answers - own)
        for key, value in row.items():
            if key in TOKEN_KEYS:
                fill = {"input_ids": row["answer"], "attention_mask": torch.ones(own, dtype=torch.long)}
                tail = fill.get(key, torch.zeros(own, dtype=torch.long))
                value = pad(torch.cat([value, tail[None]], 1), sides, value=padding if key == "input_ids" else 0)
            elif key in ("answer", "weights"):
                continue
            joined.setdefault(key, []).append(value)
    return {key: torch.cat(values) for key, values in joined.items()}
