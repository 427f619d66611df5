"""The whole rehearsal of a recipe: its base, its data, what it costs, and two steps of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedConfig, ProcessorMixin

from rivegs_mllm.answer.format import FILE_NAME, AnswerFormat
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.config.trained import local_folder
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.models.adapter import check_init
from rivegs_mllm.models.base_model import load_processor, load_without_weights, make_answer_format
from rivegs_mllm.rehearsal.bases import BASES
from rivegs_mllm.rehearsal.check import FAULT, OK, WARNING, Check
from rivegs_mllm.rehearsal.cost import Load, Machine, check_disk, check_memory, check_time, stage_for
from rivegs_mllm.rehearsal.launch import config_of, launch
from rivegs_mllm.rehearsal.posts import POSTS, Posts, check_encoding, check_posts, measure_posts
from rivegs_mllm.rehearsal.small_base import save_small_base, stand_in_processor
from rivegs_mllm.rehearsal.steps import STEPS, Plan
from rivegs_mllm.training.memory import read_config
from rivegs_mllm.types import UserError

ROWS = 2
"""Posts a process has in a batch at most: what is rehearsed does not depend on more."""
ANSWER = 16
"""Tokens that are generated for a post: weights that have learned nothing would go on to the limit."""


def rehearse(path: Path, overrides: Sequence[str], machine: Machine) -> Iterator[Check]:
    """All that can be found out about a run of the recipe on ``machine`` without it, in the order in which it is.

    Raises UserError for a recipe that is wrong in itself.
    """
    # Otherwise bf16 is refused where there is no GPU.
    recipe = read_recipe(path, [*overrides, "--train.use_cpu=true"])
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        config, found = _config(recipe)
        yield found
        if config is None:
            return
        base = Path(folder) / "base"
        yield _save_base(base, recipe, config)
        small = read_recipe(path, [*overrides, *_on(base, recipe), "--train.use_cpu=true"])
        faults = list(check_settings(path, recipe, small, config))
        yield from faults
        measured = None
        if not any(fault.level == FAULT for fault in faults):
            processor, answer_format = load_without_weights(small)
            measured = _measured(small, processor, answer_format)
            if isinstance(measured, Check):
                yield measured
                measured = None
            else:
                yield from check_posts(measured, recipe)
                yield from check_encoding(measured, small, processor, answer_format)
        costs = list(check_costs(config, recipe, machine, measured))
        yield from costs
        if measured is None or any(cost.subject == "adapter" for cost in costs):
            yield Check(WARNING, "steps", "not rehearsed, for what is wrong above", "correct it, and rehearse again")
            return
        yield from _steps(path, [*overrides, *_on(base, recipe)], small, measured, machine, config, Path(folder))


def _config(recipe: Recipe) -> tuple[PreTrainedConfig | None, Check]:
    base = recipe.model.base
    try:
        config = read_config(recipe)
        return config, Check(OK, "base", f"{base}, {config.model_type}, by its own config")
    except UserError as error:
        if base not in BASES:
            return None, Check(FAULT, "base", str(error))
    config = BASES[base]()
    advice = "a machine that reaches the hub, or has it in its cache, rehearses with its own"
    return config, Check(WARNING, "base", f"{base}, {config.model_type}, by the numbers its makers published", advice)


def _save_base(folder: Path, recipe: Recipe, config: PreTrainedConfig) -> Check:
    """Saves a small base with the real processor, or a stand-in's, and says which."""
    try:
        processor = load_processor(dataclasses.replace(recipe.model, min_pixels=None, max_pixels=None))
        check = Check(OK, "processor", "tokenizer and processor are the base's own")
    except UserError:
        processor = stand_in_processor(config, _texts(recipe))
        found = "stand-ins: pictures are cut as by the base's own, lengths of texts are near, rather too long"
        advice = "a machine that has the base's own in its cache, or reaches the hub, rehearses with them"
        check = Check(WARNING, "processor", found, advice)
    save_small_base(folder, config, processor, recipe.model.dtype)
    return check


def _texts(recipe: Recipe) -> Iterator[str]:
    """What a vocabulary is trained on."""
    yield recipe.answer.instruction
    for sample in read_split(recipe.data.folder, recipe.data.train)[:POSTS]:
        yield sample.text
        yield from sample.knowledge
        yield "\n".join(f"{entity.text} ({entity.type}) yes no [0, 1]" for entity in sample.entities)


def _on(base: Path, recipe: Recipe) -> list[str]:
    """Overrides by which the recipe takes the small base."""
    attention = "sdpa" if recipe.model.attention.startswith("flash") else recipe.model.attention
    return [f"--model.base={base}", "--model.revision=null", f"--model.attention={attention}"]


def check_settings(path: Path, recipe: Recipe, small: Recipe, config: PreTrainedConfig) -> Iterator[Check]:
    """What does not fit in a recipe, its base, its limits and what it starts from."""
    tower = config.vision_config
    factor = tower.patch_size * tower.spatial_merge_size
    if recipe.model.max_pixels is not None and recipe.model.max_pixels < factor**2:
        found = f"model.max_pixels = {recipe.model.max_pixels} is less than one of {config.model_type}'s patches"
        yield Check(
            FAULT, "pictures", found, f"a token sees {factor} x {factor} = {factor**2} pixels; take hundreds of them"
        )
        return
    try:
        processor = load_processor(small.model)
        made = make_answer_format(small.model, small.answer, processor)
        load_without_weights(small)
    except UserError as error:
        yield Check(FAULT, "format", str(error))
        return
    yield from _check_precision(recipe)
    try:
        if recipe.init:
            check_init(local_folder(recipe.init), recipe, str(path))
        out = Path(recipe.train.output_dir)
        if (out / FILE_NAME).exists():
            AnswerFormat.load(out).check(made, str(out), "the recipe")
            yield Check(WARNING, "format", f"{out} holds a finished run", "choose another --train.output_dir")
    except UserError as error:
        yield Check(
            FAULT, "format", " ".join(str(error).split()), "choose another --train.output_dir, or another --init"
        )
        return
    steps = f"{made.bins} location tokens each way" if made.bins else "the family's own numbers"
    yield Check(OK, "format", f"{made.encoding}, {steps}, {', '.join(made.segments)}")


def _check_precision(recipe: Recipe) -> Iterator[Check]:
    """Whether the precision of the weights is that of the steps."""
    train, dtype = recipe.train, recipe.model.dtype
    steps = "bfloat16" if train.bf16 else "float16" if train.fp16 else "float32"
    if dtype == steps:
        return
    found = f"model.dtype is {dtype}, and steps are made in {steps}"
    if {dtype, steps} == {"bfloat16", "float16"}:
        yield Check(FAULT, "precision", found, "train.bf16 goes with bfloat16, train.fp16 with float16")
    else:
        yield Check(WARNING, "precision", found, "train.bf16: true with model.dtype: bfloat16 is the fastest")


def _measured(recipe: Recipe, processor: ProcessorMixin, answer_format: AnswerFormat) -> Posts | Check:
    try:
        return measure_posts(recipe, processor, answer_format)
    except UserError as error:
        return Check(FAULT, "posts", str(error))


def check_costs(config: PreTrainedConfig, recipe: Recipe, machine: Machine, measured: Posts | None) -> Iterator[Check]:
    """Memory, time and disk; a recipe whose adapter does not fit the base ends with a fault of the "adapter"."""
    try:
        staged = stage_for(config, recipe, machine)
        memory, own = check_memory(config, recipe, staged)
    except UserError as error:
        yield Check(FAULT, "memory", str(error))
        return
    except ValueError as error:  # PEFT, for modules that are not there
        yield Check(
            FAULT, "adapter", str(error).split("\n")[0][:300], "lora.target_modules must match modules of the base"
        )
        return
    yield Check(
        OK,
        "launch",
        f"accelerate_configs/{config_of(staged)}, {own.trainable / 1e6:.1f} M of "
        f"{own.parameters / 1e9:.2f} G parameters are trained",
    )
    yield memory
    yield from check_time(config, recipe, staged, own, _load(recipe, config, measured))
    yield check_disk(recipe, staged, own)


def _load(recipe: Recipe, config: PreTrainedConfig, measured: Posts | None) -> Load:
    dev = _dev_posts(recipe)
    if measured is None or not measured.posts:
        tower = config.vision_config
        picture = (recipe.model.max_pixels or 0) / (tower.patch_size * tower.spatial_merge_size) ** 2
        return Load(recipe.max_length, picture, recipe.predict.max_new_tokens, 1, dev, False)
    posts = measured.posts
    tokens, picture, answer = (
        sum(getattr(post, name) for post in posts) / len(posts) for name in ("tokens", "picture", "answer")
    )
    return Load(tokens, picture, answer, measured.total, dev, True)


def _dev_posts(recipe: Recipe) -> int:
    """How many posts an evaluation answers."""
    if recipe.train.eval_strategy == "no":
        return 0
    try:
        return len(read_split(recipe.data.folder, recipe.data.dev)[: recipe.data.max_eval_samples])
    except UserError:
        return recipe.data.max_eval_samples or 0


def _steps(
    path: Path,
    overrides: Sequence[str],
    recipe: Recipe,
    measured: Posts,
    machine: Machine,
    config: PreTrainedConfig,
    folder: Path,
) -> Iterator[Check]:
    """Two steps of the recipe's own training, on posts that fit."""
    staged = stage_for(config, recipe, machine)
    processes = min(machine.all, 2)
    rows = min(recipe.train.per_device_train_batch_size, ROWS)
    fitting = [post for post in measured.posts if post.tokens <= recipe.max_length]
    bare = [post for post in fitting if not post.picture]
    seen = [post for post in fitting if post.picture and post.boxes] or fitting
    chosen = ([*bare[:1], *seen, *bare] * STEPS)[: rows * processes * STEPS]
    if not chosen:
        yield Check(FAULT, "steps", "no post fits max_length, so there is nothing to train on")
        return
    own = [*overrides, *two_steps(recipe, rows, folder / "run")]
    ids = list(dict.fromkeys(post.sample.id for post in chosen))
    plan = Plan(folder / "plan.json", path, own, ids, ids[: max(2, processes)])
    plan.save()
    yield from launch(plan, staged, config_of(staged))


def two_steps(recipe: Recipe, rows: int, out: Path) -> list[str]:
    """Overrides that make a run of two steps, with a checkpoint and an evaluation after each."""
    return [
        f"--data.folder={recipe.data.folder.absolute()}",
        "--data.test=null",
        f"--predict.max_new_tokens={min(recipe.predict.max_new_tokens, ANSWER)}",
        f"--train.output_dir={out}",
        f"--train.max_steps={STEPS}",
        f"--train.per_device_train_batch_size={rows}",
        "--train.gradient_accumulation_steps=1",
        "--train.lr_scheduler_type=constant",  # a warm-up would be longer than the run
        "--train.warmup_steps=0",
        "--train.logging_steps=1",
        "--train.eval_strategy=steps",
        "--train.eval_steps=1",
        "--train.eval_delay=0",
        "--train.save_strategy=steps",
        "--train.save_steps=1",
        f"--train.save_total_limit={STEPS + 1}",
        "--train.dataloader_num_workers=0",
        "--train.report_to=none",
        "--train.disable_tqdm=true",
        "--train.use_cpu=true",
        "--init=null",
    ]
