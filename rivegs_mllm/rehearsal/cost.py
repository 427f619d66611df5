"""What a run should cost: memory of each GPU, time, and disk. Calculated; what is assumed is said with each.

Time counts the products of matrices. A token costs a forward pass 2 operations for each weight of the language model's
linear layers, and a patch as many for the tower's; attention comes on top. The backward pass through frozen weights
costs as much as the forward pass, since there is a gradient for what passes through, but none for the weights; with
gradient checkpointing the forward pass is done twice. A tower that nothing is trained in is only run forward. The
output layer runs in the answer's columns alone. Adapters are left out: of rank 64 they add a few percent.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig

from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.rehearsal.check import FAULT, OK, WARNING, Check
from rivegs_mllm.rehearsal.gpus import Gpu
from rivegs_mllm.training.memory import Estimate, estimate

UTILISATION = 0.35
"""Of a GPU's stated operations a second, reached in training."""
READING = 0.5
"""Of a GPU's stated bandwidth, reached in generation, in which each token reads all weights once."""
ROOM = 0.92
"""Of a GPU's memory, filled by what is calculated, above which it may not fit."""
PROCESSOR_BYTES = 16e6
"""Of the tokenizer and processor in each checkpoint."""
EVALUATIONS = 0.15
"""Of a run's time, above which evaluations are too many."""


@dataclass(frozen=True)
class Machine:
    """``nodes`` of ``gpus`` each, of the kind ``gpu`` called ``name``; ``zero``, DeepSpeed's stage, 0 without it."""

    name: str
    gpu: Gpu
    gpus: int
    nodes: int
    zero: int

    @property
    def all(self) -> int:
        """GPUs in all."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Load:
    """Of the average post: ``tokens``, of which ``picture`` and ``answer``. ``posts`` and ``dev`` are how many there
    are; ``measured``: whether it was, or is the most that the recipe allows."""

    tokens: float
    picture: float
    answer: float
    posts: int
    dev: int
    measured: bool


def check_memory(config: PreTrainedConfig, recipe: Recipe, machine: Machine) -> tuple[Check, Estimate]:
    """Whether the largest batch fits a GPU, and if not, what does. Raises UserError as ``estimate`` does."""
    own = estimate(config, recipe, machine.all, machine.zero)
    room = machine.gpu.memory
    parts = sorted(own.parts.items(), key=lambda part: -part[1])[:3]
    shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts)
    found = (
        f"{own.total / 1e9:.1f} GB of {room / 1e9:.0f} GB on each {machine.name} ({shown}), "
        f"every row of the batch taken as long as max_length"
    )
    figures = {"memory_gb": own.total / 1e9}
    if own.total > room:
        return Check(FAULT, "memory", found, _what_fits(config, recipe, machine), figures), own
    if own.total > ROOM * room:
        advice = f"little room; {_what_fits(config, recipe, machine)}"
        return Check(WARNING, "memory", found, advice, figures), own
    return Check(OK, "memory", found, figures=figures), own


def _what_fits(config: PreTrainedConfig, recipe: Recipe, machine: Machine) -> str:
    """The mildest change by which a batch fits."""
    train, room = recipe.train, ROOM * machine.gpu.memory
    rows, rounds = train.per_device_train_batch_size, train.gradient_accumulation_steps
    for smaller in (own for own in (rows // 2, rows // 4, rows // 8) if own):
        if estimate(config, _changed(recipe, smaller), machine.all, machine.zero).total < room:
            more = rounds * rows // smaller
            return (
                f"--train.per_device_train_batch_size={smaller} --train.gradient_accumulation_steps={more} fits, and "
                "learns the same"
            )
    if recipe.model.quantization is None:
        if estimate(config, _changed(recipe, 1, "nf4"), machine.all, min(machine.zero, 2)).total < room:
            return "--model.quantization=nf4 with --train.per_device_train_batch_size=1 fits"
        if machine.all > 1 and estimate(config, _changed(recipe, 1), machine.all, 3).total < room:
            return "accelerate_configs/zero3.yaml with --train.per_device_train_batch_size=1 fits"
    return "no batch fits; take a GPU with more memory, a smaller base, or accelerate_configs/zero3_offload.yaml"


def _changed(recipe: Recipe, rows: int, quantization: str | None = None) -> Recipe:
    """The recipe with so many rows a batch. Copied, not made again, which would reset accelerate's state."""
    other = copy.copy(recipe)
    other.train = copy.copy(recipe.train)
    other.train.per_device_train_batch_size = rows
    if quantization:
        other.model = dataclasses.replace(recipe.model, quantization=quantization)
    return other


def stage_for(config: PreTrainedConfig, recipe: Recipe, machine: Machine) -> Machine:
    """The machine with DeepSpeed's stage: none on one GPU, 2 on several, 3 where the batch fits no other way."""
    if machine.all == 1:
        return dataclasses.replace(machine, zero=0)
    two = dataclasses.replace(machine, zero=2)
    if recipe.model.quantization or estimate(config, recipe, machine.all, 2).total < machine.gpu.memory:
        return two
    return dataclasses.replace(machine, zero=3)


def check_time(
    config: PreTrainedConfig, recipe: Recipe, machine: Machine, own: Estimate, load: Load
) -> Iterator[Check]:
    """Hours of training and of its evaluations."""
    train, gpu = recipe.train, machine.gpu
    forward, training = operations(config, recipe, load)
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps * machine.all
    steps = train.max_steps if train.max_steps > 0 else math.ceil(train.num_train_epochs * load.posts / batch)
    second = training * batch / (machine.all * gpu.flops * UTILISATION)
    base = "the average of the posts" if load.measured else "the most that the recipe allows, no post being measured"
    found = (
        f"{_duration(steps * second)} for {steps:,} steps of {batch} posts, {second:.2f} s each, by "
        f"{training / 1e12:.1f} TFLOP a post of {load.tokens:,.0f} tokens ({base}) "
        f"at {UTILISATION:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s "
        f"on each of {machine.all}; no waiting for data or network"
    )
    yield Check(OK, "time", found, figures={"hours": steps * second / 3600, "steps": steps, "step_seconds": second})
    if train.eval_strategy == "no":
        yield Check(OK, "evaluation", "none during the run")
        return
    every = train.eval_steps if train.eval_strategy == "steps" else math.ceil(load.posts / batch)
    every = int(every * steps) if every < 1 else every
    times = int(steps // every) if every else 0
    settings = recipe.predict
    together = settings.batch_tokens // math.ceil(load.tokens + settings.max_new_tokens)
    rounds = math.ceil(load.dev / machine.all / max(1, min(together, settings.batch_size)))
    reading = own.parameters * 2 / (gpu.bandwidth * READING)
    each = rounds * load.answer * reading + load.dev * forward / (machine.all * gpu.flops * UTILISATION)
    share = times * each / (times * each + steps * second)
    found = (
        f"{times} of {load.dev:,} posts, {_duration(each)} each, {share:.0%} of the run; {load.answer:.0f} tokens an "
        f"answer, each reading the base once at {READING:.0%} of {gpu.bandwidth / 1e12:.1f} TB/s"
    )
    figures = {"evaluations": times, "evaluation_hours": times * each / 3600}
    if share > EVALUATIONS:
        yield Check(WARNING, "evaluation", found, "raise train.eval_steps or lower data.max_eval_samples", figures)
    else:
        yield Check(OK, "evaluation", found, figures=figures)


def operations(config: PreTrainedConfig, recipe: Recipe, load: Load) -> tuple[float, float]:
    """Operations of a post's forward pass, and of its training."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    text, tower = config.get_text_config(), config.vision_config
    attention = model.get_decoder().layers[0].self_attn
    width = attention.head_dim * text.num_attention_heads
    language = 2 * _linear(model.get_decoder()) * load.tokens  # and half of attention's, which is causal:
    language += 2 * load.tokens**2 * width * text.num_hidden_layers
    patches = load.picture * tower.spatial_merge_size**2
    blocks = model.model.visual.blocks
    hidden = next(module for module in blocks.modules() if isinstance(module, nn.Linear)).in_features
    whole = len(tower.fullatt_block_indexes) if config.model_type == "qwen2_5_vl" else tower.depth
    seeing = 2 * _linear(blocks) * patches + 2 * _linear(model.model.visual.merger) * load.picture
    seeing += 4 * patches**2 * hidden * whole
    writing = 2 * text.vocab_size * text.hidden_size * load.answer
    passes = 3 if recipe.train.gradient_checkpointing else 2
    sees = trains_tower(recipe, model)
    training = passes * language + (passes if sees else 1) * seeing + 2 * writing
    return language + seeing + writing, training


def trains_tower(recipe: Recipe, model: nn.Module) -> bool:
    """Whether the recipe's adapter has a part in the vision tower."""
    adapted = get_peft_model(model, recipe.lora, low_cpu_mem_usage=True)
    return any(own.requires_grad for name, own in adapted.named_parameters() if ".visual." in name)


def _linear(part: nn.Module) -> int:
    return sum(module.weight.numel() for module in part.modules() if isinstance(module, nn.Linear))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def checkpoint_bytes(trainable: int, zero: int) -> float:
    """Of a checkpoint: the adapter and two moments in float32; DeepSpeed writes the adapter twice, in bfloat16, and a
    float32 copy beside the moments."""
    each = 2 * 2 + 3 * 4 if zero else 4 + 2 * 4
    return each * trainable + PROCESSOR_BYTES


def check_disk(recipe: Recipe, machine: Machine, own: Estimate) -> Check:
    """Whether the checkpoints have room where the run is written."""
    train = recipe.train
    each = checkpoint_bytes(own.trainable, machine.zero)
    kept = train.save_total_limit
    # The best and the last are kept even at a limit of 1, and the new one is whole before an old one goes.
    count = max(kept, 2 if train.load_best_model_at_end else 1) + 1 if kept else None
    out = Path(train.output_dir).absolute()
    folder = next(path for path in (out, *out.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    figures = {"checkpoint_gb": each / 1e9}
    if count is None:
        found = f"{each / 1e9:.1f} GB a checkpoint, all are kept; {free / 1e9:,.0f} GB are free at {folder}"
        return Check(WARNING, "disk", found, "--train.save_total_limit=2 keeps the best and the last", figures)
    need = count * each
    found = f"{need / 1e9:.1f} GB for {count} checkpoints; {free / 1e9:,.0f} GB are free at {folder}"
    figures["disk_gb"] = need / 1e9
    if need > free:
        return Check(FAULT, "disk", found, "make room, or write to another disk with --train.output_dir", figures)
    return Check(OK, "disk", found, figures=figures)
