"""What a recipe can say. One run is one YAML file, with overrides ``--section.field=value``.

The libraries' own dataclasses stand for their own settings: ``lora`` is PEFT's LoraConfig, ``train`` is transformers'
TrainingArguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peft import LoraConfig
from transformers import TrainingArguments

from rivegs_mllm.augment import Augmentation
from rivegs_mllm.contract import SEGMENTS
from rivegs_mllm.distill.attach import Distilled
from rivegs_mllm.prompts import INSTRUCTION
from rivegs_mllm.types import TYPES, UserError
from rivegs_mllm.yaml_recipe import parse_recipe


@dataclass
class DataRecipe:
    """A dataset folder and which of its splits to train on and to choose the best checkpoint by."""

    folder: Path
    train: str = "train"
    dev: str = "dev"
    test: str | None = None
    """A split to score what was trained on, at the end; None for none."""
    dev_posts: int | None = None
    """How many posts of dev, from its start, are answered at each evaluation; None for all."""


@dataclass
class ModelRecipe:
    """The base model: a hub id or a folder, or ``tiny`` for the one that the package carries."""

    base: str
    revision: str | None = None
    dtype: str = "bfloat16"
    quantization: str | None = None
    """``nf4`` loads the base in 4 bits through bitsandbytes (QLoRA), null as it is."""
    attention: str = "sdpa"
    min_pixels: int | None = None
    """Bounds of a picture's area after resizing, in pixels; null leaves the processor's own."""
    max_pixels: int | None = None
    cache_pictures: bool = False
    """Whether a frozen vision tower encodes each training picture once and its features are kept in memory: 2 bytes x
    the language model's width for each picture token."""
    trust_remote_code: bool = False


@dataclass
class AnswerRecipe:
    """What an answer holds and how the model is asked for it."""

    segments: list[str] = field(default_factory=lambda: list(SEGMENTS))
    types: list[str] = field(default_factory=lambda: list(TYPES))
    encoding: str = "loc"
    bins: int | None = 1000
    instruction: str = INSTRUCTION
    weights: dict[str, float] = field(default_factory=dict)
    """By which the loss of a segment's tokens is multiplied; 1 where a segment is not named."""


@dataclass
class PredictRecipe:
    """How answers are generated."""

    batch_size: int = 8
    max_new_tokens: int = 512


@dataclass
class Recipe:
    """A run of the end-to-end model. ``max_length`` is the tokens of prompt, picture and answer together."""

    data: DataRecipe
    model: ModelRecipe
    train: TrainingArguments
    lora: LoraConfig
    answer: AnswerRecipe = field(default_factory=AnswerRecipe)
    distilled: Distilled | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    predict: PredictRecipe = field(default_factory=PredictRecipe)
    max_length: int = 2048

    def __post_init__(self) -> None:
        unknown = self.answer.weights.keys() - set(SEGMENTS)
        if unknown:
            raise UserError(f"answer.weights: {sorted(unknown)[0]!r} is no segment; known are {', '.join(SEGMENTS)}")
        if self.model.quantization not in (None, "nf4"):
            raise UserError(f"model.quantization: {self.model.quantization!r} is neither 'nf4' nor null")


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of an end-to-end run, with overrides such as ``--train.learning_rate=5e-5``.

    Raises UserError that names the file and the key for a key that is unknown or a value that does not fit.
    """
    return parse_recipe(Recipe, path, overrides)
