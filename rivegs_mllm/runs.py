"""A run's folder: what the run was started with, its checkpoints, and the figures it ended with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rivegs_mllm.files import write_json
from rivegs_mllm.types import Sample, UserError

STEPS = ("learning_rate", "max_steps", "num_train_epochs", "seed")
"""What of TrainingArguments must not change between the start of a run and its end."""


def take_up(out: Path, settings: Mapping[str, object]) -> str | None:
    """The last whole checkpoint of this run, or None at its start. Checkpoints that were cut off are removed.

    ``settings`` is what must not change between the start of a run and its end, by section of the recipe; it is kept
    in ``run.json``. Raises UserError where ``out`` holds a run of other settings.
    """
    settings = json.loads(json.dumps(settings, default=_plain, sort_keys=True))
    path = out / "run.json"
    if path.exists():
        before = json.loads(path.read_text())
        changed = sorted(key for key in settings if settings[key] != before.get(key))
        if changed:
            raise UserError(
                f"{out} holds a run of another recipe ({', '.join(changed)} differ); "
                "choose another train.output_dir, or delete that folder"
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    whole = []
    for folder in out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if _is_whole(folder):
            whole.append(folder)
        else:
            print(f"{folder} was cut off while it was written and is removed")
            shutil.rmtree(folder)
    return str(max(whole, key=lambda folder: int(folder.name.split("-")[1]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has the trainer's state, which is written last, and before older ones are deleted."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else str(value)


def write_metrics(trainer: Trainer, out: Path, test: Sequence[Sample]) -> None:
    """Writes ``metrics.json``: by split the figures of the weights that the trainer ended with.

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
    return json.loads(path.read_text(encoding="utf-8"))
