"""A tiny base to test with: untrained, made in a second, of the architecture that the package carries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from rivegs_mllm.answer.serialization import render
from rivegs_mllm.config.answering import save_recipe
from rivegs_mllm.config.schema import Recipe, read_recipe
from rivegs_mllm.data.jsonl import read_split, write_records
from rivegs_mllm.models.adapter import add_adapter, save_beside_weights
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.tiny.architecture import build_answer_format, build_model, build_processor, train_tokenizer
from rivegs_mllm.training.dataset.rows import AnswerDataset, Collator
from rivegs_mllm.training.loss import answer_loss
from rivegs_mllm.types import Sample

RECIPE = """\
data:
  folder: {data}
model:
  base: {base}
  dtype: float32
answer:
  bins: 64
  instruction: "{{text}}"
lora:
  r: 8
  lora_alpha: 16
  target_modules: '.*language_model.*\\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)'
max_length: 512
predict:
  batch_size: 6
  max_new_tokens: 8
train:
  output_dir: {out}
  use_cpu: true
  seed: 0
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 2.0e-3
  weight_decay: 0.0
  logging_steps: 1
  eval_strategy: "no"
  save_strategy: "no"
  remove_unused_columns: false
  disable_tqdm: true
  report_to: none
"""


def texts(folder: Path) -> Iterator[str]:
    """Every post and every answer to it."""
    for sample in read_split(folder, "train"):
        yield sample.text
        for knowledge in sample.knowledge:
            pieces = render(sample.tokens, knowledge, sample.entities, build_answer_format(), sample.size)
            yield "".join(piece.text for piece in pieces)


def save_base(folder: Path, corpus: Iterable[str], tied: bool = True, flat: bool = False) -> Path:
    """An untrained base of fewer layers and its processor; ``tied``: whether the output layer is the embedding;
    ``flat``: whether config.json is shaped as the hub's files of Qwen2.5-VL are."""
    tokenizer = train_tokenizer(corpus)
    config = build_model(tokenizer).config
    config.text_config.num_hidden_layers = config.vision_config.depth = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    config.vision_config.fullatt_block_indexes = [1]
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    if flat:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        text = {key: value for key, value in content.pop("text_config").items() if key != "model_type"}
        path.write_text(json.dumps({**text, **content}))
    return folder


def write_recipe(folder: Path, base: Path, data: Path) -> Path:
    """A recipe for the base in ``folder``, its run in ``folder/run``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=data, base=base, out=folder / "run"))
    return path


def make_recipe(folder: Path, base: Path, data: Path, *overrides: str) -> Recipe:
    """The recipe of ``write_recipe``, read with overrides such as ``--train.seed=1``."""
    return read_recipe(write_recipe(folder, base, data), overrides)


LEARNED = "--answer.segments=[entities,visible,boxes]"
"""What a recipe for the base of ``save_learned`` must say."""


def without_picture(sample: Sample) -> Sample:
    """The post as it is known to one who cannot see."""
    entities = tuple(dataclasses.replace(entity, visible=False, boxes=(), masks=()) for entity in sample.entities)
    return dataclasses.replace(sample, image="", size=None, entities=entities)


def save_learned(folder: Path, base: Path, data: Path, *overrides: str) -> None:
    """A base that has learned to answer four posts, well enough that its answers have the lines they should.

    ``overrides`` are its recipe's, ``LEARNED`` where none are given.

    ``folder/base`` is the base, ``folder/data`` a dataset that has the four posts as dev, the second without picture,
    and twelve others to train on, every third without picture.
    """
    samples = read_split(data, "train")
    dev = [sample for sample in samples if len(sample.entities) >= 2][:4]
    dev[1] = without_picture(dev[1])
    train = [sample for sample in samples if sample.id not in {own.id for own in dev}][:12]
    train[::3] = map(without_picture, train[::3])
    write_records(folder / "data" / "train.jsonl", train)
    write_records(folder / "data" / "dev.jsonl", dev)
    (folder / "data" / "images").symlink_to(data / "images")

    recipe = make_recipe(folder, base, data, *(overrides or [LEARNED]))
    torch.manual_seed(0)
    system = load_base(recipe)
    encoder = SampleEncoder(system.processor)
    rows = AnswerDataset(dev, data, encoder, system.answer_format, "{text}", recipe.augment, seed=0)
    inputs = Collator(encoder, keep_vision=True)([rows[index] for index in range(len(dev))])
    labels, weights = inputs.pop("labels"), inputs.pop("weights")
    optimizer = torch.optim.AdamW(system.model.parameters(), lr=2e-3)
    system.model.train()
    for _ in range(60):
        loss = answer_loss(system.model(**inputs, logits_to_keep=labels.shape[1]).logits, labels, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    system.model.save_pretrained(folder / "base")
    system.processor.save_pretrained(folder / "base")


def save_adapter(folder: Path, base: Path, data: Path) -> Path:
    """A trained folder of a base of ``save_learned``, whose adapter changes nothing."""
    recipe = make_recipe(folder, base, data, LEARNED)
    system = add_adapter(load_base(recipe), recipe)
    out = Path(recipe.train.output_dir)
    system.model.save_pretrained(out)
    save_recipe(recipe, out)
    save_beside_weights(system, out)
    return out


class Trained(NamedTuple):
    """A recipe with its adapter in the run's folder, and posts that it can answer, the second without picture."""

    recipe: Path
    data: Path
    samples: list[Sample]


def save_trained(folder: Path, base: Path, data: Path) -> Trained:
    """A model that writes all five segments, as ``save_learned`` makes it, with an adapter that changes nothing."""
    save_learned(folder, base, data, "--max_length=512")
    path = write_recipe(folder, folder / "base", folder / "data")
    path.write_text(path.read_text().replace("max_new_tokens: 8", "max_new_tokens: 200"))
    recipe = read_recipe(path)
    system = add_adapter(load_base(recipe), recipe)
    out = Path(recipe.train.output_dir)
    system.model.save_pretrained(out)
    save_beside_weights(system, out)
    return Trained(path, folder / "data", read_split(folder / "data", "dev"))
