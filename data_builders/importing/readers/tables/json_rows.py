"""JSON lines, or a list of objects, with the names of a table's columns: this project's own lines, and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_builders.importing.fields import Fields, read_items
from data_builders.importing.readers.tables.columns import find_columns
from data_builders.importing.readers.tables.rows import read_rows
from data_builders.importing.records import Source


def read_json_rows(path: Path, said: Mapping[str, str]) -> Source:
    """The posts of a file; ``said`` are columns by field. Raises UserError."""
    rows = [(place, Fields(item, place).raw) for place, item in read_items(path)]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    return read_rows(rows, find_columns(names, said, str(path)))
