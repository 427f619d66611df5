"""A run's folder: what the run was started with, its checkpoints, and the figures it ended with."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rivegs_mllm.config.reading.former_names import current
from rivegs_mllm.data.images import file_stamp
from rivegs_mllm.data.jsonl import to_line
from rivegs_mllm.runtime.files import is_disk_full, write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.runtime.lock import lock_folder
from rivegs_mllm.training.run.card import card_of_start, now
from rivegs_mllm.training.run.interruption import EXIT_CODES, StopOnSignal
from rivegs_mllm.types import Sample, UserError

Result = TypeVar("Result")

RUN_FILE = "run.json"
RUN_VERSION = 2
_MAX_LISTED = 8
# 16 pieces of 64 KB of each file: a 7B base has 15 GB, too much to read at every start.
_SAMPLED_BYTES = 1 << 16
_SAMPLES = 16

_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
_FREE = {
    "output_dir", "run_name", "project", "report_to", "disable_tqdm", "remove_unused_columns", "debug", "local_rank",
    "use_cpu", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics", "include_for_metrics",
    "auto_find_batch_size", "torch_empty_cache_steps", "skip_memory_metrics", "resume_from_checkpoint", "deepspeed",
    "restore_callback_states_from_checkpoint", "include_num_input_tokens_seen", "parallelism_config",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing",
    "activation_checkpointing_kwargs", "do_train", "do_eval", "do_predict", "enable_jit_checkpoint",
}  # fmt: skip
_FREE_BEGINNINGS = ("logging_", "log_", "save_", "push_", "hub_", "trackio_", "ddp_", "fsdp", "dataloader_", "eval_")
_NOT_FREE = {"dataloader_drop_last"}
"""The fields of TrainingArguments that may change within a run, since they do not change what is learned."""

_CHOICE = {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
_WHEN_EVALUATED = ("eval_strategy", "eval_steps", "eval_delay")


def settings_of(arguments: TrainingArguments, sections: Mapping[str, object]) -> dict[str, object]:
    """The settings that must not change during a run, by key: "train.weight_decay", "lora.r".

    ``sections`` are those of the recipe beside ``train``, dicts or single values. How many samples a step has is one
    value, so that another number of processes can resume with the same batches.
    """
    values = arguments.to_dict()
    train = {name: value for name, value in values.items() if name not in _BATCH and not _is_free(name)}
    if arguments.load_best_model_at_end:
        train |= {name: values[name] for name in _WHEN_EVALUATED}
    else:
        train = {name: value for name, value in train.items() if name not in _CHOICE}
    each, accumulated = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    train["samples_per_step"] = each * accumulated * arguments.world_size
    flat: dict[str, object] = {}
    for section, content in {**sections, "train": train}.items():
        if isinstance(content, Mapping):
            flat |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            flat[section] = content
    return json.loads(json.dumps(flat, default=_plain, sort_keys=True))  # as they will be read from run.json


def trainer_arguments(arguments: TrainingArguments) -> TrainingArguments:
    """The recipe's arguments as Trainer is given them.

    It leaves all columns of a row to the collator, and a process uses one GPU: of several the first, and it says so.
    """
    made = copy.copy(arguments)  # not constructed again, which would reset the state of accelerate
    made.remove_unused_columns = False
    if made.n_gpu > 1:
        print(
            f"{made.n_gpu} GPUs are here, of which this process uses the first; all are used by accelerate launch "
            "--config_file accelerate_configs/zero2.yaml -m rivegs_mllm.train RECIPE"
        )
        # Else Trainer makes an nn.DataParallel, which divides tensors by their rows, and rows of pictures are patches.
        made._n_gpu = 1
    if made.use_liger_kernel:
        made.liger_kernel_config = _liger_without_loss(made.liger_kernel_config)
    return made


def _liger_without_loss(config: Mapping[str, bool] | None) -> dict[str, bool]:
    """Liger's settings without its fused loss, whose forward pass computes logits at all positions instead of the
    answers' alone. Raises UserError where that is asked for."""
    own = dict(config or {})
    for key in ("fused_linear_cross_entropy", "cross_entropy"):
        if own.setdefault(key, False):
            raise UserError(f"train.liger_kernel_config.{key}: the loss is computed here; leave it out, or false")
    return own


def _is_free(name: str) -> bool:
    return name in _FREE or (name.startswith(_FREE_BEGINNINGS) and name not in _NOT_FREE)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else str(value)


def fingerprint(samples: Sequence[Sample], folder: Path) -> str:
    """How many samples, and a digest of their content: records, and the sizes in bytes of their pictures' files.

    Times of modification are left out, since a copy of the dataset has others.
    """
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(to_line(sample))
        if sample.image and (stamp := file_stamp(folder / sample.image)):
            digest.update(str(stamp[0]).encode())
    return f"{len(samples)} samples, digest {digest.hexdigest()[:12]}"


def model_fingerprint(path: Path | str) -> str | None:
    """A digest of a model's files in a folder, None where it is a hub id. Of large files, places all over them."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(own for own in folder.iterdir() if own.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for place in range(0, size, max(size // _SAMPLES, _SAMPLED_BYTES)):
                content.seek(place)
                digest.update(content.read(_SAMPLED_BYTES))
    return f"digest {digest.hexdigest()[:12]}"


def resume_point(out: Path, settings: Mapping[str, object], finished: Path, arguments: TrainingArguments) -> str | None:
    """The last complete checkpoint of this run, None at its start. Incomplete checkpoints are removed.

    ``finished`` is the file whose presence says that the run ended. Raises UserError where a checkpoint or a finished
    run was trained with other settings; a start that made no checkpoint does not count.
    """
    complete = []
    processes = _processes(out)
    for folder in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if _is_complete(folder, processes):
            complete.append(folder)
        else:
            print(f"{folder} is incomplete and is removed")
            shutil.rmtree(folder)
    if complete or finished.exists():
        _check_same(out, settings, arguments)
    return str(max(complete, key=lambda folder: int(folder.name.split("-")[1]))) if complete else None


def record_start(out: Path, settings: Mapping[str, object]) -> None:
    """Records what the run is started with: to be called by the main process when everything has been checked.

    ``starts`` are those of the run, each as `card.card_of_start` gives it.
    """
    processes = PartialState().num_processes
    starts = [*_starts(out), card_of_start(processes)]
    write_json(out / RUN_FILE, {"version": RUN_VERSION, "processes": processes, "starts": starts, "settings": settings})


def record_end(out: Path) -> None:
    """Records when the last start of a run ended: to be called by the main process when the run is complete."""
    run = read_object(out / RUN_FILE, "start the same command again")
    run["starts"][-1]["ended"] = now()
    write_json(out / RUN_FILE, run)


def _starts(out: Path) -> list[object]:
    """The starts of the same run that came before."""
    if not any(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        return []
    try:
        starts = read_object(out / RUN_FILE, "").get("starts")
    except UserError:
        return []
    return starts if type(starts) is list else []


def _check_same(out: Path, settings: Mapping[str, object], arguments: TrainingArguments) -> None:
    path = out / RUN_FILE
    hint = "choose another train.output_dir, or delete that folder"
    try:
        before = read_object(path, hint)
    except UserError:
        before = {}
    processes, then = before.get("processes"), current(before.get("settings"))
    if before.get("version") != RUN_VERSION or type(then) is not dict or type(processes) is not int:
        raise UserError(f"{out} holds a run, but {path.name} does not say what it was started with; {hint}")
    changed = sorted(key for key in settings.keys() | then.keys() if settings.get(key) != then.get(key))
    if changed:
        shown = "; ".join(_change(key, then.get(key), settings.get(key), arguments) for key in changed[:_MAX_LISTED])
        more = f"; and {len(changed) - _MAX_LISTED} more" if len(changed) > _MAX_LISTED else ""
        raise UserError(
            f"{out} holds a run that was started with other settings: {shown}{more}. Resume it with those, or " + hint
        )
    now = PartialState().num_processes
    if processes != now and PartialState().distributed_type.value == "DEEPSPEED":
        raise UserError(
            f"{out}: DeepSpeed's checkpoints of {processes} processes are not resumed by {now}; launch as many"
        )


def _change(key: str, then: object, now: object, arguments: TrainingArguments) -> str:
    change = f"{key} was {str(then)[:100]!r} and is {str(now)[:100]!r}"
    if key != "train.samples_per_step" or not isinstance(then, int):
        return change
    a_round = arguments.train_batch_size * arguments.world_size
    parts = f"{arguments.train_batch_size} x {arguments.world_size} processes x {arguments.gradient_accumulation_steps}"
    hint = f", which --train.gradient_accumulation_steps={then // a_round} makes {then}" if then % a_round == 0 else ""
    return f"{change} ({parts}{hint})"


def _processes(out: Path) -> int | None:
    """By how many processes the run in ``out`` was started, None where that is not known."""
    try:
        return read_object(out / RUN_FILE, "").get("processes")
    except UserError:
        return None


def _is_complete(checkpoint: Path, processes: int | None = None) -> bool:
    """Whether a checkpoint has the trainer's state, which is written last, and before older ones are deleted; whether
    its other files can be opened, which a full disk or a copy may have truncated since; and, where ``processes`` shared
    the optimizer's state, whether each has written its shard, since none waits for the others."""
    try:
        read_object(checkpoint / TRAINER_STATE_NAME, "")
        for path in checkpoint.rglob("*.safetensors"):
            with safe_open(path, "pt"):
                pass
    except (UserError, OSError, SafetensorError):
        return False
    shards = len(list(checkpoint.glob("global_step*/*_optim_states.pt")))
    if shards and processes and shards != processes:
        return False
    # torch.save writes zip files, whose directory stands at the end: a truncated one has none.
    return all(zipfile.is_zipfile(path) for kind in ("*.pt", "*.pth") for path in checkpoint.rglob(kind))


def run_training(trainer: Trainer, checkpoint: str | None) -> str:
    """Trains to the end, from the checkpoint where there is one, and says how many steps were made.

    Raises UserError where not all steps were made. A signal of `interruption.SIGNALS` ends the process, once a
    checkpoint is written, with the exit code that a shell gives it.
    """
    stop = StopOnSignal(trainer.accelerator)
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=checkpoint)
    state = trainer.state
    if stop.received and state.global_step < state.max_steps:
        if PartialState().is_main_process:
            name, step = signal.Signals(stop.received).name, state.global_step
            print(f"{name}: stopped at step {step} of {state.max_steps}; the same command resumes from its checkpoint")
        sys.exit(EXIT_CODES + stop.received)
    if state.global_step < state.max_steps or state.max_steps < 1:
        raise UserError(
            f"{trainer.args.output_dir}: stopped at step {state.global_step} of {state.max_steps}; nothing is saved as "
            "trained"
        )
    before = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    return f"{state.global_step - before} steps" + (f" after the {before} of before" if before else "")


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Holds the lock of a run's folder for all processes of the run. Raises `lock.LockedError` in all of them."""
    with ExitStack() as stack:
        on_main(lambda: stack.enter_context(lock_folder(out)))
        yield


def on_main(action: Callable[[], Result]) -> Result:
    """Runs ``action`` in the main process and returns its result, or raises its UserError, in every process.

    Raised in the main process alone, it would leave the others waiting for a collective that never comes.
    """
    state = PartialState()
    if state.num_processes == 1:
        return action()
    outcome: list = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@contextmanager
def resource_errors_explained(out: Path) -> Iterator[None]:
    """Turns a full disk or memory, which each library reports in its own way, into a UserError.

    A UserError of a data loader's worker, such as of a picture that is gone, comes without its stack trace.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{out}: {_own_words(error)}; correct it and start the same command again") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"{out}: out of memory ({_first_line(error)}); lower train.per_device_train_batch_size and raise "
            "train.gradient_accumulation_steps as much, or lower model.max_pixels"
        ) from error
    except Exception as error:  # torch and safetensors have types of their own for it
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{out}: cannot be written: no space left on device ({_first_line(error)}); the last complete checkpoint "
            "is kept: make room and start the same command again"
        ) from error


def _own_words(error: UserError) -> str:
    """An error's own message, the last line where torch has put a worker's trace before it."""
    text = str(error).strip()
    if "Original Traceback" not in text:
        return text
    return text.rpartition("\n")[2].partition(": ")[2]


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


def write_metrics(trainer: Trainer, out: Path, test: Sequence[Sample]) -> None:
    """Writes ``metrics.json``: by split the scores of the weights that the trainer ended with, fractions from 0 to 1.

    Those of dev are what was logged for these weights, if they were evaluated; those of test, where there are any
    posts of it, are computed now, by all processes together.
    """
    metrics = {"dev": _logged(trainer), "test": {}}
    if test:
        figures = trainer.evaluate(test, metric_key_prefix="test")
        metrics["test"] = _of("test_", figures)
    if trainer.args.should_save:
        write_json(out / "metrics.json", metrics)


def _logged(trainer: Trainer) -> dict[str, float]:
    """The dev figures of the best weights where the run ends with these, else of the last."""
    state = trainer.state
    step = state.best_global_step if trainer.args.load_best_model_at_end else state.global_step
    logged = (_of("eval_", entry) for entry in state.log_history if entry["step"] == step)
    return next(filter(None, logged), {})


def _of(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}


def read_metrics(out: Path) -> dict[str, dict[str, float]]:
    """What ``write_metrics`` wrote. Raises UserError where it did not."""
    path = out / "metrics.json"
    if not path.is_file():
        raise UserError(f"{out}: has no {path.name}; it was not trained to its end by this release, so train it again")
    return read_object(path, "delete it and start the same command again")
