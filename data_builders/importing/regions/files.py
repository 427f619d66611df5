"""Regions that lie in files of their own, beside the texts: the format is told by what the path holds."""

from __future__ import annotations

from pathlib import Path

from data_builders.importing.readers.coco import read_coco
from data_builders.importing.readers.cvat import read_cvat
from data_builders.importing.readers.fiftyone import FILES, read_fiftyone
from data_builders.importing.readers.labelme import read_labelme
from data_builders.importing.readers.voc import read_voc
from data_builders.importing.records import Source
from rivegs_mllm.types import UserError


def read_regions(path: Path) -> Source:
    """The regions of a file of COCO, CVAT or FiftyOne, or of a folder of VOC's, labelme's or FiftyOne's. Raises
    UserError."""
    if path.is_file():
        if path.suffix.lower() == ".xml":
            return read_cvat(path, {})
        return read_fiftyone(path, {}) if path.name in FILES else read_coco(path, {})
    if any((path / name).is_file() for name in FILES):
        return read_fiftyone(path, {})
    if path.is_dir() and any(path.glob("*.xml")):
        return read_voc(path)
    if path.is_dir() and any(path.glob("*.json")):
        return read_labelme(path, {})
    raise UserError(f"--regions: {path}: no file of COCO or CVAT and no folder of VOC's, labelme's or FiftyOne's")
