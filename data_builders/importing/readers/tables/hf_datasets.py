"""Datasets of Hugging Face: a folder that ``save_to_disk`` wrote, a folder of data files, or a name on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data_builders.importing.readers.tables.columns import find_columns
from data_builders.importing.readers.tables.rows import read_rows
from data_builders.importing.records import Post, Source
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_MOST_HELD = 2**33
"""Bytes of pictures, which are held in memory until all is known."""

_SAVED = ("dataset_dict.json", "state.json")


def read_datasets(path: Path, said: Mapping[str, str]) -> Source:
    """The posts of all splits; ``said`` are columns by field. Raises UserError."""
    posts: list[Post] = []
    source = None
    held = 0
    for split, dataset in _load(path).items():
        columns = find_columns(dataset.column_names, said, f"{path}: {split}")
        source = read_rows(_rows(path, split, dataset), columns)
        held += sum(len(post.picture) for post in source.posts)
        if held > _MOST_HELD:
            raise UserError(f"{path}: more than {_MOST_HELD:,} bytes of pictures; save them as files, for --images")
        posts += [post if post.split else replace(post, split=split) for post in source.posts]
    if source is None:
        raise UserError(f"{path}: has no split")
    return Source(posts, source.boxes, source.layout, source.notes)


def _load(path: Path) -> Mapping[str, object]:
    """The splits by name."""
    import datasets

    try:
        if any((path / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(str(path))
        elif path.is_dir() or _HUB_ID.fullmatch(str(path)):
            loaded = datasets.load_dataset(str(path))
        else:
            raise UserError(f"{path}: neither a folder nor the name of a dataset on the hub")
    except UserError:
        raise
    except Exception as error:  # of the hub, of the connection, and of whatever a damaged file makes Arrow stumble on
        raise UserError(f"{path}: cannot be loaded by `datasets`: {one_line(error)}") from None
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "data"): loaded}


def _rows(path: Path, split: str, dataset) -> Iterator[tuple[str, dict]]:
    """Rows with the names of classes, and pictures as they are stored."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    features = dict(dataset.features)
    for number, row in enumerate(dataset):
        place = f"{path}: {split}, row {number}"
        yield place, {name: _named(value, features[name]) for name, value in row.items()}


def _named(value: object, feature: object) -> object:
    """A value with the names of classes in the place of their numbers."""
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if type(value) is int and value >= 0 else value
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return [_named(one, feature.feature) for one in value]
    if isinstance(feature, list):
        return [_named(one, feature[0]) for one in value]
    if isinstance(feature, dict):
        return {key: _named(own, feature[key]) for key, own in value.items()}
    return value
