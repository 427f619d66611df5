"""Whether boxes are in the coordinates that records are in."""

from __future__ import annotations

from collections.abc import Iterable

from rivegs_mllm.types import Prediction, Sample


def are_normalised(records: Iterable[Sample | Prediction]) -> bool:
    """Whether the boxes look like fractions of the picture instead of pixels: none of them reaches beyond 1."""
    boxes = [box for record in records for entity in record.entities for box in entity.boxes]
    return bool(boxes) and all(max(box.xmax, box.ymax) <= 1 for box in boxes)
