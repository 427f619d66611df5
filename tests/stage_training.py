"""A recipe that trains a tiny tagger in seconds."""

from pathlib import Path

from rivegs_mllm.cascade.training import StageTraining
from rivegs_mllm.config.reading.yaml_loader import parse_recipe

RECIPE = """\
data:
  folder: {data}
stage:
  type: crf
  encoder: tiny
  max_length: 128
  head_learning_rate: 5.0e-3
train:
  output_dir: {out}
  use_cpu: true
  seed: 0
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 2.0e-3
  logging_steps: 1
  eval_strategy: "no"
  save_strategy: "no"
  disable_tqdm: true
  report_to: none
"""


def write_recipe(folder: Path, data: Path) -> Path:
    """The recipe in ``folder``, its run in ``folder/run``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=data, out=folder / "run"))
    return path


def make_recipe(folder: Path, data: Path, *overrides: str) -> StageTraining:
    """The recipe of ``write_recipe``, read with overrides such as ``--train.seed=1``."""
    return parse_recipe(StageTraining, write_recipe(folder, data), overrides)
