"""Where the files of a model are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rivegs_mllm.types import UserError

_PACKAGE = "package:"


def resolve_model_path(name: str) -> str:
    """A hub id or a folder as it is; ``package:NAME/FOLDER`` is that folder inside an installed package.

    The package is not imported. Raises UserError where it is not installed.
    """
    if not name.startswith(_PACKAGE):
        return name
    package, _, inner = name.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{name}: the package {package!r} is not installed; `pip install` it")
    return str(Path(spec.origin).parent / inner)
