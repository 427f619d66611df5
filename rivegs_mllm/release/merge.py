"""An adapter merged into its base: a folder that transformers loads alone, compared with the adapter before it is left.

An adapter of a 4-bit base is merged into the base in its full precision, since what is merged into 4-bit weights would
be rounded away. The answers then differ a little from those beside the 4-bit base, and how many do is told.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from eval.analysis.calibration import FILE_NAME as CALIBRATION
from rivegs_mllm.answer.prompt import messages
from rivegs_mllm.config.answering import Answering, save_answering
from rivegs_mllm.config.trained import check_is_adapter
from rivegs_mllm.data.images import open_for_model
from rivegs_mllm.models.adapter import load_adapter_alone, save_beside_weights
from rivegs_mllm.models.base_model import System, prepare_for_inference
from rivegs_mllm.models.batching import SampleEncoder, encode_prompt
from rivegs_mllm.models.device import best_device
from rivegs_mllm.release.alone import Answer, LoadedFolder, Question, generate
from rivegs_mllm.release.card import NAME as CARD
from rivegs_mllm.release.card import card
from rivegs_mllm.release.posts import Posts
from rivegs_mllm.runtime.files import complete_folder, write_text
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.types import Sample, UserError

ALLOWED = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.5}
"""By how much the logarithm of a token's probability may differ: a merged weight is rounded to the precision."""

_FREE = 1.05  # of the weights' bytes; tokenizer and the rest are megabytes


class DifferentAnswersError(UserError):
    """The merged model does not answer as the adapter does; no folder is left."""


@dataclass(frozen=True)
class Comparison:
    """Answers to the same posts: how many there are, how many are the same word for word, and the largest difference
    between the logarithms of the probabilities of a token of the first ones' answers."""

    posts: int
    same: int
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.posts} answers are the same word for word, and log-probabilities of their tokens "
            f"differ by {self.largest:.2g} at most"
        )


@dataclass(frozen=True)
class Merged:
    """What was compared: the folder with the adapter, and with the adapter on its 4-bit base, None for another base."""

    comparison: Comparison
    four_bit: Comparison | None


def merge(folder: Path, recipe: Answering, out: Path, posts: Posts) -> Merged:
    """Merges the adapter in ``folder`` into its base in ``recipe.model.dtype`` and writes the whole into ``out``.

    ``out`` is there only when transformers alone has loaded it and answered the posts as the adapter does. Raises
    DifferentAnswersError where it does not, and UserError for a folder without an adapter, an ``out`` that is there
    already, and a disk with too little room.
    """
    check_is_adapter(folder)
    whole = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, quantization=None))
    quantised = None
    if recipe.model.quantization is not None:
        quantised = _answers(prepare_for_inference(load_adapter_alone(folder, recipe)), posts, whole, "4-bit base")
    system = prepare_for_inference(load_adapter_alone(folder, whole))
    check_room(out, system.model)
    expected = _answers(system, posts, whole, "adapter")
    with complete_folder(out) as partial:
        _write(system, whole, folder, partial)
        del system  # there may be no room for two
        loaded = LoadedFolder.load(partial, whole.model.dtype, best_device())
        comparison = _compare(loaded, posts, expected, "merged")
        if comparison.largest > ALLOWED[whole.model.dtype]:
            raise DifferentAnswersError(
                f"{out}: not written: loaded by transformers alone it answers otherwise than the adapter: {comparison}"
            )
        four_bit = quantised and _compare(loaded, posts, quantised, "4-bit base")
    return Merged(comparison, four_bit)


def check_room(out: Path, model: torch.nn.Module) -> None:
    """Raises UserError where the disk of ``out`` has too little room for the model's weights."""
    needed = _FREE * sum(own.numel() * own.element_size() for own in model.parameters())
    there = next(own for own in out.absolute().parents if own.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(f"{out}: needs {needed / 1e9:.1f} GB, and {there} has {free / 1e9:.1f} GB free")


def question(sample: Sample, posts: Posts, system: System) -> Question:
    """A post as it is asked about: the text of the prompt, and the picture. Raises PictureError."""
    (turn,) = messages(sample, system.instruction, system.answer_format.types)
    image = open_for_model(posts.folder / sample.image) if sample.image else None
    return Question(turn["content"][-1]["text"], image)


def _answers(system: System, posts: Posts, recipe: Answering, what: str) -> list[tuple[Question, dict, Answer]]:
    """Of each post the question, the prompt's tensors and what the adapter answers, without any constraint."""
    encoder = SampleEncoder(system.processor)
    settings = _generation(system, recipe)
    found = []
    for sample in track(posts.samples, what):
        prompt = encode_prompt(sample, posts.folder, encoder, system.answer_format, system.instruction)
        answer = generate(system.model, system.processor, prompt, generation_config=settings)
        found.append((question(sample, posts, system), prompt, answer))
    return found


def _compare(
    loaded: LoadedFolder, posts: Posts, expected: Sequence[tuple[Question, dict, Answer]], what: str
) -> Comparison:
    """Raises DifferentAnswersError where the folder makes another prompt of a post."""
    same, largest = 0, 0.0
    for sample, (asked, prompt, answer) in zip(posts.samples, track(expected, what), strict=True):
        inputs = loaded.inputs(asked)
        if inputs.keys() != prompt.keys() or not all(torch.equal(inputs[key], prompt[key]) for key in prompt):
            raise DifferentAnswersError(f"post {sample.id}: the folder's chat template or processor changes the prompt")
        same += torch.equal(loaded.answer(asked).tokens, answer.tokens)
        apart = (loaded.rate(asked, answer.tokens) - answer.log_probabilities).abs()
        largest = max(largest, apart.nan_to_num(torch.inf).max().item())
    return Comparison(len(expected), same, largest)


def _write(system: System, recipe: Answering, folder: Path, partial: Path) -> None:
    """All that the folder holds; the answer format, by which it is known to be whole, comes last."""
    model = system.model.merge_and_unload()
    model.generation_config = _generation(system, recipe)
    model.save_pretrained(partial)
    _close_thoughts(system)
    if (folder / CALIBRATION).is_file():
        shutil.copyfile(folder / CALIBRATION, partial / CALIBRATION)
    save_answering(recipe, partial)
    write_text(partial / CARD, card(folder, recipe, system.instruction, merged=True))
    save_beside_weights(dataclasses.replace(system, model=model), partial)


def _generation(system: System, recipe: Answering) -> GenerationConfig:
    """Greedy, as answers are generated here."""
    tokenizer = system.processor.tokenizer
    return GenerationConfig(
        max_new_tokens=recipe.predict.max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _close_thoughts(system: System) -> None:
    """Where a base's chat template opens a block of thoughts, the folder's own template closes it, as training did."""
    processor = system.processor
    turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    plain = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    closed = SampleEncoder(processor).chat(turns)
    if closed != plain:
        ending = json.dumps(closed.removeprefix(plain))
        processor.chat_template += "{% if add_generation_prompt %}{{ " + ending + " }}{% endif %}"
