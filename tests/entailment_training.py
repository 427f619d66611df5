"""Entailment stages trained for a few steps as ``rivegs train`` does, and a picture set that can be learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from PIL import Image

from rivegs_mllm.cascade.training import StageTraining, train_stage
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.data.jsonl import write_records
from rivegs_mllm.types import Box, Entity, Sample

TRAIN = """\
data:
  folder: {data}
stage: {stage}
train:
  output_dir: {out}
  use_cpu: true
  seed: 0
  max_steps: {steps}
  per_device_train_batch_size: 8
  learning_rate: {rate}
  eval_strategy: steps
  eval_steps: {steps}
  save_steps: {steps}
  metric_for_best_model: eval_accuracy
  load_best_model_at_end: true
  disable_tqdm: true
  report_to: none
"""


def train(folder: Path, data: Path, stage: str, steps: int = 2, rate: float = 1e-3) -> Path:
    """Trains ``stage``, its settings in YAML on one line, and returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(TRAIN.format(data=data, stage=stage, out=folder / "run", steps=steps, rate=rate))
    return train_stage(parse_recipe(StageTraining, path, ()))


COLOURS = {"red": "#dd1111", "green": "#11aa11", "blue": "#1111dd", "yellow": "#dddd11"}


def save_colours(folder: Path) -> Path:
    """A dataset whose posts each show one colour and ask for two, by expressions: one of them is visible."""
    (folder / "images").mkdir(parents=True)
    for name, code in COLOURS.items():
        Image.new("RGB", (112, 112), code).save(folder / "images" / f"{name}.png")
    samples = []
    for shown in COLOURS:
        for other in COLOURS:
            if other != shown:
                first = Entity("Ann", "PER", (0, 1), shown, True, boxes=(Box(0, 0, 112, 112),))
                second = Entity("Bob", "PER", (1, 2), other, False)
                pair = (first, second) if len(samples) % 2 else (swap(second, 0), swap(first, 1))
                samples.append(Sample(f"{shown}-{other}", ("Ann", "Bob"), f"images/{shown}.png", (112, 112), pair))
    for split in ("train", "dev", "test"):
        write_records(folder / f"{split}.jsonl", samples)
    return folder


def swap(entity: Entity, place: int) -> Entity:
    """The entity at another place of the text, under the name that stands there."""
    return dataclasses.replace(entity, text=("Ann", "Bob")[place], span=(place, place + 1))
