"""YAML recipes whose parts are chosen by ``type:``, with overrides such as ``--teacher.model=other``.

draccus's own overrides do not reach below a choice, so they are laid into the YAML before it is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import draccus
import yaml

from rivegs_mllm.types import UserError

Recipe = TypeVar("Recipe")

_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML with the booleans and numbers of its version 1.2: ``no`` is a word, as of strategies, and 1e-4 a number."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in forms if tag not in (_BOOL, _FLOAT)]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+.0123456789"),
)


def read_yaml(path: Path | str, overrides: Sequence[str] = ()) -> dict:
    """What a recipe says, overrides laid over it. Raises UserError naming the file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: no such recipe ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a recipe: it has no keys")
    for override in overrides:
        _lay_over(content, override)
    return content


def decode(kind: type[Recipe], content: dict, path: Path | str) -> Recipe:
    """The recipe as its dataclass. Raises UserError naming file and key for an unknown key or a value that is wrong."""
    try:
        return draccus.decode(kind, content)
    except (draccus.utils.DraccusException, TypeError, ValueError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise UserError(f"{path}: {error}{cause}") from None


def parse_recipe(kind: type[Recipe], path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """What a file says with overrides, as its dataclass. Raises UserError as ``read_yaml`` and ``decode`` do."""
    return decode(kind, read_yaml(path, overrides), path)


def _lay_over(content: dict, override: str) -> None:
    key, equals, value = override.removeprefix("--").partition("=")
    if not (override.startswith("--") and equals and key):
        raise UserError(f"{override}: an override is written --key=value")
    *above, last = key.split(".")
    for name in above:
        if not isinstance(content.get(name), dict):
            content[name] = {}
        content = content[name]
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{override}: not YAML: {error}") from None
    if last == "type" and content.get("type") != parsed:
        content.clear()  # another type does not know the settings of this one
    content[last] = parsed
