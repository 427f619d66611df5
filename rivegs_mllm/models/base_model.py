"""The base model, its processor and the format of its answers: how they are loaded, and the system they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from rivegs_mllm.answer.format import NATIVE_STEPS, AnswerFormat, loc_tokens
from rivegs_mllm.answer.prompt import check_instruction, describe_types
from rivegs_mllm.answer.serialization import NO, YES
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.config.schema import AnswerRecipe, ModelRecipe, Recipe
from rivegs_mllm.config.trained import check_base
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.packed_attention import attend_packed
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

NOT_QUANTIZED = ["model.visual", "lm_head"]
"""What stays as it is under NF4, as patterns of transformers. QLoRA (arXiv 2305.14314) was tried on language models;
the vision tower and its merger are a twelfth of the weights of a 7B."""
TINY_BASE = Path(__file__).parents[1] / "tiny" / "base"


@dataclass(frozen=True)
class System:
    """A model that can answer, with its processor, the format of its answers and its instruction."""

    model: torch.nn.Module
    processor: ProcessorMixin
    answer_format: AnswerFormat
    instruction: str


def prepare_for_inference(system: System, device: str | None = None) -> System:
    """The system ready to answer: in evaluation mode, on ``device``, None for the GPU where there is one."""
    system.model.eval()
    if not getattr(system.model, "is_quantized", False):  # bitsandbytes has placed it
        system.model.to(device or best_device())
    return system


def load_base(recipe: Answering | Recipe) -> System:
    """The base model of a recipe, untrained for the task, with rows for location tokens added if it lacks them.

    Raises UserError for a base that cannot be loaded, is of an unknown family, or does not fit the recipe.
    """
    processor, answer_format = load_without_weights(recipe)
    model = load_model(recipe.model)
    add_embedding_rows(model, processor.tokenizer)
    return System(model, processor, answer_format, describe_types(recipe.answer.instruction, recipe.answer.types))


def load_without_weights(recipe: Answering | Recipe) -> tuple[ProcessorMixin, AnswerFormat]:
    """Processor, its location tokens added, and answer format: all that decides what a base model is given.

    Raises UserError as ``load_base`` does.
    """
    processor = load_processor(recipe.model)
    answer_format = make_answer_format(recipe.model, recipe.answer, processor)
    check_instruction(recipe.answer.instruction)
    if answer_format.encoding == "loc":
        add_tokens(processor.tokenizer, loc_tokens(answer_format.bins))
    check_decision_tokens(processor.tokenizer)
    return processor, answer_format


def base_path(base: str) -> str:
    """What ``from_pretrained`` takes for a base: a hub id, or the folder it names."""
    return str(TINY_BASE) if base == "tiny" else base


def is_base(trained_on: str, base: str) -> bool:
    """Whether an adapter's base is the recipe's. The package's own is the same wherever the package is installed."""
    if base == "tiny":
        return Path(trained_on).parts[-3:] == TINY_BASE.parts[-3:]
    return trained_on == base


def load_processor(recipe: ModelRecipe) -> ProcessorMixin:
    """The base's processor with the recipe's limits on the size of pictures. Raises UserError for an unknown family."""
    family = _pretrained(AutoConfig, recipe).model_type
    if family not in NATIVE_STEPS:
        raise UserError(f"model.base: {recipe.base} is a {family}; known are {', '.join(NATIVE_STEPS)}")
    processor = _pretrained(AutoProcessor, recipe)
    size = processor.image_processor.size  # under these names Qwen's processors keep areas, not edges
    size["shortest_edge"] = recipe.min_pixels or size["shortest_edge"]
    size["longest_edge"] = recipe.max_pixels or size["longest_edge"]
    return processor


def make_answer_format(model: ModelRecipe, answer: AnswerRecipe, processor: ProcessorMixin) -> AnswerFormat:
    """The answer format that a recipe asks for, with the limits that its processor really has."""
    images = processor.image_processor
    return AnswerFormat(
        family=_pretrained(AutoConfig, model).model_type,
        encoding=answer.encoding,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
        patch_factor=images.patch_size * images.merge_size,
        bins=answer.bins if answer.encoding == "loc" else None,
        segments=tuple(answer.segments),
        types=tuple(answer.types),
    )


def load_model(recipe: ModelRecipe) -> PreTrainedModel:
    """The base model with its weights. Raises UserError for missing or unexpected ones: they mean another model."""
    quantization = None
    if recipe.quantization == "nf4":  # with double quantisation, as QLoRA has it (arXiv 2305.14314, section 3)
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, recipe.dtype),
            llm_int8_skip_modules=NOT_QUANTIZED,  # so named, but of 4 bits too
        )
    model, loaded = _pretrained(
        AutoModelForImageTextToText,
        recipe,
        dtype=recipe.dtype,
        attn_implementation=recipe.attention,
        quantization_config=quantization,
        use_safetensors=True,
        output_loading_info=True,
    )
    wrong = sorted(loaded["missing_keys"]) + sorted(loaded["unexpected_keys"])
    if wrong:
        raise UserError(f"{recipe.base}: {len(wrong)} weights are missing or unexpected, such as {wrong[0]}")
    if recipe.attention == "sdpa":
        attend_packed(model)
    return model


def _pretrained(kind: type, recipe: ModelRecipe, **options: object):
    path = base_path(recipe.base)
    check_base(recipe.base)
    try:
        return kind.from_pretrained(
            path, revision=recipe.revision, trust_remote_code=recipe.trust_remote_code, **options
        )
    except Exception as error:  # transformers and the base's own files
        raise UserError(f"model.base: {path} cannot be loaded: {one_line(error)}") from error


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> None:
    """Adds the tokens that the tokenizer lacks."""
    tokenizer.add_tokens([token for token in tokens if token not in tokenizer.get_added_vocab()])


def add_embedding_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds rows for the tokens that were added to the tokenizer, where the embedding has none to spare."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # Not padded to a multiple: rows to spare are drawn at random and would differ from load to load.
        model.resize_token_embeddings(len(tokenizer))


def new_token_ids(system: System, recipe: ModelRecipe) -> list[int]:
    """The ids of the tokens that the system's tokenizer has beyond its base's own."""
    base = load_processor(recipe).tokenizer
    return sorted(set(system.processor.tokenizer.get_vocab().values()) - set(base.get_vocab().values()))


def check_decision_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of yes and no. Raises UserError unless each is one token: its probability is read from the logits."""
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in (YES, NO)]
    if any(len(own) != 1 for own in ids):
        raise UserError(f"the tokenizer splits {YES!r} or {NO!r}, so the visibility decision is not one token")
    return ids[0][0], ids[1][0]
