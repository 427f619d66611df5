"""The settings of prediction, a recipe without those of training, and the recipe's copy beside the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from peft import LoraConfig
from transformers import TrainingArguments

from rivegs_mllm.config.bounds import TokenCount, check_bounds
from rivegs_mllm.config.defaults.completed import completed_by_data, completed_by_model
from rivegs_mllm.config.reading.layers import Layered, read_layers
from rivegs_mllm.config.reading.yaml_loader import decode
from rivegs_mllm.config.schema import AnswerRecipe, ModelRecipe, PredictRecipe, Recipe, check_answering
from rivegs_mllm.config.trained import FILE_NAME
from rivegs_mllm.runtime.files import write_text

_HEAD = "# rivegs predict {folder}/{name} --data DATASET --out PREDICTIONS --adapter {folder}\n"


_DEFAULTS = {
    own.name: own.default if own.default_factory is dataclasses.MISSING else own.default_factory()
    for own in dataclasses.fields(TrainingArguments)
}
"""Of TrainingArguments. Not taken from an instance: to make one during training would reset accelerate's state."""

_NOT_SAVED = ("hub_token", "push_to_hub_token", "accelerator_config")
"""Secrets, and what transformers sets by itself."""


@dataclass
class Answering:
    """The settings of prediction; the same keys of a recipe mean the same. No training settings are built for it."""

    model: ModelRecipe
    answer: AnswerRecipe = field(default_factory=AnswerRecipe)
    predict: PredictRecipe = field(default_factory=PredictRecipe)
    max_length: TokenCount = 2048

    def __post_init__(self) -> None:
        check_bounds(self)
        check_answering(self.model, self.answer)


_OWN = tuple(own.name for own in dataclasses.fields(Answering))
_OF_TRAINING = {own.name for own in dataclasses.fields(Recipe)} - set(_OWN)


def read_answering(
    path: Path | str, overrides: Sequence[str] = (), data: Path | None = None, trained: Path | None = None
) -> Answering:
    """The settings of prediction in a recipe of an end-to-end model. Raises UserError as `schema.read_recipe` does.

    Types that it does not name are those of the model in the folder ``trained``, where there is one, or else of the
    dataset in ``data``, or in its ``data.folder``.
    """
    layered = read_layers(path, overrides)
    return answering(completed_by_model(layered, trained, data) if trained else completed_by_data(layered, data))


def answering(layered: Layered) -> Answering:
    """As ``read_answering``, of a recipe that has been read."""
    return decode(Answering, layered.without(_OF_TRAINING))


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Writes the recipe into a trained model's folder: all of prediction, and of training what is not the default.

    Raises WriteError.
    """
    content = _content(recipe)
    content["lora"] = _changed(recipe.lora.to_dict(), LoraConfig().to_dict())
    content["train"] = _changed(recipe.train.to_dict(), _DEFAULTS)
    _write(folder / FILE_NAME, _HEAD.format(folder=folder, name=FILE_NAME), content)


def save_answering(recipe: Answering, folder: Path) -> None:
    """Writes the settings of prediction into the folder of a model that others may use. Raises WriteError."""
    _write(folder / FILE_NAME, "", _content(recipe))


def _content(recipe: Recipe | Answering) -> dict[str, object]:
    return {own.name: _plain(getattr(recipe, own.name)) for own in dataclasses.fields(recipe)}


def _write(path: Path, head: str, content: dict[str, object]) -> None:
    write_text(path, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def _plain(value: object) -> object:
    """A setting as YAML has it."""
    if dataclasses.is_dataclass(value):
        return {own.name: _plain(getattr(value, own.name)) for own in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(own) for own in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _changed(values: dict, defaults: dict) -> dict:
    return {
        key: _plain(value)
        for key, value in values.items()
        if key not in _NOT_SAVED and value != defaults.get(key) and (value or defaults.get(key))
    }
