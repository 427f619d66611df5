"""Measures the tiny base on unseen scenes and texts: ``python -m rivegs_mllm.tiny.probe [FOLDER]``.

Prints, for described scenes, the share of emblems that some line describes correctly, and that it also boxes with an
IoU over 0.5; for expressions to find, how often the decision is correct, and the box of one that is there; for texts,
the share that is repeated, and whose capitals are listed, without an error.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from eval.matching import best_box_iou
from rivegs_mllm.answer.serialization import AnswerLine
from rivegs_mllm.models.batching import SampleEncoder, Tensors, batch
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.tiny import language_pretraining as read
from rivegs_mllm.tiny.architecture import build_answer_format
from rivegs_mllm.types import Box

PROBED_SAMPLES = 200
BATCH = 25
_LINE = re.compile(r"(expression|visible|box) (\d+): (.*)")


def measure(folder: Path, count: int = PROBED_SAMPLES) -> dict[str, float]:
    """The shares that this module's docstring lists, over ``count`` examples of each kind."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    encoder, answer_format = SampleEncoder(AutoProcessor.from_pretrained(folder)), build_answer_format()
    lessons = read.PretrainingDataset(encoder, answer_format, 0, BATCH)
    rng = random.Random("measure")
    tally: Counter[str] = Counter()
    kinds: dict[str, Callable[[], read.PretrainingExample]] = {
        "describe": lambda: read.describe_task(rng, answer_format),
        "find": lambda: read.find_task(rng, answer_format),
        "repeat": lambda: read.repeat_task(rng),
        "capitals": lambda: read.capitals_task(rng),
    }
    for kind, draw in kinds.items():
        drawn = [draw() for _ in range(count)]
        for start in track(range(0, count, BATCH), kind):
            some = drawn[start : start + BATCH]
            answers = generate(model, encoder, [(lessons.prompt(lesson), lesson.given) for lesson in some])
            for lesson, answer in zip(some, answers, strict=True):
                given = "".join(piece.text for piece in lesson.given)
                truth = "".join(piece.text for piece in lesson.answer)
                if kind in ("repeat", "capitals"):
                    tally[kind] += answer == truth
                else:
                    size = lesson.scene.image.size
                    gold = read_lines(given + truth, answer_format, size)
                    count_correct(kind, gold, read_lines(given + answer, answer_format, size), tally)
    return {
        "described: named": tally["described named"] / tally["described"],
        "described: named and boxed": tally["described boxed"] / tally["described"],
        "found: decision right": tally["decided"] / tally["asked"],
        "found: boxed, of those there": tally["found boxed"] / tally["there"],
        "texts repeated": tally["repeat"] / count,
        "texts whose capitals are listed": tally["capitals"] / count,
    }


@torch.inference_mode()
def generate(
    model: torch.nn.Module, encoder: SampleEncoder, rows: Sequence[tuple[Tensors, Sequence[AnswerLine]]]
) -> list[str]:
    """The model's continuation of prompts and of given prefixes of the answers."""
    tokenizer = encoder.tokenizer
    begun = [batch([{**prompt, **encoder.answer(given, end=False)}], tokenizer.pad_token_id) for prompt, given in rows]
    inputs = batch([{**row, **encoder.answer((), end=False)} for row in begun], tokenizer.pad_token_id)
    whole = model.generate(**inputs, max_new_tokens=256, do_sample=False)
    return tokenizer.batch_decode(whole[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


Lines = dict[str, tuple[str, tuple[Box, ...]]]


def read_lines(text: str, answer_format, size: tuple[int, int]) -> Lines:
    """For each expression the decision and the boxes, in pixels of a picture of ``size`` = (width, height)."""
    found: dict[str, dict[str, str]] = {}
    for label, number, content in _LINE.findall(text):
        found.setdefault(number, {}).setdefault(label, content)
    return {
        lines["expression"]: (
            lines.get("visible", ""),
            tuple(answer_format.decode_boxes(lines.get("box", ""), size)[0]),
        )
        for lines in found.values()
        if "expression" in lines
    }


def count_correct(kind: str, truth: Lines, answer: Lines, tally: Counter[str]) -> None:
    """Counts what the answer has right of the truth."""
    for expression, (decision, boxes) in truth.items():
        decided, guess = answer.get(expression, ("", ()))
        boxed = bool(boxes and guess) and best_box_iou(guess[0], boxes) > 0.5
        if kind == "describe":
            tally["described"] += 1
            tally["described named"] += expression in answer
            tally["described boxed"] += boxed
        else:
            tally["asked"] += 1
            tally["decided"] += decided == decision
            tally["there"] += bool(boxes)
            tally["found boxed"] += boxed


if __name__ == "__main__":
    where = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "base"
    for name, share in measure(where).items():
        print(f"{name:32} {100 * share:5.1f} %")
