"""The memory that a run should need on each GPU, calculated before any is rented.

``rivegs memory RECIPE [--gpus N] [--zero 2|3] [--section.field=value ...]`` prints a table. It reads the base's config,
not its weights: parameters are counted on the meta device, so a laptop will do. Without access to the hub,
``--model.base=FOLDER`` names a folder that holds the base's ``config.json``.

A batch is taken to be as large as the recipe allows: every row ``max_length`` tokens, every answer
``predict.max_new_tokens``, every picture ``model.max_pixels``. With n rows' tokens in a batch the parts are

- *base*: two bytes a parameter in bfloat16. NF4 takes 4.127 bits a weight of the language model's linear layers (QLoRA,
  arXiv 2305.14314, section 3); the rest stays in bfloat16. ZeRO-3 divides it.
- *adapter*, *gradients*, *optimizer*: as they are stored, with two moments of AdamW. DeepSpeed keeps the trained
  parameters in bfloat16 and divides bfloat16 gradients and, in float32, gradients, moments and a master copy
  (ZeRO, arXiv 1910.02054, section 5).
- *buffers*: those that DeepSpeed reduces gradients in, and the layers that ZeRO-3 has gathered at a time; without
  DeepSpeed, on several GPUs, the copy of the gradients that is reduced.
- *activations*: what ``layer_bytes`` says, n times, for each layer; with gradient checkpointing the input of each
  layer, 2nh, and all of one layer. The vision tower counts the same way with its patches, if anything in it is trained.
- *added rows*: where location tokens are added to the base, the output layer is written anew with their trained rows in
  each step: a copy of it in bfloat16, and its gradient.
- *logits*: 20 bytes each: bfloat16 and its gradient; float32 as output, at targets, as log-probability, as gradient.
- *CUDA*: 2 GB for the context, the libraries' workspaces and fragmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.models.base_model import NOT_QUANTIZED, base_path, load_processor
from rivegs_mllm.models.device import count_parameters
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight, its share of the 8-bit scale of its block of 64, and of the float32 scale of 256 blocks."""
BUCKET = 50_000_000
"""Elements of a reduce bucket in accelerate_configs/zero2.json and zero3.json; two are in use."""
LIVE = 500_000_000
"""Parameters that ZeRO-3 has gathered at a time: stage3_max_live_parameters in accelerate_configs/zero3.json."""
LOGIT_BYTES = 20  # of these two, see the list above
CUDA = 2e9


@dataclass(frozen=True)
class Estimate:
    """``parameters`` of the base, those ``trainable``, and the bytes of each part on one GPU."""

    parameters: int
    trainable: int
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes on one GPU."""
        return sum(self.parts.values())


def estimate(config: PreTrainedConfig, recipe: Recipe, gpus: int = 1, zero: int = 0) -> Estimate:
    """The memory that a run of ``recipe`` on a base of ``config`` should need on each of ``gpus``.

    ``zero`` is DeepSpeed's stage, 2 or 3, or 0 without DeepSpeed. Raises UserError for a recipe that says too little,
    and for a quantised base under ZeRO-3, which divides no quantised weights.
    """
    if recipe.model.max_pixels is None:
        raise UserError("model.max_pixels: must be given, for it decides how many tokens a picture has")
    if recipe.model.quantization and zero == 3:
        raise UserError("model.quantization: ZeRO-3 cannot divide quantised weights; take ZeRO-2")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=recipe.model.dtype)
    parameters = count_parameters(model)
    base = base_bytes(model, recipe.model.quantization is not None)
    layer = model.get_decoder().layers[0]
    adapted = get_peft_model(model, recipe.lora, low_cpu_mem_usage=True)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    trainable = sum(p.numel() for p in trained) + new_rows(config, recipe)
    stored = sum(p.numel() * p.element_size() for p in trained) + 4 * new_rows(config, recipe)
    parts = {"base": base, **_state_bytes(parameters, base, trainable, stored, gpus, zero)}
    vision = any(p.requires_grad for name, p in adapted.named_parameters() if ".visual." in name)
    parts["activations"] = activation_bytes(config, recipe, layer, vision)
    columns = recipe.train.per_device_train_batch_size * recipe.predict.max_new_tokens
    text = config.get_text_config()
    if recipe.answer.encoding == "loc":
        parts["added rows"] = 2 * 2 * text.vocab_size * text.hidden_size
    parts["logits"] = columns * text.vocab_size * LOGIT_BYTES
    parts["CUDA"] = CUDA
    return Estimate(parameters, trainable, parts)


def base_bytes(model: PreTrainedModel, quantized: bool) -> float:
    """Bytes of the base's weights. Quantised are the linear layers of the language model."""
    if not quantized:
        return sum(p.numel() * p.element_size() for p in model.parameters())
    count = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and should_convert_module(name, NOT_QUANTIZED)
    )
    return count * NF4_BYTES + (count_parameters(model) - count) * 2


def new_rows(config: PreTrainedConfig, recipe: Recipe) -> int:
    """Parameters of the rows that location tokens add, in the embedding and, if it is not tied, in the head."""
    if recipe.answer.encoding != "loc":
        return 0
    tables = 1 if config.tie_word_embeddings else 2
    return (recipe.answer.bins + 1) * config.get_text_config().hidden_size * tables


def _state_bytes(parameters: int, base: float, trainable: int, stored: float, gpus: int, zero: int) -> dict[str, float]:
    if not zero:
        buffers = stored if gpus > 1 else 0
        return {"adapter": stored, "gradients": stored, "optimizer": 2 * stored, "buffers": buffers}
    parts = {
        "adapter": 2 * trainable,
        "gradients": (2 + 4) * trainable / gpus,
        "optimizer": (4 + 8) * trainable / gpus,
        "buffers": 2 * 2 * min(BUCKET, trainable),
    }
    if zero == 3:
        parts["base"] = base / gpus
        parts["adapter"] /= gpus
        parts["buffers"] += 2 * min(LIVE, parameters)
    return parts


def activation_bytes(config: PreTrainedConfig, recipe: Recipe, layer: nn.Module, vision: bool) -> float:
    """Bytes that are kept for the backward pass of one batch, ``layer`` being a decoder layer with its adapter."""
    rows = recipe.train.per_device_train_batch_size
    text, tower = config.get_text_config(), config.vision_config
    one = layer_bytes(text.hidden_size, layer.self_attn.head_dim, text, layer, recipe.lora.lora_dropout)
    backward = 4 * text.hidden_size + 6 * text.intermediate_size
    tokens = rows * recipe.max_length
    kept = tokens * (
        _stacked(text.num_hidden_layers, text.hidden_size, one, recipe.train.gradient_checkpointing) + backward
    )
    if vision:
        patches = rows * recipe.model.max_pixels / tower.patch_size**2
        block = 26 * tower.hidden_size + 14 * tower.intermediate_size
        kept += patches * _stacked(tower.depth, tower.hidden_size, block, recipe.train.gradient_checkpointing)
    return kept


def _stacked(layers: int, hidden: int, one: float, checkpointing: bool) -> float:
    return 2 * hidden * layers + one if checkpointing else one * layers


def layer_bytes(hidden: int, head: int, text: PreTrainedConfig, layer: nn.Module, dropout: float) -> float:
    """Bytes a token that autograd keeps of a decoder layer in bfloat16: at least these, at most a fifth less.

    With h the hidden size, a and b the widths of queries and keys, f of the MLP: 12h for two norms (the input in
    float32, the output), 4a + 4b for queries, keys, values and what attention gives, 8f for the MLP; another 4a + 4b
    where queries and keys are normed. No attention matrix: the fused kernels keep none. Each adapter's input is kept
    once more, in bfloat16, where it is converted from float32 or goes through dropout, whose mask takes a byte.
    """
    queries, keys = head * text.num_attention_heads, head * text.num_key_value_heads
    normed = any(name == "q_norm" for name, _ in layer.self_attn.named_children())
    kept = 12 * hidden + 4 * (queries + keys) * (2 if normed else 1) + 8 * text.intermediate_size
    adapters = [module for module in layer.modules() if isinstance(module, LoraLayer)]
    inputs = sum(adapter.in_features for adapter in adapters)
    converted = any(p.dtype == torch.float32 for adapter in adapters for p in adapter.parameters() if p.requires_grad)
    return kept + inputs * (2 * (converted or dropout > 0) + (dropout > 0))


def read_config(recipe: Recipe) -> PreTrainedConfig:
    """The config of the recipe's base. Raises UserError where it cannot be had."""
    model = recipe.model
    try:
        return AutoConfig.from_pretrained(
            base_path(model.base), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except OSError as error:
        raise UserError(
            f"model.base: the config of {model.base} cannot be loaded; without the hub give "
            f"--model.base=FOLDER with its config.json: {one_line(error)}"
        ) from None


def table(result: Estimate) -> Table:
    """The parts and their sum, in GB of 1e9 bytes."""
    shown = Table("on each GPU", "GB")
    shown.columns[1].justify = "right"
    for name, size in result.parts.items():
        shown.add_row(name, f"{size / 1e9:.2f}")
    shown.add_section()
    shown.add_row("total", f"{result.total / 1e9:.1f}")
    return shown


def _limited(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with a limit on the size of pictures, its own or that of the base's processor. Raises UserError."""
    if recipe.model.max_pixels is not None:
        return recipe
    try:
        limit = load_processor(recipe.model).image_processor.size["longest_edge"]
    except UserError as error:
        raise UserError(
            f"{path}: model.max_pixels: missing, and it decides how many tokens a picture has; the base's own limit is "
            f"not known either: {error}"
        ) from None
    return replace(recipe, model=replace(recipe.model, max_pixels=limit))


def tell_memory(path: Path, overrides: Sequence[str], gpus: int, zero: int) -> None:
    """Prints the estimate of a recipe's run. Raises UserError."""
    # Otherwise bf16 is refused where there is no GPU.
    recipe = _limited(read_recipe(path, [*overrides, "--train.use_cpu=true"]), path)
    result = estimate(read_config(recipe), recipe, gpus, zero)
    print(f"{path}, GPUs: {gpus}, {f'ZeRO-{zero}' if zero else 'no DeepSpeed'}")
    print(f"{result.parameters / 1e9:.2f} G parameters, {result.trainable / 1e6:.1f} M trained")
    Console().print(table(result))
