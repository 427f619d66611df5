"""``dataset.json`` beside the splits: a dataset's entity types, the sizes of its splits, and where it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from rivegs_mllm.data.jsonl import SPLITS
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import numbered_lines, read_object, shown
from rivegs_mllm.types import Sample, UserError

NAME = "dataset.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """``types`` are the entity types with their descriptions, "" where there is none; ``posts`` and ``entities`` count
    by split; ``format`` is that of the files it was made from, ``boxes`` what their numbers meant, "" without boxes;
    ``sources`` are the files, relative to the folder, () where it was built.
    """

    types: dict[str, str]
    posts: dict[str, int] = field(default_factory=dict)
    entities: dict[str, int] = field(default_factory=dict)
    format: str = ""
    boxes: str = ""
    sources: tuple[str, ...] = ()


def counted(info: DatasetInfo, splits: Mapping[str, Sequence[Sample]]) -> DatasetInfo:
    """The same with the posts and entities of the splits counted."""
    entities = {split: sum(len(sample.entities) for sample in own) for split, own in splits.items()}
    return replace(info, posts={split: len(own) for split, own in splits.items()}, entities=entities)


def check_replaced(folder: Path, format: str, sources: Sequence[str] = ()) -> None:
    """Raises UserError where a dataset is in ``folder`` that is to be written, unless it was made from the same."""
    if not any((folder / name).exists() for name in (*(f"{split}.jsonl" for split in SPLITS), NAME)):
        return
    try:
        there = read_info(folder)
    except UserError:
        there = None
    if there is None or (there.format, there.sources) != (format, tuple(sources)):
        of = f", made of {', '.join((there.format, *there.sources))}" if there and there.format else ""
        raise UserError(
            f"{folder}: holds another dataset{of}, which is not overwritten; name another --out, or delete it"
        )


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Writes ``folder/dataset.json``. Raises WriteError."""
    types = [{"name": name, "description": text} if text else {"name": name} for name, text in info.types.items()]
    content = {"version": VERSION, "types": types, "posts": info.posts, "entities": info.entities}
    made = {"format": info.format, "boxes": info.boxes, "sources": list(info.sources)}
    write_json(folder / NAME, {**content, **{key: value for key, value in made.items() if value}})


def read_info(folder: Path) -> DatasetInfo | None:
    """What ``folder/dataset.json`` says, None where there is none. Raises UserError."""
    path = folder / NAME
    if not path.exists():
        return None
    raw = read_object(path, "import or build the dataset again, or delete the file")
    if raw.get("version") != VERSION:
        raise UserError(f"{path}: version: {shown(raw.get('version'))}; this release reads version {VERSION}")
    types = types_in(raw, path)
    posts, entities = (_counts(path, key, raw.get(key)) for key in ("posts", "entities"))
    sources = _list(path, "sources", raw.get("sources", []))
    paths = [one for one in sources if isinstance(one, str)]
    if len(paths) < len(sources):
        raise UserError(f"{path}: sources: {shown(sources)} is not a list of paths")
    made = _string(path, "format", raw), _string(path, "boxes", raw)
    return DatasetInfo(types, posts, entities, *made, tuple(paths))


def types_in(raw: Mapping[str, object], path: Path) -> dict[str, str]:
    """The types, with their descriptions, of what ``path``, a ``dataset.json``, holds. Raises UserError."""
    types = {}
    for number, one in enumerate(_list(path, "types", raw.get("types"))):
        name = one.get("name") if type(one) is dict else None
        text = one.get("description", "") if type(one) is dict else None
        if type(name) is not str or not name or type(text) is not str:
            raise UserError(f"{path}: types[{number}]: {shown(one)} is not an object of name and description")
        types[name] = text
    return types


def dataset_types(folder: Path) -> dict[str, str]:
    """The entity types of a dataset with their descriptions, "" for none: what ``dataset.json`` says, or else those of
    the entities, sorted; none where there is no dataset. Raises UserError for a ``dataset.json`` that is wrong.

    Lines that are wrong are skipped; reading the samples reports them.
    """
    if info := read_info(folder):
        return info.types
    found: set[str] = set()
    for path in (path for split in SPLITS if (path := folder / f"{split}.jsonl").is_file()):
        for _, line in numbered_lines(path):
            try:
                # Decoded only: reading the samples validates them, and names the line.
                found.update(entity["type"] for entity in orjson.loads(line).get("entities") or [])
            except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
                continue
    return dict.fromkeys(sorted(name for name in found if type(name) is str), "")


def texts_of(path: Path, fields: Collection[str]) -> set[str] | None:
    """Those of the ``fields``, ``knowledge`` and ``expression``, that some post of a JSONL file has a text in; None
    where there is no file that can be read.

    It is read until all are found. Lines that are wrong are skipped; reading the samples reports them.
    """
    found: set[str] = set()
    try:
        for _, line in numbered_lines(path):
            if found >= set(fields):
                break
            try:
                post = orjson.loads(line)
                if any(post.get("knowledge") or []):
                    found.add("knowledge")
                if any(entity.get("expression") for entity in post.get("entities") or []):
                    found.add("expression")
            except (orjson.JSONDecodeError, AttributeError, TypeError):
                continue
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return None
    return found


def _string(path: Path, key: str, raw: dict[str, object]) -> str:
    value = raw.get(key, "")
    if type(value) is not str:
        raise UserError(f"{path}: {key}: {shown(value)} is not a string")
    return value


def _list(path: Path, key: str, value: object) -> list[object]:
    if type(value) is not list:
        raise UserError(f"{path}: {key}: {shown(value)} is not a list")
    return value


def _counts(path: Path, key: str, value: object) -> dict[str, int]:
    if type(value) is not dict or not all(type(count) is int and count >= 0 for count in value.values()):
        raise UserError(f"{path}: {key}: {shown(value)} does not count by split")
    return value
