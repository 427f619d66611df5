"""A trained folder: an adapter made, saved, loaded or merged into its base, with the answer format checked."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    PreTrainedModel,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from eval.analysis.calibration import FILE_NAME as CALIBRATION
from rivegs_mllm.answer.format import FILE_NAME as FORMAT
from rivegs_mllm.answer.format import AnswerFormat, loc_tokens
from rivegs_mllm.answer.prompt import check_instruction
from rivegs_mllm.config.answering import Answering, read_answering
from rivegs_mllm.config.schema import AnswerRecipe, ModelRecipe, Recipe
from rivegs_mllm.config.trained import FILE_NAME as RECIPE
from rivegs_mllm.models.base_model import (
    System,
    add_embedding_rows,
    add_tokens,
    is_base,
    load_model,
    load_processor,
    make_answer_format,
    new_token_ids,
)
from rivegs_mllm.models.fused_lora import use_fused_layers
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.runtime.foreign import loading, one_line, read_object, shown
from rivegs_mllm.types import UserError


def add_adapter(system: System, recipe: Recipe, fused: bool = True) -> System:
    """The system with a LoRA adapter (arXiv 2106.09685) to train, and with it the rows of tokens added to the base.

    ``fused``: whether on a CPU its layers are those that are faster there; else they are PEFT's, as on GPUs. With a
    quantised base this is QLoRA (arXiv 2305.14314). Raises UserError for LoRA settings that do not fit the base,
    and for a quantised base under ZeRO-3.
    """
    # PEFT's prepare_model_for_kbit_training is left out: it makes embedding, norms and head float32, and with them all
    # that passes between the layers, twice the bytes of bfloat16; the norms calculate in float32 as they are.
    if recipe.model.quantization is not None and is_deepspeed_zero3_enabled():
        raise UserError("model.quantization: 4-bit weights cannot be sharded by ZeRO-3; use zero2.yaml, or no nf4")
    # ZeRO-3 wants one type in a module; elsewhere float32 adapters beside a bfloat16 base are safer.
    config, sharded = _adapter_config(system, recipe, fused), is_deepspeed_zero3_enabled()
    try:
        adapted = get_peft_model(system.model, config, autocast_adapter_dtype=not sharded)
    except Exception as error:  # PEFT, such as for modules that are not there
        raise UserError(f"lora: {one_line(error)}") from error
    _keep_gradients_out_of_a_frozen_tower(adapted)
    return dataclasses.replace(system, model=adapted)


def _keep_gradients_out_of_a_frozen_tower(adapted: PeftModel) -> None:
    """Gradient checkpointing makes the outputs of all embeddings require gradients, those of patches too, which would
    then be carried back through the whole vision tower for nothing."""
    tower = adapted.get_base_model().model.visual
    if not any(parameter.requires_grad for parameter in tower.parameters()):
        tower.forward = torch.no_grad()(tower.forward)


def _adapter_config(system: System, recipe: Recipe, fused: bool) -> LoraConfig:
    """The recipe's LoRA settings, and what the base and the device add to them."""
    lora = copy.copy(recipe.lora)  # the recipe is saved as it was given
    new = new_token_ids(system, recipe.model)
    if new:
        # The config does not say it in one place: the hub's files of Qwen2.5-VL have no text config.
        tied = system.model.get_output_embeddings().weight is system.model.get_input_embeddings().weight
        lora.trainable_token_indices = {"embed_tokens": new} if tied else {"embed_tokens": new, "lm_head": new}
    # A sharded weight is gathered only within its own module, and 4-bit weights cannot be added to.
    sharded = is_deepspeed_zero3_enabled()
    if fused and recipe.train.device.type == "cpu" and not sharded and recipe.model.quantization is None:
        use_fused_layers(lora)
    return lora


def save_beside_weights(system: System, folder: Path) -> None:
    """Writes all that an adapter folder holds beside the weights.

    The answer format comes last, so that a folder that has it is complete.

    Raises UserError where the training diverged and a weight is not finite.
    """
    for name, value in system.model.named_parameters():
        if value.requires_grad and not torch.isfinite(value).all():
            raise UserError(f"{folder}: {name} is not finite: the training diverged; lower train.learning_rate")
    system.processor.save_pretrained(folder)
    write_text(folder / "instruction.txt", system.instruction)
    system.answer_format.save(folder)


def load_trained(folder: Path, recipe: Answering | Recipe) -> System:
    """A trained system: an adapter on its base, or a model that one was merged into. Raises UserError where the folder
    is incomplete, or of another base or answer format."""
    return load_adapter(folder, recipe) if is_adapter(folder) else load_merged(folder, recipe)


def trained_files(folder: Path) -> tuple[Path, ...]:
    """The files of a trained folder that the model's answers depend on, beside its processor's."""
    weights = [path for kind in ("adapter_model*", "model*.safetensors") for path in sorted(folder.glob(kind))]
    return (folder / FORMAT, folder / CALIBRATION, *weights)


def load_adapter(folder: Path, recipe: Answering | Recipe) -> System:
    """An adapter on its base, merged into it but for a base of 4 bits, which would lose by it. Raises UserError as
    ``load_trained`` does."""
    system = load_adapter_alone(folder, recipe)
    if recipe.model.quantization is None:
        system.model.merge_adapter()  # one product a layer and token instead of three
    return system


def load_adapter_alone(folder: Path, recipe: Answering | Recipe) -> System:
    """An adapter beside its base, as it was trained. Raises UserError as ``load_trained`` does."""
    answer_format = AnswerFormat.load(folder)
    for name in ("adapter_config.json", SAFETENSORS_WEIGHTS_NAME, "instruction.txt"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: has no {name}, so the adapter is incomplete; copy or train it again")
    trained_on = check_adapter_config(folder)
    instruction = instruction_of(folder)
    with loading(f"{folder}: its processor"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=recipe.model.trust_remote_code)
        answer_format.check_processor(processor)
    if not is_base(trained_on, recipe.model.base):
        raise UserError(f"{folder}: trained on the base {trained_on}, but the recipe says {recipe.model.base}")
    made = make_answer_format(recipe.model, recipe.answer, load_processor(recipe.model))
    answer_format.check(made, str(folder), "the recipe")  # before the weights are read, which takes minutes of 7B
    model = load_model(recipe.model)
    if answer_format.encoding == "loc":
        add_tokens(processor.tokenizer, loc_tokens(answer_format.bins))
    add_embedding_rows(model, processor.tokenizer)
    return System(load_adapter_weights(model, folder), processor, answer_format, instruction)


def check_init(folder: Path, recipe: Recipe, name: str) -> None:
    """Raises UserError where the adapter in ``folder`` cannot be what training by the recipe called ``name`` starts
    from: base, box format and LoRA have to be the same, types and segments need not."""
    answer_format = AnswerFormat.load(folder)
    base = check_adapter_config(folder)
    config = folder / "adapter_config.json"
    if not is_base(base, recipe.model.base):
        raise UserError(f"{name}: model.base: {recipe.model.base}, but {config} was trained on {base}")
    own = recipe.answer.bins if recipe.answer.encoding == "loc" else None
    for key, ours, theirs in (
        ("encoding", recipe.answer.encoding, answer_format.encoding),
        ("bins", own, answer_format.bins),
    ):
        if ours != theirs:
            raise UserError(
                f"{name}: answer.{key}: {ours}, but {folder / FORMAT} says {theirs}, so its boxes would be misread; "
                f"--answer.{key}={theirs} keeps them"
            )
    rank = read_object(config, "copy the adapter again")["r"]
    if rank != recipe.lora.r:
        raise UserError(f"{name}: lora.r: {recipe.lora.r}, but {config} says {rank}; --lora.r={rank} is the same")


def load_init(model: PeftModel, folder: Path) -> None:
    """Gives an adapter that is to be trained the weights of the one in ``folder``. Raises UserError where these are not
    of the same modules and shapes."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if is_deepspeed_zero3_enabled():
        raise UserError(f"init: {path}: cannot be loaded into weights that ZeRO-3 has divided; take zero2.yaml")
    with loading(str(path)):
        saved = load_file(path)
    own = get_peft_model_state_dict(model)
    wrong = sorted(key for key in saved.keys() | own.keys() if _shape(saved, key) != _shape(own, key))
    if wrong:
        raise UserError(
            f"init: {path}: {len(wrong)} weights are of other modules or shapes than the recipe's lora makes, such as "
            f"{wrong[0]}; give lora the settings of {folder / RECIPE}"
        )
    set_peft_model_state_dict(model, saved)


def _shape(weights: dict[str, torch.Tensor], key: str) -> torch.Size | None:
    return weights[key].shape if key in weights else None


def is_adapter(folder: Path) -> bool:
    """Whether a trained model's folder holds an adapter, whose base lies elsewhere."""
    return (folder / "adapter_config.json").is_file()


def load_merged(folder: Path, recipe: Answering | Recipe) -> System:
    """A model that an adapter was merged into, with all that an adapter's folder holds beside it.

    It is its own base, whatever the recipe's. Raises UserError where the folder is incomplete, or of another answer
    format.
    """
    answer_format = AnswerFormat.load(folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: has neither adapter_config.json, of an adapter, nor config.json, of a merged model, so it is "
            "incomplete; copy or train it again"
        )
    instruction = instruction_of(folder)
    own = dataclasses.replace(recipe.model, base=str(folder.absolute()), revision=None)
    with loading(f"{folder}: its processor"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=own.trust_remote_code)
        answer_format.check_processor(processor)
    answer_format.check(make_answer_format(own, recipe.answer, processor), str(folder), "the recipe")
    model = load_model(own)
    add_embedding_rows(model, processor.tokenizer)
    return System(model, processor, answer_format, instruction)


def answering_of(folder: Path) -> Answering:
    """The settings to use a trained folder's model with: its own recipe or, in a folder of an earlier release, which
    has none, what its answer format, its instruction and its adapter's config say. Raises UserError."""
    if (folder / RECIPE).is_file():
        return read_answering(folder / RECIPE, trained=folder)
    answer_format = AnswerFormat.load(folder)
    base = check_adapter_config(folder) if is_adapter(folder) else str(folder.absolute())
    model = ModelRecipe(
        base="tiny" if is_base(base, "tiny") else base,
        min_pixels=answer_format.min_pixels,
        max_pixels=answer_format.max_pixels,
    )
    answer = AnswerRecipe(
        segments=list(answer_format.segments),
        types=list(answer_format.types),
        encoding=answer_format.encoding,
        bins=answer_format.bins,
        instruction=instruction_of(folder),
    )
    return Answering(model, answer)


def check_adapter_config(folder: Path) -> str:
    """The base that an adapter was trained on. Raises UserError where its config is damaged."""
    path = folder / "adapter_config.json"
    hint = "copy the adapter again, or train it again"
    config = read_object(path, hint)
    base, rank, kind = (config.get(key) for key in ("base_model_name_or_path", "r", "peft_type"))
    if type(base) is not str or not base:
        raise UserError(f"{path}: base_model_name_or_path: {shown(base)} is no base; {hint}")
    if kind != "LORA":
        raise UserError(f"{path}: peft_type: {shown(kind)} is not LORA; {hint}")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{path}: r: {shown(rank)} is not a whole number of at least 1; {hint}")
    return base


def instruction_of(folder: Path) -> str:
    """What a trained model is asked, with its fields. Raises UserError where the folder does not say it."""
    path = folder / "instruction.txt"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy the model again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); copy the adapter again") from None
    try:
        check_instruction(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return text


def load_adapter_weights(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the adapter in ``folder``. Raises UserError where a weight is missing, unexpected or damaged."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    try:
        with safe_open(path, "pt") as file:
            saved = set(file.keys())
        adapted = PeftModel.from_pretrained(model, folder)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: damaged, or of another base: {one_line(error)}") from error
    except Exception as error:  # PEFT, for what its config says
        raise UserError(f"{folder}: no adapter that can be loaded: {one_line(error)}; train it again") from error
    # PEFT takes what fits and only warns of the rest.
    wrong = sorted(saved ^ get_peft_model_state_dict(adapted).keys())
    if wrong:
        raise UserError(f"{path}: {len(wrong)} weights are missing or unexpected, such as {wrong[0]}")
    return adapted
