"""The rows of RiVEG's statistic, which its own script scores: ``<split>.txt`` of the gold and ``<system>.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_builders.exporting.sides import Side
from data_builders.formats.riveg_rows import write_riveg_gold, write_riveg_predictions
from rivegs_mllm.types import Prediction


def write_riveg(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes the files. Gives the ids of posts with a predicted entity of several boxes, of which a row holds one."""
    for side in gold:
        write_riveg_gold(out / f"{side.name}.txt", side.samples)
    cut: dict[str, None] = {}
    for side in systems:
        predictions = [Prediction(sample.id, entities=sample.entities) for sample in side.samples]
        cut |= dict.fromkeys(own.place for own in write_riveg_predictions(out / f"{side.name}.txt", predictions))
    return list(cut)
