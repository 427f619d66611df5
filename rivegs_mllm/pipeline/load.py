"""Loads a system from a trained model's folder, a hub id, or a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.analysis.calibration import Calibration, read_calibration
from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.cascade.config import CascadeRecipe, is_cascade, read_cascade
from rivegs_mllm.cascade.in_memory import LoadedCascade
from rivegs_mllm.cascade.mllm import SEGMENT_OF
from rivegs_mllm.config.answering import Answering, read_answering
from rivegs_mllm.config.trained import local_folder, trained_folder
from rivegs_mllm.models.adapter import answering_of, load_trained
from rivegs_mllm.models.base_model import prepare_for_inference
from rivegs_mllm.models.device import best_device, good_dtype
from rivegs_mllm.models.generation.batch_plan import plan
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.pipeline.system import ROOT, Pipeline, checked_threshold, wanted_fields
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.runtime.logs import quiet_loading
from rivegs_mllm.types import Prediction, Sample, UserError

DTYPES = ("float32", "bfloat16", "float16")


@quiet_loading()
def load(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    segments: Sequence[str] | None = None,
    threshold: float | None = None,
    overrides: Sequence[str] = (),
) -> Pipeline:
    """The system in ``source``, ready to be called on posts.

    ``source`` is the folder of a trained adapter or of a merged model, a hub id of either, or the recipe (YAML) of a
    cascade or of an end-to-end model that was trained by it. ``device`` is torch's name of one, None for the GPU where
    there is one. ``dtype`` is the precision of an end-to-end model, None for the one it was trained in, or float32 on a
    processor that has no instructions for that. ``batch_size`` is how many posts ``batch`` answers at a time.
    ``segments`` are the fields to be filled, such as ("entities", "visible"), None for all that the system can: to fill
    fewer is quicker. ``threshold`` is the ``visible_score`` from which on an entity counts as visible, in the place of
    the calibrated one. ``overrides`` are of a recipe's keys, such as "--predict.max_new_tokens=64". Raises UserError,
    which says what is missing, for what is none of these or does not load.
    """
    checked_threshold(threshold)
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype: {dtype!r} is none of {', '.join(DTYPES)}")
    path = Path(source)
    if path.suffix in (".yaml", ".yml") and not path.is_dir():
        if is_cascade(path):
            return _cascade(read_cascade(path, overrides), device or dtype, batch_size, segments, threshold)
        trained = trained_folder(path, overrides)
        recipe = read_answering(path, overrides, trained=trained)
        return _single(trained, recipe, device, dtype, batch_size, segments, threshold)
    if overrides:
        raise UserError(f"overrides: {overrides[0]}: {source} is no recipe")
    folder = local_folder(source)
    return _single(folder, answering_of(folder), device, dtype, batch_size, segments, threshold)


def _single(
    folder: Path,
    recipe: Answering,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    segments: Sequence[str] | None,
    threshold: float | None,
) -> Pipeline:
    place = device or best_device()
    precision = dtype or good_dtype(recipe.model.dtype, place)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dtype=precision))
    answer_format = AnswerFormat.load(folder)
    fields = wanted_fields(answer_format.segments, segments)
    calibration = _calibration(read_calibration(folder), threshold)
    system = load_trained(folder, recipe)
    try:
        system = prepare_for_inference(system, place)
    except (RuntimeError, AssertionError) as error:  # torch, built without the device or for want of memory
        raise UserError(f"device: {place}: {one_line(error)}") from error
    generator = Generator(
        system, ROOT, recipe.predict.max_new_tokens, recipe.max_length, constrain=recipe.predict.constrain
    )

    def answer(samples: Sequence[Sample], wanted: tuple[str, ...], own: float | None) -> list[Prediction]:
        last = None if wanted == answer_format.segments else wanted[-1]
        answers: dict[int, Prediction] = {}
        for batch in plan(samples, generator, recipe.predict):
            answers |= zip(batch, generator.answer([samples[index] for index in batch], last=last), strict=True)
        return _decided([answers[index] for index in range(len(samples))], _calibration(calibration, own))

    return Pipeline(
        answer, answer_format.types, fields, str(system.model.device), batch_size or recipe.predict.batch_size
    )


def _cascade(
    recipe: CascadeRecipe,
    placed: str | None,
    batch_size: int | None,
    segments: Sequence[str] | None,
    threshold: float | None,
) -> Pipeline:
    if placed:
        raise UserError("device, dtype: a cascade's stages choose their own; set CUDA_VISIBLE_DEVICES to choose GPUs")
    fields = {slot: SEGMENT_OF.get(slot, "masks") for slot in recipe.stages()}
    loaded = wanted_fields(tuple(fields.values()), segments)
    left_out: dict[str, Any] = {slot: None for slot, field in fields.items() if field not in loaded}
    cascade = LoadedCascade(dataclasses.replace(recipe, **left_out), ROOT)
    calibration = _calibration(None, threshold)

    def answer(samples: Sequence[Sample], wanted: tuple[str, ...], own: float | None) -> list[Prediction]:
        slots = [slot for slot, field in fields.items() if field in wanted]
        return _decided(cascade(samples, slots), _calibration(calibration, own))

    return Pipeline(answer, recipe.types, loaded, best_device(), batch_size or recipe.batch_size)


def _decided(predictions: list[Prediction], calibration: Calibration | None) -> list[Prediction]:
    return [calibration.apply(one) for one in predictions] if calibration else predictions


def _calibration(fitted: Calibration | None, threshold: float | None) -> Calibration | None:
    return fitted if threshold is None else dataclasses.replace(fitted or Calibration(), threshold=threshold)
