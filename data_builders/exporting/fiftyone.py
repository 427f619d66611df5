"""FiftyOne's detections: a folder a split and a system, of its type FiftyOneImageDetectionDataset.

Each has ``labels.json`` and the manifest ``data.json``, which says where the pictures are, so that none is copied:
``fiftyone.Dataset.from_dir(dataset_dir="out/test", data_path="data.json",
dataset_type=fiftyone.types.FiftyOneImageDetectionDataset)``. Masks are not part of that type; COCO's files have them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data_builders.exporting.sides import Side, shown_boxes, types_of, write_as_json
from rivegs_mllm.data.written import as_written
from rivegs_mllm.types import Sample


def write_fiftyone(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``<split>`` and ``<system>``. Gives the ids of the posts without a picture of known size, left out."""
    classes = types_of([*gold, *systems])
    left_out: dict[str, None] = {}
    for side in [*gold, *systems]:
        shown = [sample for sample in side.samples if sample.image and sample.size]
        left_out |= dict.fromkeys(sample.id for sample in side.samples if not (sample.image and sample.size))
        folder = out / side.name
        labels = {sample.id: _detections(sample) for sample in shown}
        write_as_json(folder / "labels.json", {"classes": classes, "labels": labels})
        pictures = {sample.id: os.path.relpath(side.root / sample.image, folder) for sample in shown}
        write_as_json(folder / "data.json", pictures)
    return list(left_out)


def _detections(sample: Sample) -> list[dict]:
    """Boxes as shares of the picture, [left, top, width, height]."""
    width, height = sample.size
    rows = []
    for entity in sample.entities:
        for box in shown_boxes(entity):
            sides = [max(box.xmax - box.xmin, 0) / width, max(box.ymax - box.ymin, 0) / height]
            row = {
                "label": entity.type,
                "bounding_box": [box.xmin / width, box.ymin / height, *sides],
                "attributes": {"mention": as_written(entity.text), "expression": entity.expression},
            }
            if entity.visible_score is not None:
                row["confidence"] = entity.visible_score
            rows.append(row)
    return rows
