"""A recipe to begin with for one's own data: a base, the fields that the data has, as many steps as it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rivegs_mllm.answer.format import SEGMENTS
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.reading.shipped import find_recipe
from rivegs_mllm.config.reading.yaml_text import plain
from rivegs_mllm.data.jsonl import SPLITS, check_split, read_split
from rivegs_mllm.data.mentions import undecided_entities
from rivegs_mllm.types import Sample, UserError

TINY = "tiny"
FEWEST_STEPS = 300
"""Of training on little data: some hundreds, whatever the epochs (docs/training.md)."""

_UNDECIDED = 0.5
"""Of the posts: where more do not say whether the picture shows their entities, too few are left to learn it from."""

_TINY_STEPS, _TINY_BATCH = 800, 8
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 30
_MANY_POSTS = 1000  # from which on a step is of 32 posts, as the recipes have it
_BASES = Path(__file__).with_name("bases.json")


@dataclass(frozen=True, slots=True)
class Base:
    """A recipe to build on: ``recipe`` is its path, ``memory`` GB on one GPU, calculated, 0 without."""

    name: str
    recipe: str
    words: str
    memory: float
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What a dataset has: posts by split, and of its training posts the fields that a model can be trained to write.

    ``undecided`` are the training posts with pictures that do not say of every entity whether it is visible.
    """

    posts: dict[str, int]
    fields: tuple[str, ...]
    undecided: int
    masks: int


def bases() -> list[Base]:
    """All that bases.json names: the tiny one first, then the others by size."""
    return [Base(**own) for own in json.loads(_BASES.read_text(encoding="utf-8"))]


def look_at(folder: Path) -> DataFacts:
    """What the dataset has. Raises UserError where it has no training posts, or a line of them cannot be read."""
    check_split(folder, "train")
    posts = {split: read_split(folder, split) for split in SPLITS if (folder / f"{split}.jsonl").is_file()}
    train = posts["train"]
    if not train:
        raise UserError(f"{folder}/train.jsonl: has no post to train on")
    entities = [own for post in train for own in post.entities]
    undecided = [post for post in train if undecided_entities(post)]
    decided = len(undecided) < _UNDECIDED * sum(bool(post.image and post.entities) for post in train)
    fields = tuple(name for name in SEGMENTS if name in _fields(train, decided))
    masks = sum(bool(own.masks) for own in entities)
    return DataFacts({split: len(own) for split, own in posts.items()}, fields, len(undecided), masks)


def _fields(posts: Sequence[Sample], decided: bool) -> Iterator[str]:
    entities = [own for post in posts for own in post.entities]
    yield "entities"
    if any(text for post in posts for text in post.knowledge):
        yield "knowledge"
    if any(own.expression for own in entities):
        yield "expressions"
    if decided and any(post.image for post in posts):
        yield "visible"
        if any(own.boxes for own in entities):
            yield "boxes"


def recipe_for(folder: Path, base: Base, facts: DataFacts, gpus: int) -> str:
    """The recipe as YAML: what differs from that of the base."""
    own = read_layers(find_recipe(Path(base.recipe))).content["answer"]
    segments = plain(own.get("segments")) or list(SEGMENTS)
    lines = [f"base: {base.recipe}", f"data: {{folder: {_text(str(folder))}}}"]
    if base.quantization:
        lines.append(f"model: {{quantization: {base.quantization}}}")
    if list(facts.fields) != segments:
        lines += ["answer:", f"  segments: [{', '.join(facts.fields)}]"]
    train = dict(_tiny_training(facts) if base.name == TINY else _training(facts, gpus))
    return "\n".join([*lines, "train:", *(f"  {key}: {value}" for key, value in train.items())]) + "\n"


def _tiny_training(facts: DataFacts) -> Iterator[tuple[str, object]]:
    epochs = _FEWEST_EPOCHS * facts.posts["train"] // _TINY_BATCH
    yield "max_steps", min(_TINY_STEPS, max(FEWEST_STEPS, epochs))


def _training(facts: DataFacts, gpus: int) -> Iterator[tuple[str, object]]:
    posts, each = facts.posts["train"], 4
    wanted = 32 if posts >= _MANY_POSTS else 8
    accumulated = max(1, wanted // (each * gpus))
    a_round = -(-posts // (each * gpus * accumulated))
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, -(-FEWEST_STEPS // a_round)))
    yield "num_train_epochs", epochs
    yield "gradient_accumulation_steps", accumulated
    if "dev" not in facts.posts:
        yield "eval_strategy", '"no"  # there is no dev split'
        yield "load_best_model_at_end", "false"
    elif "boxes" not in facts.fields:
        yield "metric_for_best_model", "eval_mner_f1"
    if (steps := a_round * epochs) < 4 * 100:
        yield "eval_steps", max(5, steps // 4)
        yield "save_steps", max(5, steps // 4)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
