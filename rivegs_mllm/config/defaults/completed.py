"""What a recipe leaves to its data or its model: the entity types and the segments of the answer."""

from __future__ import annotations

from pathlib import Path

from rivegs_mllm.answer.format import FILE_NAME
from rivegs_mllm.config.defaults.segments import with_dataset_segments, with_trained_segments
from rivegs_mllm.config.defaults.types import with_dataset_types, with_trained_types
from rivegs_mllm.config.reading.layers import Layered


def completed_by_data(layered: Layered, folder: Path | None = None) -> Layered:
    """The layers with the types and segments of the dataset in ``folder``, or in ``data.folder``, where the recipe says
    none. Raises UserError as ``with_dataset_types`` does."""
    return with_dataset_segments(with_dataset_types(layered, folder), folder)


def completed_by_model(layered: Layered, trained: Path, data: Path | None = None) -> Layered:
    """The layers of an end-to-end model with the types and segments of the model in the folder ``trained``, where the
    recipe says none; those of the dataset where there is no such model.

    Raises UserError as ``with_trained_types`` does.
    """
    if not (trained / FILE_NAME).is_file():
        return completed_by_data(layered, data)
    return with_trained_segments(with_trained_types(layered, trained), trained)
