"""Tables: CSV with a comma, semicolon or tab, and Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_builders.formats.text_files import decoded
from data_builders.importing.fields import MOST_BYTES, read_bytes
from data_builders.importing.readers.tables.columns import find_columns
from data_builders.importing.readers.tables.rows import read_rows
from data_builders.importing.records import Source
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import UserError

_LARGEST_CELL = 2**24
_SAID = re.compile(r"sep=([,;\t])")  # a first line that Excel reads and writes


def read_table(path: Path, said: Mapping[str, str]) -> Source:
    """The posts of a table; ``said`` are columns by field. Raises UserError."""
    if path.suffix.lower() == ".parquet":
        names, rows = _parquet(path)
        return read_rows(rows, find_columns(names, said, str(path)))
    names, rows, comma = _csv(path)
    return read_rows(rows, find_columns(names, said, str(path)), comma)


def _csv(path: Path) -> tuple[list[str], Iterator[tuple[str, dict]], bool]:
    """The names of the columns, the rows, and whether numbers may have a decimal comma: where a semicolon divides the
    cells, as spreadsheets write them in countries with that comma."""
    text = decoded(read_bytes(path), path)
    head, _, rest = text.partition("\n")
    said = _SAID.fullmatch(head.strip())
    separator = said[1] if said else max(",;\t", key=head.count)
    csv.field_size_limit(_LARGEST_CELL)
    # The line that says the separator stays as an empty one, so that the numbers of lines are those of the file.
    lines = io.StringIO("\n" + rest if said else text, newline="")
    reader = csv.reader(lines, delimiter=separator, strict=True)
    names = next(_lines(path, reader), None)
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path}:1: its first line does not name its columns, each once")
    return names, _rows(path, names, reader), separator == ";"


def _rows(path: Path, names: list[str], reader) -> Iterator[tuple[str, dict]]:
    for cells in _lines(path, reader):
        if len(cells) != len(names):
            raise UserError(f"{path}:{reader.line_num}: {len(cells)} cells, where the header names {len(names)}")
        yield f"{path}:{reader.line_num}", dict(zip(names, cells, strict=True))


def _lines(path: Path, reader) -> Iterator[list[str]]:
    """Lines that are not empty: a spreadsheet may write rows of empty cells below its table."""
    try:
        yield from (cells for cells in reader if any(map(str.strip, cells)))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[str, dict]]]:
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path}: longer than {MOST_BYTES:,} bytes; divide it")
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not Parquet: {one_line(error)}") from None
    return file.schema_arrow.names, _batches(path, file)


def _batches(path: Path, file) -> Iterator[tuple[str, dict]]:
    import pyarrow

    number = 0
    try:
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                yield f"{path}: row {number}", row
                number += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read behind row {number}: {one_line(error)}") from None
