"""The Parquet files of a store: their columns, and how they are written and read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("sample", pa.string()),
        ("kind", pa.string()),
        ("mention", pa.string()),
        ("key", pa.string()),
        ("question", pa.string()),
        ("teacher", pa.string()),
        ("revision", pa.string()),
        ("text", pa.string()),
        ("fields", pa.string()),
        ("faults", pa.list_(pa.string())),
        ("status", pa.string()),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost", pa.float64()),
        ("latency", pa.float64()),
        ("tries", pa.int32()),
        ("time", pa.timestamp("ms", tz="UTC")),
    ]
)


def write_shard(path: Path, rows: Iterable[dict]) -> None:
    """Writes rows, ``time`` in ISO form, and waits until the disk has them. Raises OSError."""
    values = [{**row, "faults": list(row["faults"]), "time": datetime.fromisoformat(row["time"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(values, schema=SCHEMA), path, compression="zstd")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_shard(path: Path) -> Iterator[dict]:
    """The rows as they were written. Raises ValueError, KeyError or OSError where the file is no shard."""
    try:
        with pq.ParquetFile(path) as file:
            for some in file.iter_batches():
                for row in some.to_pylist():
                    yield {**row, "time": row["time"].isoformat(timespec="milliseconds")}
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def count_rows(path: Path) -> int:
    """How many rows it has, by its footer. Raises ValueError or OSError where the file is no shard."""
    try:
        return pq.read_metadata(path).num_rows
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
