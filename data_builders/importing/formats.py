"""The formats by name. Another one is a reader in ``readers`` and a line here and in ``names``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_builders.importing.readers.brat import read_brat
from data_builders.importing.readers.char_spans import read_char_spans
from data_builders.importing.readers.coco import read_coco
from data_builders.importing.readers.conll import read_conll
from data_builders.importing.readers.cvat import read_cvat
from data_builders.importing.readers.fiftyone import read_fiftyone
from data_builders.importing.readers.gliner import read_gliner
from data_builders.importing.readers.label_studio import read_label_studio
from data_builders.importing.readers.labelme import read_labelme
from data_builders.importing.readers.sharegpt import read_sharegpt
from data_builders.importing.readers.tables.files import read_table
from data_builders.importing.readers.tables.hf_datasets import read_datasets
from data_builders.importing.readers.tables.json_rows import read_json_rows
from data_builders.importing.records import Source

ColumnNames = Mapping[str, str]
"""What the user says of a table: the column of a field, by the field's name."""


@dataclass(frozen=True, slots=True)
class Format:
    """``read(path, columns)`` reads a file; where ``endings`` are given a folder stands for its files with these, else
    it is read as it is."""

    read: Callable[[Path, ColumnNames], Source]
    endings: tuple[str, ...]


FORMATS = {
    "coco": Format(read_coco, (".json",)),
    "label-studio": Format(read_label_studio, (".json",)),
    "csv": Format(read_table, (".csv", ".tsv")),
    "parquet": Format(read_table, (".parquet",)),
    "json": Format(read_json_rows, (".json", ".jsonl")),
    "conll": Format(read_conll, (".conll", ".txt", ".bio", ".tsv", ".iob", ".iob2")),
    "spacy": Format(read_char_spans, (".json", ".jsonl")),
    "doccano": Format(read_char_spans, (".json", ".jsonl")),
    "brat": Format(read_brat, ()),
    "gliner": Format(read_gliner, (".json", ".jsonl")),
    "sharegpt": Format(read_sharegpt, (".json", ".jsonl")),
    "datasets": Format(read_datasets, ()),
    "labelme": Format(read_labelme, ()),
    "cvat": Format(read_cvat, (".xml",)),
    "fiftyone": Format(read_fiftyone, ()),
}
