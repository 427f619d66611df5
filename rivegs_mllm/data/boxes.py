"""Whether boxes are in the coordinates that records are in."""

from __future__ import annotations

from collections.abc import Iterable

from rivegs_mllm.types import Sample


def are_shares(samples: Iterable[Sample]) -> bool:
    """Whether the boxes of the samples, all of them, look like shares of the picture: none reaches beyond 1."""
    boxes = [box for sample in samples for entity in sample.entities for box in entity.boxes]
    return bool(boxes) and all(max(box.xmax, box.ymax) <= 1 for box in boxes)
