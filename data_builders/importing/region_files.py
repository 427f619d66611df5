"""Regions that lie in files of their own, beside the texts: the format is told by what the path holds."""

from __future__ import annotations

from pathlib import Path

from data_builders.importing.readers.coco import read_coco
from data_builders.importing.readers.voc import read_voc
from data_builders.importing.records import Source
from rivegs_mllm.types import UserError


def read_regions(path: Path) -> Source:
    """The regions of a COCO file, or of a folder of VOC's files. Raises UserError."""
    if path.is_file():
        return read_coco(path, {})
    if path.is_dir() and any(path.glob("*.xml")):
        return read_voc(path)
    raise UserError(f"--regions: {path}: neither COCO's JSON nor a folder of VOC's XML files")
