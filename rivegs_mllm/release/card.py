"""The model card of a trained model, merged or an adapter: how to prompt it, its scores, its data, base and licence."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from huggingface_hub import try_to_load_from_cache
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.protocols import TASKS
from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.config.answering import Answering
from rivegs_mllm.config.reading.layers import read_layers, word
from rivegs_mllm.config.trained import FILE_NAME as RECIPE
from rivegs_mllm.config.trained import is_hub_id
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.types import UserError

NAME = "README.md"
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_KNOWN_LICENCES = {"tiny": "apache-2.0"}


def card(folder: Path, recipe: Answering, instruction: str, merged: bool) -> str:
    """The card, in Markdown, of the model that was trained in ``folder``: of the adapter there, or of the model that it
    was ``merged`` into. ``instruction`` is what the model is asked, with fields for text and types."""
    answer_format = AnswerFormat.load(folder)
    base, licence = recipe.model.base, licence_of(recipe.model.base)
    front = {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": base, "base_model_relation": "merge" if merged else "adapter"} if is_hub_id(base) else {}),
        **({"license": licence} if licence else {}),
        "tags": ["named-entity-recognition", "visual-grounding", "rivegs-mllm"],
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.jinja").render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        merged=merged,
        base=base if base == "tiny" or is_hub_id(base) else Path(base).name,
        tiny=base == "tiny",
        licence=licence,
        dtype=recipe.model.dtype,
        prompt=repr(instruction.format(text="{text}", types=", ".join(answer_format.types))),
        format=answer_format,
        scores=_scores(folder),
        tasks=[task.name for task in TASKS],
        data=_data(folder),
    )


def licence_of(base: str) -> str:
    """The licence that a base's own card names, in its folder or in the hub's cache; "" where it is not known."""
    if base in _KNOWN_LICENCES:
        return _KNOWN_LICENCES[base]
    path = try_to_load_from_cache(base, NAME) if is_hub_id(base) else Path(base) / NAME
    try:
        found = _FRONT.match(Path(path).read_text(encoding="utf-8"))
        front = yaml.safe_load(found[1]) if found else None
    except (OSError, TypeError, ValueError, yaml.YAMLError):  # it is not there, or no card
        return ""
    name = front.get("license") if isinstance(front, dict) else None
    return name if isinstance(name, str) else ""


def _scores(folder: Path) -> dict[str, dict[str, float]]:
    """F1 by split and task, in percent, of the splits that training scored."""
    try:
        metrics = read_object(folder / "metrics.json", "")
    except UserError:
        return {}
    found = {}
    for split, figures in metrics.items():
        own = {
            task.name: 100 * value
            for task in TASKS
            if isinstance(figures, dict) and isinstance(value := figures.get(f"{task.name.lower()}_f1"), float)
        }
        if own:
            found[split] = own
    return found


def _data(folder: Path) -> str:
    """The name of the training data, and how many samples it had, as far as they are recorded."""
    try:
        data = read_layers(folder / RECIPE).sections.get("data")
    except UserError:  # a folder of an earlier release, or a merged one
        return ""
    name = word(data, "folder") if isinstance(data, dict) else None
    if not name:
        return ""
    try:
        settings = read_object(folder / "run.json", "").get("settings")
    except UserError:
        settings = None
    size = settings.get("data.train") if isinstance(settings, dict) else None
    return f"`{Path(name).name}`, {size}" if size else f"`{Path(name).name}`"
