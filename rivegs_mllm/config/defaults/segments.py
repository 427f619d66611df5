"""The segments of a recipe that names none: those of the model it was trained to, or those its dataset can teach."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rivegs_mllm.answer.format import SEGMENTS, AnswerFormat
from rivegs_mllm.config.reading.layers import Layered, Sourced, word
from rivegs_mllm.data.dataset_info import texts_of

_OPTIONAL = {"knowledge": "knowledge", "expressions": "expression"}
"""Segments that a dataset may have no text for, and the field that holds it."""


def with_dataset_segments(layered: Layered, folder: Path | None = None) -> Layered:
    """The layers of an end-to-end model, without the segments that training could only teach to be left empty.

    Those are ``knowledge`` and ``expressions`` where no post of the training split has one and the recipe names no
    teacher's store. ``folder`` is by default the recipe's ``data.folder``. What a recipe names stays.
    """
    if "model" not in layered.sections or _names_segments(layered):
        return layered
    data, distilled = (layered.sections.get(key) for key in ("data", "distilled"))
    data, distilled = (own if isinstance(own, dict) else {} for own in (data, distilled))
    named = word(data, "folder")
    folder = folder or (Path(named) if named else None)
    if folder is None:
        return layered
    path = folder / f"{word(data, 'train') or 'train'}.jsonl"
    wanted = [field for segment, field in _OPTIONAL.items() if segment not in distilled]
    found = texts_of(path, wanted)
    if found is None:
        return layered
    empty = {segment for segment, field in _OPTIONAL.items() if field in wanted and field not in found}
    return _with_segments(layered, tuple(own for own in SEGMENTS if own not in empty), str(path))


def with_trained_segments(layered: Layered, trained: Path) -> Layered:
    """The layers, with the segments that the model in the folder ``trained`` writes where the recipe names none."""
    if _names_segments(layered):
        return layered
    return _with_segments(layered, AnswerFormat.load(trained).segments, str(trained))


def _names_segments(layered: Layered) -> bool:
    answer = layered.sections.get("answer", {})
    return not isinstance(answer, dict) or "segments" in answer


def _with_segments(layered: Layered, segments: tuple[str, ...], by: str) -> Layered:
    if segments == SEGMENTS:
        return layered
    answer = {**layered.sections.get("answer", {}), "segments": Sourced(list(segments), by)}
    return dataclasses.replace(layered, sections={**layered.sections, "answer": answer})
