"""Recipe to trained stage: tagger, entailment classifier or grounder, each through the same trainer.

A stage that can be trained says in ``prepare`` what is trained on which rows and how it is evaluated; resuming, the
best checkpoint by ``train.metric_for_best_model``, and the complete folder at the end are common to all.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import draccus
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINING_ARGS_NAME

from rivegs_mllm.cascade.checkpoint import METADATA_FILE, StageMetadata, write_metadata
from rivegs_mllm.config.bounds import check_bounds
from rivegs_mllm.config.distilled import Distilled
from rivegs_mllm.config.schema import DataRecipe, TrainSettings, check_train
from rivegs_mllm.runtime.logs import LOG, log_to
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.training.bad_posts import lines_left_out
from rivegs_mllm.training.dataset.sampling import SetEpochCallback, length_grouped_sampler
from rivegs_mllm.training.pictures import check_pictures
from rivegs_mllm.training.progress import show_progress
from rivegs_mllm.training.run.folder import (
    fingerprint,
    model_fingerprint,
    on_main,
    record_end,
    record_start,
    resource_errors_explained,
    resume_point,
    run_lock,
    run_training,
    settings_of,
    trainer_arguments,
    write_metrics,
)
from rivegs_mllm.types import TYPES, Sample, UserError


@dataclass(frozen=True)
class StageData:
    """The data that a stage is trained with. ``folder`` is what the pictures are relative to; ``types`` the type set.

    ``dev`` is empty where the recipe never evaluates. ``seed`` is for what is sampled again each epoch.
    """

    train: Sequence[Sample]
    dev: Sequence[Sample]
    folder: Path
    types: tuple[str, ...]
    seed: int

    def with_checked_pictures(self) -> StageData:
        """The same, for a stage that sees: each sample with the size of its picture. Raises UserError."""
        checked = check_pictures([*self.train, *self.dev], self.folder)
        return replace(self, train=checked[: len(self.train)], dev=checked[len(self.train) :])


@dataclass
class Trainable:
    """A stage in training.

    ``model(**batch)`` gives a dict (or a transformers output) with ``loss``, a mean over what the batch holds.
    A model with tied weights must be a transformers or PEFT model, which save these correctly.
    ``train`` has rows and ``set_epoch``; ``rivegs_mllm.training.dataset.sampling.MultiVariantDataset`` is one.
    ``lengths`` has a length for each row, so that batches are of like length. ``collate`` makes a batch of rows:
    tensors by argument of ``model``. ``evaluate`` gives the stage's figures on labelled posts, such as ``{"span_f1":
    0.8}``, which the recipe names as ``eval_span_f1``; the model is in evaluation mode and no gradients are kept.
    ``save`` writes a folder that the stage of a cascade loads; its metadata is written after it.
    ``rates``: the learning rate of parameters by the beginning of their names, where it is not ``train.learning_rate``.
    ``optimizer`` makes another optimiser than the recipe asks for, at the rate ``train.learning_rate``; ``schedule``
    gives the factor of that rate when a share of all steps is done, in place of ``train.lr_scheduler_type``.
    """

    model: nn.Module
    train: Dataset
    lengths: Sequence[int]
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]
    evaluate: Callable[[Sequence[Sample]], dict[str, float]]
    save: Callable[[Path], None]
    rates: Mapping[str, float] = field(default_factory=dict)
    optimizer: Callable[[float], torch.optim.Optimizer] | None = None
    schedule: Callable[[float], float] | None = None


class TrainableStage(draccus.PluginRegistry, abc.ABC, discover_packages_path="rivegs_mllm.cascade"):
    """The settings of a stage to be trained: a dataclass, registered under its ``type:``, in the file of its slot."""

    @abc.abstractmethod
    def prepare(self, data: StageData) -> Trainable:
        """Everything loaded and checked, up to the first step. Raises UserError for data that cannot be trained on."""


@dataclass
class StageTraining:
    """A run that trains one stage: a recipe with the key ``stage``."""

    data: DataRecipe
    stage: TrainableStage
    train: TrainSettings
    types: list[str] = field(default_factory=lambda: list(TYPES))
    distilled: Distilled | None = None

    def __post_init__(self) -> None:
        check_bounds(self)
        check_train(self.train)


def train_stage(recipe: StageTraining) -> Path:
    """Trains the stage and returns its folder, ``train.output_dir``; started again, resumes from the last checkpoint.
    Prints how many steps were made.

    Raises UserError before any step is made for data that does not fit the recipe, where the folder holds a run that
    was started with other data or settings, and where another run writes to it.
    """
    out = Path(recipe.train.output_dir)
    if is_deepspeed_zero3_enabled():
        raise UserError("stages are small and are not trained in shards: launch with ddp.yaml or zero2.yaml")
    with run_lock(out), log_to(out / LOG):
        data, test = _read_data(recipe)
        settings = _settings(recipe, data, test)
        checkpoint = on_main(lambda: resume_point(out, settings, out / METADATA_FILE, recipe.train))
        main = PartialState().is_main_process
        if (out / METADATA_FILE).exists():
            if main:
                print(f"{out} holds this stage already, complete; for another choose another train.output_dir")
            return out
        set_seed(recipe.train.seed)
        trainable = recipe.stage.prepare(data)
        trainer = StageTrainer(trainable, recipe.train, data.dev)
        show_progress(trainer)
        with resource_errors_explained(out):
            if main:
                record_start(out, settings)
            made = run_training(trainer, checkpoint)
            write_metrics(trainer, out, test)
            if recipe.train.should_save:
                trainable.save(out)
                write_metadata(out, _metadata(recipe))  # last: a folder that has it is complete
        trainer.accelerator.wait_for_everyone()
        if main:
            record_end(out)
            print(f"trained: {out}, {made}")
    return out


def _read_data(recipe: StageTraining) -> tuple[StageData, list[Sample]]:
    """The stage's training data, and the posts of the test split, none where the recipe names no such split."""
    folder, names, types = recipe.data.folder, recipe.data, recipe.types
    bad = lines_left_out(names, recipe.train, sees=False)  # a stage that does checks them
    samples = read_posts(folder, names.train, types, recipe.distilled, bad[names.train])
    if not samples:
        raise UserError(f"{folder}: the split '{names.train}' holds no sample to train on")
    dev = read_posts(folder, names.dev, types, recipe.distilled, bad[names.dev]) if names.dev in bad else []
    test = read_posts(folder, names.test, types, recipe.distilled, bad[names.test]) if names.test else []
    return StageData(samples, dev[: names.max_eval_samples], folder, tuple(types), recipe.train.seed), test


def _settings(recipe: StageTraining, data: StageData, test: Sequence[Sample]) -> dict[str, object]:
    """The settings that must not change within a run, data and models by their content."""
    metadata = _metadata(recipe)
    parts = {"train": fingerprint(data.train, data.folder), "test": fingerprint(test, data.folder)}
    if recipe.train.load_best_model_at_end:
        parts["dev"] = fingerprint(data.dev, data.folder)
    named = {name: value for name, value in metadata.settings.items() if isinstance(value, str)}
    content = {f"{name} content": model_fingerprint(value) for name, value in named.items()}
    stage = {"type": metadata.kind, **metadata.settings, **{name: value for name, value in content.items() if value}}
    return settings_of(recipe.train, {"data": parts, "types": list(metadata.types), "stage": stage})


def _metadata(recipe: StageTraining) -> StageMetadata:
    settings = draccus.encode(recipe.stage)
    kind = TrainableStage.get_choice_name(type(recipe.stage))
    return StageMetadata(kind, tuple(recipe.types), {key: value for key, value in settings.items() if key != "type"})


class StageTrainer(Trainer):
    """transformers' Trainer with batches of like length, the stage's own figures, and its learning rates."""

    def __init__(self, trainable: Trainable, arguments: TrainingArguments, dev: Sequence[Sample]):
        self.trainable = trainable
        self.sampler = length_grouped_sampler(trainable.lengths, arguments)
        super().__init__(
            model=trainable.model,
            args=trainer_arguments(arguments),
            train_dataset=trainable.train,
            eval_dataset=dev,
            data_collator=trainable.collate,
            callbacks=[SetEpochCallback(self.sampler, trainable.train)],
        )

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The stage's figures on dev, or on other posts; every process computes all of them."""
        self.model.eval()
        with torch.no_grad():  # not inference_mode: what a model caches here is used in training too
            figures = self.trainable.evaluate(self.eval_dataset if eval_dataset is None else eval_dataset)
        self.model.train()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self._check_metric(metrics, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _check_metric(self, metrics: Mapping[str, float], prefix: str) -> None:
        wanted = self.args.metric_for_best_model
        if prefix == "eval" and wanted is not None and wanted not in metrics:
            raise UserError(f"train.metric_for_best_model: {wanted!r} is none of {', '.join(metrics)}")

    def create_optimizer(self, model=None):
        """AdamW, or what recipe or stage ask for, with the stage's own learning rates beside the recipe's."""
        if self.trainable.optimizer is not None:
            self.optimizer = self.trainable.optimizer(self.args.learning_rate)
            return self.optimizer
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        decayed = set(self.get_decay_parameter_names(self.model))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, value in self.model.named_parameters():
            if value.requires_grad:
                rate = next((r for head, r in self.trainable.rates.items() if name.startswith(head)), None)
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((self.args.learning_rate if rate is None else rate, decay), []).append(value)
        self.optimizer = kind(
            [{"params": own, "lr": rate, "weight_decay": decay} for (rate, decay), own in groups.items()], **settings
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """The recipe's, or the stage's own."""
        schedule = self.trainable.schedule
        if schedule is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer if optimizer is None else optimizer, lambda step: schedule(step / num_training_steps)
        )
        return self.lr_scheduler

    def save_model(self, output_dir=None, _internal_call=False):
        """A checkpoint to resume from. The arguments are left out: they are a pickle."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler
