"""YAML recipes whose parts are chosen by ``type:``, with overrides such as ``--teacher.model=other``.

Bases and overrides are merged before the YAML is decoded, so that they reach the settings below a ``type:``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from rivegs_mllm.config.check import UnknownKeyError, build
from rivegs_mllm.config.nearest import keys_of, nearest_keys
from rivegs_mllm.config.reading.layers import Layered, read_layers
from rivegs_mllm.types import UserError

Recipe = TypeVar("Recipe")

_LONGEST = 400


class _Form(NamedTuple):
    """A kind of recipe, known by keys that it has all of."""

    what: str
    commands: str
    keys: frozenset[str]


_FORMS = (
    _Form("variants", "rivegs compare", frozenset({"variants"})),
    _Form("a stage of the cascade", "rivegs train", frozenset({"stage"})),
    *(
        _Form("a cascade", "rivegs predict and compare", frozenset({slot}))
        for slot in ("tagger", "expander", "entailment", "grounder", "segmenter")
    ),
    _Form("a language model's answers", "rivegs distill", frozenset({"task", "teacher"})),
    _Form("training data by a cascade", "rivegs distill", frozenset({"cascade", "out"})),
    _Form("training data by a cascade", "rivegs distill", frozenset({"predictions", "out"})),
    _Form("a proposer of regions", "rivegs propose", frozenset({"proposer"})),
    _Form("the tiny base", "python -m rivegs_mllm.tiny.build", frozenset({"vision", "language"})),
    _Form(
        "an end-to-end model",
        "rivegs train, preview, predict and compare",
        frozenset({"model", "lora"}),
    ),
)


def read_yaml(path: Path | str, overrides: Sequence[str] = ()) -> dict:
    """A complete recipe, as ``yaml_text`` reads one file. Raises UserError as ``read_layers`` does."""
    return read_layers(path, overrides).content


def decode(kind: type[Recipe], layered: Layered) -> Recipe:
    """The recipe as its dataclass. Raises UserError naming file and key for an unknown key or a value that is wrong."""
    content = layered.content
    _check_form(kind, content, layered.name)
    try:
        return build(kind, content)
    except UnknownKeyError as error:
        near = nearest_keys(error.key, list(keys_of(kind, content)))
        hint = f"did you mean {' or '.join(near)}?" if near else error.hint
        raise UnknownKeyError(error.key, hint, layered.fault) from error
    except UserError as error:
        message = " ".join(str(error).split())  # libraries' messages quote values of any length
        raise layered.fault(message if len(message) <= _LONGEST else message[:_LONGEST] + " ...") from error


def parse_recipe(kind: type[Recipe], path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A file with its bases and overrides, as its dataclass. Raises UserError as ``read_layers`` and ``decode`` do."""
    return decode(kind, read_layers(path, overrides))


def _check_form(kind: type, content: dict, name: str) -> None:
    """Raises UserError for a recipe of another kind, which other commands are for."""
    known = {field.name for field in dataclasses.fields(kind)}
    for form in _FORMS:
        if form.keys <= content.keys() and not form.keys <= known:
            raise UserError(f"{name}: a recipe of {form.what}, which is for {form.commands}")
