"""An export of samples and predictions that are in memory, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_builders.exporting.run import export_dataset
from data_builders.exporting.sides import Side, side_of
from rivegs_mllm.types import Prediction, Sample


def exported(
    name: str, out: Path, gold: Sequence[Sample], said: Mapping[str, Sequence[Prediction]], root: Path = Path()
) -> list[str]:
    """Writes the split "gold" and the systems, and gives what is said of it."""
    side = Side("gold", gold, root)
    return export_dataset(name, [side], [side_of(own, side, answers) for own, answers in said.items()], out)
