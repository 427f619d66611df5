"""Recipe keys and types that had another name in the version before, which recipes and saved settings may still use.

Each such name in a recipe is reported by a warning. The tables are emptied with every version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rivegs_mllm.config.reading.yaml_text import Written
from rivegs_mllm.types import UserError

KEYS = {
    "dev_posts": "max_eval_samples",
    "empty_words": "on_empty_token",
    "failures_in_a_row": "max_consecutive_failures",
    "head_rate": "head_learning_rate",
    "how": "strategy",
    "in_flight": "max_concurrency",
    "key_env": "api_key_env",
    "made_up_names": "name_augmentation",
    "most": "max_regions",
    "most_pieces": "max_pieces",
    "most_tokens": "max_tokens",
    "most_words": "max_words",
    "otherwise": "fallback",
    "patience": "retry",
    "refer": "query_fields",
    "read": "language",
    "renamings": "renamed_variants",
    "see": "vision",
    "unnamed": "drop_mentions",
}
TYPES = {"cells": "patches"}

_TYPE_KEYS = ("type", "kind")


def _nothing(old: str, new: str) -> None:
    """Saved settings are updated without a warning: nobody has to edit them."""


def current(content: object, renamed: Callable[[str, str], None] = _nothing) -> object:
    """The content with every key and type under its present name; ``renamed`` is called with each old and new name.

    Raises UserError where a mapping has a key under both names.
    """
    if isinstance(content, Written):
        return dataclasses.replace(content, value=current(content.value, renamed))
    if isinstance(content, list):
        return [current(own, renamed) for own in content]
    if not isinstance(content, dict):
        return content
    made: dict[str, object] = {}
    for key, value in content.items():
        *above, last = key.split(".")  # a run's settings are saved as `stage.name: value`
        name = ".".join(current_key(part, renamed) for part in (*above, last))
        if name in made or (name != key and name in content):
            raise UserError(f"{key}: is now called {name}, which is there too; keep one of them")
        if last in _TYPE_KEYS:
            made[name] = current_type(value, renamed)
        elif key == "variants" and isinstance(value, dict):  # whose keys are the users' own names
            made[name] = {own: current(below, renamed) for own, below in value.items()}
        else:
            made[name] = current(value, renamed)
    return made


def current_key(key: str, renamed: Callable[[str, str], None] = _nothing) -> str:
    """The present name of a key."""
    if key in KEYS:
        renamed(key, KEYS[key])
    return KEYS.get(key, key)


def current_type(value: object, renamed: Callable[[str, str], None] = _nothing) -> object:
    """The present name of a type, as it is written: a text, or a ``Written``. Other values stay as they are."""
    old = value.text if isinstance(value, Written) else value
    if not isinstance(old, str) or old not in TYPES:
        return value
    renamed(old, TYPES[old])
    return Written(TYPES[old], TYPES[old]) if isinstance(value, Written) else TYPES[old]
