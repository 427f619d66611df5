"""The recipes that come with the package, for those who have installed it without a checkout."""

from __future__ import annotations

from pathlib import Path

from rivegs_mllm.runtime.files import is_there

_PACKAGE = Path(__file__).parents[2]
FOLDER = _PACKAGE / "recipes" if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parent / "recipes"
"""Within the package where it was installed, beside it in a checkout."""


def find_recipe(path: Path) -> Path:
    """``path``; where nothing is there and it begins with ``recipes/``, the recipe of that name in `FOLDER`."""
    if is_there(path) or path.is_absolute() or path.parts[:1] != ("recipes",) or ".." in path.parts:
        return path
    shipped = FOLDER.joinpath(*path.parts[1:])
    return shipped if is_there(shipped) else path


def recipe_names() -> list[str]:
    """The recipes of `FOLDER` that can be run, as ``recipes/e2e/qwen2_5_vl_7b.yaml``, in order."""
    files = [file for file in FOLDER.rglob("*.yaml") if not file.name.startswith("_")]
    return sorted(f"recipes/{file.relative_to(FOLDER).as_posix()}" for file in files)
