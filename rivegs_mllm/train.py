"""Recipe to saved run: ``accelerate launch --config_file accelerate_configs/zero2.yaml -m rivegs_mllm.train RECIPE``.

The trained adapter is saved in ``train.output_dir`` with its processor and answer format. The same command again
resumes from the last complete checkpoint there.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from safetensors import SafetensorError
from transformers import Trainer, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from eval.scores import evaluate
from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.cascade.training import StageTraining, train_stage
from rivegs_mllm.config.answering import save_recipe
from rivegs_mllm.config.defaults.completed import completed_by_data
from rivegs_mllm.config.reading.command_line import Parser
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.config.schema import Recipe
from rivegs_mllm.config.trained import local_folder
from rivegs_mllm.models.adapter import add_adapter, check_init, load_init, save_beside_weights
from rivegs_mllm.models.base_model import System, base_path, load_base
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.models.generation.batch_plan import plan
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.runtime.logs import (
    FLAGS_HELP,
    LOG,
    escape_on_console,
    log_to,
    missing_extra,
    quiet_transformers,
    quiet_unless_verbose,
    take_flags,
    tell_error,
)
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.store.attach import read_posts
from rivegs_mllm.training.bad_posts import lines_left_out
from rivegs_mllm.training.dataset.picture_features import check_cacheable, encode_pictures, with_features
from rivegs_mllm.training.dataset.rows import AnswerDataset, Collator, check_lengths
from rivegs_mllm.training.dataset.sampling import SetEpochCallback, length_grouped_sampler
from rivegs_mllm.training.loss import answer_loss, check_finite
from rivegs_mllm.training.optimizer import muon
from rivegs_mllm.training.options import add_training_options, training_overrides
from rivegs_mllm.training.pictures import check_pictures
from rivegs_mllm.training.progress import TOKENS, show_progress
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
from rivegs_mllm.training.seeds import format_seeds, train_seeds
from rivegs_mllm.training.sharding import gathered_weights
from rivegs_mllm.training.undecided import decided_posts
from rivegs_mllm.types import Sample, UserError


def train(recipe: Recipe) -> Path:
    """Trains what the recipe says and returns the folder of the adapter. Prints how many steps were made.

    Raises UserError before any step is made for data that does not fit the recipe, where ``train.output_dir`` holds a
    run that was started with other data or settings, and where another run writes to it.
    """
    out = Path(recipe.train.output_dir)
    with run_lock(out), log_to(out / LOG):
        posts = read_data(recipe)
        settings = run_settings(recipe, posts)
        checkpoint = on_main(lambda: resume_point(out, settings, out / FILE_NAME, recipe.train))
        main = PartialState().is_main_process
        if (out / FILE_NAME).exists():
            if main:
                print(f"{out} holds this run already, complete; for another run choose another train.output_dir")
            return out
        set_seed(recipe.train.seed)  # before the trainer is made: LoRA's matrices are drawn in there
        trainer = make_trainer(recipe, posts)
        show_progress(trainer)
        with resource_errors_explained(out):
            if main:
                record_start(out, settings)
            made = run_training(trainer, checkpoint)
            write_metrics(trainer, out, posts.test)
            trainer.save_model(str(out))
        trainer.accelerator.wait_for_everyone()
        if main:
            record_end(out)
            print(f"trained: {out}, {made}")
    return out


@dataclass(frozen=True)
class Posts:
    """The posts of a run. ``dev`` is empty where it never evaluates, ``test`` where the recipe names none."""

    train: Sequence[Sample]
    dev: Sequence[Sample]
    test: Sequence[Sample]


def read_data(recipe: Recipe) -> Posts:
    """The splits that the recipe names. Raises UserError."""
    folder, data, types = recipe.data.folder, recipe.data, recipe.answer.types
    bad = lines_left_out(data, recipe.train, sees=True)
    train = read_posts(folder, data.train, types, recipe.distilled, bad[data.train])
    train = decided_posts(train, recipe.answer.segments, data.train)
    if not train:
        raise UserError(f"{folder}: the split '{data.train}' holds no sample to train on")
    dev = read_posts(folder, data.dev, types, without=bad[data.dev]) if data.dev in bad else []
    test = read_posts(folder, data.test, types, without=bad[data.test]) if data.test else []
    return Posts(train, dev[: data.max_eval_samples], test)


def make_trainer(recipe: Recipe, posts: Posts | None = None, fused: bool = True) -> AnswerTrainer:
    """Everything loaded and checked, up to the first step. ``posts`` are read where they are not given, ``fused`` is
    ``add_adapter``'s.

    Raises UserError for posts or settings that cannot be trained with.
    """
    folder = recipe.data.folder
    posts = read_data(recipe) if posts is None else posts
    checked = check_pictures([*posts.train, *posts.dev], folder)
    samples, dev = checked[: len(posts.train)], checked[len(posts.train) :]
    system = load_base(recipe)
    encoder = SampleEncoder(system.processor, recipe.answer.weights)
    dataset = AnswerDataset(
        samples, folder, encoder, system.answer_format, system.instruction, recipe.augment, recipe.train.seed
    )
    lengths = check_lengths(dataset, recipe.max_length)
    system = add_adapter(system, recipe, fused)
    if recipe.init:
        load_init(system.model, local_folder(recipe.init))
    if recipe.model.cache_pictures:
        check_cacheable(system)
    return AnswerTrainer(system, recipe, dataset, lengths, dev)


class AnswerTrainer(Trainer):
    """transformers' Trainer with the answer's loss, batches of like length, and the dev score by generation."""

    def __init__(
        self, system: System, recipe: Recipe, dataset: AnswerDataset, lengths: Sequence[int], dev: Sequence[Sample]
    ):
        self.system = system
        self.recipe = recipe
        self.padded = self.held = 0  # tokens since the last log: padding, and all
        self.posts = dataset.samples
        cached = recipe.model.cache_pictures
        pictures = any(sample.image for sample in self.posts)
        self.sampler = length_grouped_sampler(lengths, recipe.train)
        super().__init__(
            model=system.model,
            args=trainer_arguments(recipe.train),
            train_dataset=dataset,
            eval_dataset=dev,
            data_collator=Collator(dataset.encoder, keep_vision=pictures and not cached),
            compute_loss_func=answer_loss,
            callbacks=[SetEpochCallback(self.sampler, dataset)],
            optimizer_cls_and_kwargs=muon(system.model, recipe.train) if recipe.muon else None,
        )
        if cached:
            dataset.features = encode_pictures(dataset, system)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The answer's loss; logits are computed in the answer's columns only.

        Of a vocabulary of 152k this is 5.2 times faster than logits at all positions, in a quarter of the memory
        (benchmarks/logits_memory.py), and the same loss.
        """
        labels, weights, places = inputs.pop("labels"), inputs.pop("weights"), inputs.pop("sample")
        self.padded += int((inputs["attention_mask"] == 0).sum())
        self.held += inputs["attention_mask"].numel()
        outputs = model(**with_features(inputs), logits_to_keep=labels.shape[1])
        loss = answer_loss(outputs.logits, labels, weights, num_items_in_batch)
        check_finite(loss, self.state.global_step + 1, [self.posts[place].id for place in places.tolist()])
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, *arguments):
        """Logs also the tokens since the last time and the share of padding among them."""
        if self.held:
            logs["padding"] = round(self.padded / self.held, 4)
            logs[TOKENS] = self.held * self.args.world_size
            self.padded = self.held = 0
        super().log(logs, *arguments)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """F1 of each task over the dev posts, or others, answered by all ranks together."""
        posts = self.eval_dataset if eval_dataset is None else eval_dataset
        rank, world = self.args.process_index, self.args.world_size
        self.model.eval()
        generator = Generator(
            self.system,
            self.recipe.data.folder,
            self.recipe.predict.max_new_tokens,
            self.recipe.max_length,
            constrain=self.recipe.predict.constrain,
        )
        planned = plan(posts, generator, self.recipe.predict)
        answered = []
        with gathered_weights(self.model_wrapped):
            for batch in track(planned[rank::world], "dev", quiet=not self.is_local_process_zero()):
                answered += generator.answer([posts[index] for index in batch])
        self.model.train()
        scores = evaluate(posts, gather_object(answered))["strict"]["all"]
        metrics = {f"{metric_key_prefix}_{task.lower()}_f1": figures["f1"] for task, figures in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir=None, _internal_call=False):
        """A folder that can be predicted with, the answer format last.

        The arguments, a pickle, are left out: loading one runs code, and the recipe has them.
        """
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            save_recipe(self.recipe, folder)
            save_beside_weights(self.system, folder)

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler


def run_settings(recipe: Recipe, posts: Posts) -> dict[str, object]:
    """The settings that must not change within a run, data and base model by their content."""
    # The rows of location tokens follow from answer.bins.
    lora = {key: value for key, value in recipe.lora.to_dict().items() if key != "trainable_token_indices"}
    parts = {name: dataclasses.asdict(getattr(recipe, name)) for name in ("model", "answer", "augment")}
    parts["model"]["content"] = model_fingerprint(base_path(recipe.model.base))
    data = {"train": fingerprint(posts.train, recipe.data.folder), "test": fingerprint(posts.test, recipe.data.folder)}
    if recipe.train.load_best_model_at_end:
        data["dev"] = fingerprint(posts.dev, recipe.data.folder)
        parts["predict"] = {"max_new_tokens": recipe.predict.max_new_tokens}
    if recipe.muon:  # left out where false, so that runs of before the setting are still resumed
        parts["muon"] = True
    if recipe.init:
        parts["init"] = model_fingerprint(local_folder(recipe.init))
    return settings_of(recipe.train, {**parts, "data": data, "lora": lora})


def start(path: Path | str, overrides: Sequence[str] = ()) -> Path:
    """Trains what a recipe says, the end-to-end model or, where it has a ``stage``, that one; returns the folder."""
    recipe = _read(path, overrides)
    if isinstance(recipe, StageTraining):
        return train_stage(recipe)
    if recipe.init:
        check_init(local_folder(recipe.init), recipe, str(path))
    return train(recipe)


def _read(path: Path | str, overrides: Sequence[str]) -> Recipe | StageTraining:
    layered = completed_by_data(read_layers(path, overrides))
    return decode(StageTraining if "stage" in layered.sections else Recipe, layered)


def start_seeds(path: Path | str, overrides: Sequence[str], seeds: Sequence[int]) -> Path:
    """Trains a recipe with each seed, prints mean and deviation, and returns the folder of all."""
    out = Path(_read(path, overrides).train.output_dir)
    result = train_seeds(lambda own: start(path, [*overrides, *own]), out, seeds)
    if PartialState().is_main_process:
        Console().print(format_seeds(result))
    return out


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """A launched process's arguments: the options, and the overrides of its recipe."""
    parser = Parser(prog="python -m rivegs_mllm.train", description=__doc__, epilog=FLAGS_HELP, allow_abbrev=False)
    parser.takes_overrides = True
    add_training_options(parser)
    args, overrides = parser.parse_known_args(arguments)
    return args, training_overrides(args, overrides)


def run(args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Trains by the options of `training.options` and the overrides of the recipe."""
    try:
        if args.seeds:
            start_seeds(args.recipe, overrides, args.seeds)
        else:
            start(args.recipe, overrides)
    except SafetensorError as error:
        raise UserError(str(error)) from error


def main(arguments: Sequence[str]) -> int:
    """The command of each process that a launcher starts. Returns the exit code."""
    escape_on_console()
    rest, flags = take_flags(arguments)
    try:
        quiet_unless_verbose(flags)
        quiet_transformers()
        run(*read_arguments(rest))
    except (UserError, OSError, ImportError) as error:
        shown = missing_extra(error) if isinstance(error, ImportError) else error
        if PartialState().is_main_process:
            tell_error(shown, flags)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
