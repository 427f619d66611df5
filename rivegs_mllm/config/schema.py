"""The settings of a recipe. One run is one YAML file, with overrides ``--section.field=value``.

The libraries' own dataclasses stand for their own settings: ``lora`` is PEFT's LoraConfig, ``train`` is transformers'
TrainingArguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from peft import LoraConfig
from transformers import TrainingArguments

from eval.protocols import TASKS
from rivegs_mllm.answer.format import ENCODINGS, SEGMENTS
from rivegs_mllm.answer.prompt import instruction_for
from rivegs_mllm.config.augmentation import Augmentation
from rivegs_mllm.config.bounds import (
    BatchSize,
    Bounds,
    FieldRules,
    NonNegativeFloat,
    NotEmpty,
    OneOf,
    Pixels,
    PositiveInt,
    TokenCount,
    check_bounds,
)
from rivegs_mllm.config.defaults.completed import completed_by_data
from rivegs_mllm.config.distilled import Distilled
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import TYPES, UserError

DTYPES = OneOf(("float32", "bfloat16", "float16"))

TrainSettings = Annotated[
    TrainingArguments,
    FieldRules(
        {
            "output_dir": NotEmpty(),
            "per_device_train_batch_size": Bounds(1, 2**16),
            "per_device_eval_batch_size": Bounds(1, 2**16),
            "gradient_accumulation_steps": Bounds(1, 2**16),
            "eval_accumulation_steps": Bounds(1),
            "num_train_epochs": Bounds(above=0, high=1e6),
            "max_steps": Bounds(-1, 10**9),
            "learning_rate": Bounds(above=0, high=10),
            "weight_decay": Bounds(0, 10),
            "adam_beta1": Bounds(0, below=1),
            "adam_beta2": Bounds(0, below=1),
            "adam_epsilon": Bounds(above=0, high=1),
            "max_grad_norm": Bounds(0),
            "label_smoothing_factor": Bounds(0, below=1),
            "neftune_noise_alpha": Bounds(0),
            "warmup_steps": Bounds(0),
            "logging_steps": Bounds(above=0),
            "eval_steps": Bounds(above=0),
            "eval_delay": Bounds(0),
            "save_steps": Bounds(above=0),
            "save_total_limit": Bounds(1),
            "seed": Bounds(0, 2**32 - 1),
            "data_seed": Bounds(0, 2**32 - 1),
            "dataloader_num_workers": Bounds(0, 1024),
            "dataloader_prefetch_factor": Bounds(1, 1024),
            "torch_empty_cache_steps": Bounds(1),
            "ddp_bucket_cap_mb": Bounds(1),
            "ddp_timeout": Bounds(1, 10**7),
        }
    ),
]
"""transformers' arguments, held to values that would otherwise fail late or train nothing without a word."""

LoraSettings = Annotated[
    LoraConfig,
    FieldRules({"r": Bounds(1, 2**16), "lora_alpha": Bounds(above=0, high=1e6), "lora_dropout": Bounds(0, below=1)}),
]


@dataclass
class DataRecipe:
    """A dataset folder, and its splits to train on and to choose the best checkpoint by."""

    folder: Path
    train: str = "train"
    dev: str = "dev"
    test: str | None = None
    """A split to score what was trained on, at the end; None for none."""
    max_eval_samples: PositiveInt | None = None
    """How many posts of dev, from its start, are answered at each evaluation; None for all."""
    skip_bad: bool = False
    """Whether posts that `rivegs audit` calls an error are left out; otherwise they are refused."""


@dataclass
class ModelRecipe:
    """The base model: a hub id or a folder, or ``tiny`` for the one that the package carries."""

    base: str
    revision: str | None = None
    dtype: Annotated[str, DTYPES] = "bfloat16"
    quantization: str | None = None
    """``nf4`` loads the base in 4 bits through bitsandbytes (QLoRA), null as it is."""
    attention: str = "sdpa"
    min_pixels: Pixels | None = None
    """Bounds of a picture's area after resizing, in pixels; null for the processor's own."""
    max_pixels: Pixels | None = None
    cache_pictures: bool = False
    """Whether a frozen vision tower encodes each training picture once and its features are kept in memory: 2 bytes x
    the language model's width for each picture token."""
    trust_remote_code: bool = False


@dataclass
class AnswerRecipe:
    """The parts of an answer, how boxes are written in it, and the instruction that asks for it."""

    segments: list[str] = field(default_factory=lambda: list(SEGMENTS))
    """By default all that the training posts have a text for."""
    types: list[str] | dict[str, str] = field(default_factory=lambda: list(TYPES))
    """The entity types, perhaps with descriptions, which the instruction's ``{types}`` then holds; by default those of
    the dataset."""
    encoding: Annotated[str, OneOf(ENCODINGS)] = "loc"
    bins: Annotated[int, Bounds(1, 9999)] | None = 1000  # thousandths, as the numbers of Qwen2-VL and Qwen3-VL
    instruction: str = ""
    """"" for one that asks for the segments."""
    weights: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """By which the loss of a segment's tokens is multiplied; 1 where a segment is not named."""

    def __post_init__(self) -> None:
        self.instruction = self.instruction or instruction_for(self.segments)


@dataclass
class PredictRecipe:
    """The settings of generation."""

    batch_tokens: TokenCount = 16384
    """How many tokens a batch may have, answers at their longest and padding among them: what memory it takes."""
    batch_size: BatchSize = 64
    """How many posts a batch may have, whatever their length."""
    max_new_tokens: TokenCount = 512
    constrain: Annotated[str, OneOf(("all", "mentions", "none"))] = "mentions"
    """What decoding holds to a grammar: ``all`` of an answer, so that every line can be read, ``mentions`` alone, which
    are words of the post, or ``none``."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass
class Recipe:
    """A run of the end-to-end model. ``max_length`` is the tokens of prompt, picture and answer together."""

    data: DataRecipe
    model: ModelRecipe
    train: TrainSettings
    lora: LoraSettings
    answer: AnswerRecipe = field(default_factory=AnswerRecipe)
    distilled: Distilled | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    predict: PredictRecipe = field(default_factory=PredictRecipe)
    max_length: TokenCount = 2048
    init: Path | None = None
    """The folder or hub id of a trained adapter that training starts from, of the same base, box format and LoRA; its
    types may be others."""
    muon: bool = False
    """Whether Muon trains the adapter in place of ``train.optim``: it learns more in few steps, on the demo as much in
    800 of 8 posts as AdamW in 1,350. Not under DeepSpeed."""

    def __post_init__(self) -> None:
        check_bounds(self)
        check_answering(self.model, self.answer)
        _check_regex(self.lora.target_modules)
        check_train(self.train)
        _check_best_metric(self.train)


def check_answering(model: ModelRecipe, answer: AnswerRecipe) -> None:
    """Raises UserError for settings of model and answer that do not fit together."""
    unknown = answer.weights.keys() - set(SEGMENTS)
    if unknown:
        raise UserError(f"answer.weights: {sorted(unknown)[0]!r} is no segment; known are {', '.join(SEGMENTS)}")
    if model.quantization not in (None, "nf4"):
        raise UserError(f"model.quantization: {model.quantization!r} is neither 'nf4' nor null")
    least, most = model.min_pixels, model.max_pixels
    if least is not None and most is not None and least > most:
        raise UserError(f"model.min_pixels: {least} is more than model.max_pixels, {most}")


def _check_regex(target_modules: object) -> None:
    if isinstance(target_modules, str):
        try:
            re.compile(target_modules)
        except re.error as error:
            raise UserError(f"lora.target_modules: {target_modules!r} is no regular expression: {error}") from None


def check_train(train: TrainingArguments) -> None:
    """Raises UserError for arguments that fit one by one and would train nothing together."""
    if train.max_steps == 0:
        raise UserError("train.max_steps: 0 would train nothing; -1 leaves it to train.num_train_epochs")


def _check_best_metric(train: TrainingArguments) -> None:
    wanted = train.metric_for_best_model
    known = [f"eval_{task.name.lower()}_f1" for task in TASKS]
    if wanted is not None and f"eval_{wanted.removeprefix('eval_')}" not in known:
        raise UserError(f"train.metric_for_best_model: {shown(wanted)} is none of {', '.join(known)}")


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of an end-to-end run, with overrides such as ``--train.learning_rate=5e-5``.

    Raises UserError that names the file and the key for a key that is unknown or a value that does not fit.
    """
    return decode(Recipe, completed_by_data(read_layers(path, overrides)))
