"""The console output of a training run: a line each time that it logs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping

from rich.console import Console
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from rivegs_mllm.models.profiling import peak_bytes

TOKENS = "tokens"
"""The key under which a trainer logs how many tokens its processes were given since it logged the last time."""

_log = logging.getLogger(__name__)


def show_progress(trainer: Trainer) -> None:
    """Makes a trainer print the lines of a `TrainingProgress` in place of the library's bar and dictionaries."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(TrainingProgress(Console()))


class TrainingProgress(TrainerCallback):
    """Step, loss, learning rate, posts and tokens a second, peak memory and the time left; scores where there are any.

    What is logged goes whole to the log file. Only the main process prints.
    """

    def __init__(self, console: Console):
        self.console = console

    def on_train_begin(self, args, state, control, **_):
        self.posts_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.started = self.stepped = self.logged = time.monotonic()
        self.first = self.last = state.global_step

    def on_step_end(self, args, state, control, **_):
        self.stepped = time.monotonic()

    def on_evaluate(self, args, state, control, **_):
        self.logged += time.monotonic() - self.stepped  # so that the rate is that of training

    def on_log(self, args, state, control, logs: Mapping[str, float] | None = None, **_):
        if not (state.is_world_process_zero and logs):
            return
        _log.info("step %d: %s", state.global_step, json.dumps(logs, default=str))
        if "loss" in logs:
            self._tell(self._of_steps(logs, state))
        elif "train_runtime" not in logs:
            self._tell(f"step {state.global_step}/{state.max_steps}  {scores(logs)}")

    def _tell(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _of_steps(self, logs: Mapping[str, float], state) -> str:
        now = time.monotonic()
        seconds = max(now - self.logged, 1e-9)
        rates = [f"{(state.global_step - self.last) * self.posts_a_step / seconds:.1f} posts/s"]
        if TOKENS in logs:
            rates.append(f"{logs[TOKENS] / seconds:,.0f} tokens/s")
        left = (now - self.started) / max(state.global_step - self.first, 1) * (state.max_steps - state.global_step)
        self.logged, self.last = now, state.global_step
        peak = peak_bytes()
        parts = [
            f"step {state.global_step}/{state.max_steps}",
            f"loss {float(logs['loss']):.4f}",
            f"learning rate {float(logs.get('learning_rate', 0)):.2e}",
            *rates,
            *([] if peak is None else [f"{peak / 1e9:.1f} GB"]),
            f"{clock(left)} left",
        ]
        return "  ".join(parts)


def scores(logs: Mapping[str, float]) -> str:
    """An evaluation's figures in words: "dev: mner_f1 0.909, gmner_f1 0.789"."""
    names = {"eval": "dev", "test": "test"}
    split = next((word for prefix, word in names.items() if any(key.startswith(prefix) for key in logs)), "")
    figures = [(key.partition("_")[2], value) for key, value in logs.items() if key.partition("_")[0] in names]
    return f"{split}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: "3:05", "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
