"""YAML recipes whose parts are chosen by ``type:``, with overrides such as ``--teacher.model=other``.

Overrides are laid into the YAML before it is decoded, so that they reach below a choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from rivegs_mllm.config.check import build
from rivegs_mllm.config.yaml_text import Written, read_file, read_value
from rivegs_mllm.types import UserError

Recipe = TypeVar("Recipe")

_LONGEST = 400


class _Form(NamedTuple):
    """A kind of recipe, known by keys that it has all of."""

    what: str
    commands: str
    keys: frozenset[str]


_FORMS = (
    _Form("a stage of the cascade", "rivegs train", frozenset({"stage"})),
    *(
        _Form("a cascade", "rivegs predict and compare", frozenset({slot}))
        for slot in ("tagger", "expander", "entailment", "grounder", "segmenter")
    ),
    _Form("a language model's answers", "rivegs distill", frozenset({"task", "teacher"})),
    _Form("training data by a cascade", "rivegs distill", frozenset({"cascade", "out"})),
    _Form("training data by a cascade", "rivegs distill", frozenset({"predictions", "out"})),
    _Form("a proposer of regions", "rivegs propose", frozenset({"proposer"})),
    _Form("the tiny base", "python -m rivegs_mllm.tiny.build", frozenset({"see", "read"})),
    _Form(
        "a single model",
        "rivegs train, preview, predict and compare",
        frozenset({"model", "lora"}),
    ),
)


def read_yaml(path: Path | str, overrides: Sequence[str] = ()) -> dict:
    """What a recipe says as ``yaml_text`` reads it, overrides laid over it. Raises UserError naming the file."""
    path = Path(path)
    if path.suffix in (".jsonl", ".json"):
        raise UserError(f"{path}: not a recipe, which is a YAML file; predictions are scored by `rivegs evaluate`")
    content = read_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a recipe: it has no keys")
    for override in overrides:
        _lay_over(content, override)
    return content


def decode(kind: type[Recipe], content: dict, path: Path | str) -> Recipe:
    """The recipe as its dataclass. Raises UserError naming file and key for an unknown key or a value that is wrong."""
    _check_form(kind, content, path)
    try:
        return build(kind, content)
    except UserError as error:
        said = " ".join(str(error).split())  # some are the libraries', and hold what they were given
        raise UserError(f"{path}: {said if len(said) <= _LONGEST else said[:_LONGEST] + ' ...'}") from error


def parse_recipe(kind: type[Recipe], path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """What a file says with overrides, as its dataclass. Raises UserError as ``read_yaml`` and ``decode`` do."""
    return decode(kind, read_yaml(path, overrides), path)


def word(content: Mapping[str, object], key: str) -> str | None:
    """The text that a key of a recipe has, None where it has none or is not there."""
    value = content.get(key)
    value = value.text if isinstance(value, Written) else value
    return value if isinstance(value, str) else None


def _check_form(kind: type, content: dict, path: Path | str) -> None:
    """Raises UserError for a recipe of another kind, which other commands are for."""
    known = {field.name for field in dataclasses.fields(kind)}
    for form in _FORMS:
        if form.keys <= content.keys() and not form.keys <= known:
            raise UserError(f"{path}: a recipe of {form.what}, which is for {form.commands}")


def _lay_over(content: dict, override: str) -> None:
    key, equals, value = override.removeprefix("--").partition("=")
    if not (override.startswith("--") and equals and key):
        raise UserError(f"{override[:_LONGEST]}: an override is written --key=value")
    *above, last = key.split(".")
    for name in above:
        own = content.get(name)
        own = own.value if isinstance(own, Written) else own
        content[name] = own if isinstance(own, dict) else {}
        content = content[name]
    read = read_value(value)
    if last == "type" and word(content, "type") != word({"type": read}, "type"):
        content.clear()  # another type does not know the settings of this one
    content[last] = read
