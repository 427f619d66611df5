"""A file of entity types: a JSON object of descriptions by type, a list of types, or a ``dataset.json``."""

from __future__ import annotations

from pathlib import Path

from data_builders.importing.fields import read_json
from rivegs_mllm.data.dataset_info import types_in
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import UserError


def read_types(path: Path) -> dict[str, str]:
    """Descriptions by type, "" where there is none. Raises UserError."""
    content = read_json(path)
    if type(content) is list and all(type(name) is str for name in content):
        content = dict.fromkeys(content, "")
    if type(content) is dict and type(content.get("types")) is list:
        content = types_in(content, path)
    if type(content) is not dict or not content or not all(content):
        raise UserError(f"{path}: {shown(content)} is neither a list of types nor an object of descriptions by type")
    for name, text in content.items():
        if type(text) is not str:
            raise UserError(f"{path}: {name}: {shown(text)} is not a description")
    return content
