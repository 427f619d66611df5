"""The models behind the feature extractors, each run in batches over all posts."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from rivegs_mllm.answer.prompt import messages
from rivegs_mllm.config.answering import read_answering
from rivegs_mllm.config.trained import local_folder
from rivegs_mllm.data.images import OVERVIEW_SIDE, PictureError, open_for_model
from rivegs_mllm.llm.embeddings import ImageFeatures, TextFeatures, TextImagePair, UmtFeatures, normalize_rows
from rivegs_mllm.models.adapter import load_trained
from rivegs_mllm.models.base_model import System, prepare_for_inference
from rivegs_mllm.models.batching import SampleEncoder, Tensors, batch
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.pretrained import resolve_model_path
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.types import Sample, UserError

Item = TypeVar("Item")


@torch.inference_mode()
def encode_texts(settings: TextFeatures, texts: Sequence[str]) -> np.ndarray:
    """(texts, d): the mean of the last hidden states over a text's tokens, of length 1."""
    model, tokenizer = _load(AutoModel, settings), _load(AutoTokenizer, settings)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # like lengths, little padding
    made = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for some in _batches(order, settings.batch_size, "text features"):
        inputs = tokenizer(
            [texts[index] for index in some],
            padding=True,
            truncation=True,
            max_length=settings.max_length,
            return_tensors="pt",
        ).to(model.device)
        made[some] = _mean(model(**inputs).last_hidden_state, inputs["attention_mask"])
    return normalize_rows(made)


@torch.inference_mode()
def encode_pictures(settings: ImageFeatures, pictures: Sequence[Path | None]) -> np.ndarray:
    """(pictures, d), rows of length 1, or 0 without a picture or with one that cannot be opened, which is reported."""
    model, processor = _load(AutoModel, settings), _load(AutoImageProcessor, settings)
    try:
        encode = model.get_image_features
    except AttributeError:
        raise UserError(f"features: {settings.model} has no image encoder such as CLIP and SigLIP have") from None
    shown = [index for index, picture in enumerate(pictures) if picture is not None]
    found: dict[int, np.ndarray] = {}
    faults: list[str] = []
    for some in _batches(shown, settings.batch_size, "picture features"):
        images = {
            index: image for index in some if (image := _opened(pictures[index], faults, OVERVIEW_SIDE)) is not None
        }
        if images:
            inputs = processor(list(images.values()), return_tensors="pt").to(model.device)
            found.update(zip(images, encode(**inputs).pooler_output.float().cpu().numpy(), strict=True))
    _tell(faults)
    if not found:
        raise UserError("features: none of the posts has a picture; take type text")
    made = np.zeros((len(pictures), len(next(iter(found.values())))), dtype=np.float32)
    for index, vector in found.items():
        made[index] = vector
    return normalize_rows(made)


@torch.inference_mode()
def encode_by_mllm(recipe: Path, adapter: Path, contents: Sequence[TextImagePair]) -> np.ndarray:
    """(contents, d): the mean of the fine-tuned model's last hidden states over its prompt, of length 1."""
    folder = local_folder(adapter)
    settings = read_answering(recipe, trained=folder)
    system = prepare_for_inference(load_trained(folder, settings))
    encoder = SampleEncoder(system.processor)
    nothing = {"answer": torch.empty(0, dtype=torch.long), "weights": torch.empty(0)}
    made = []
    faults: list[str] = []
    rows_at_a_time = max(1, settings.predict.batch_tokens // settings.max_length)
    for some in _batches(contents, rows_at_a_time, "model features"):
        rows = [{**_prompt(content, system, encoder, faults), **nothing} for content in some]
        inputs = batch(rows, encoder.tokenizer.pad_token_id)
        inputs = {key: value.to(system.model.device) for key, value in inputs.items()}
        # Logits of one position, the fewest: 0 would mean all.
        hidden = system.model(**inputs, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
        made.append(_mean(hidden, inputs["attention_mask"]))
    _tell(faults)
    return normalize_rows(np.concatenate(made))


def _prompt(content: TextImagePair, system: System, encoder: SampleEncoder, faults: list[str]) -> Tensors:
    """The prompt of a post, without its picture where that cannot be opened."""
    image = None if content.picture is None else _opened(content.picture, faults)
    sample = Sample(content.id, tuple(content.text.split()), image=str(content.picture) if image else "")
    return encoder.prompt(messages(sample, system.instruction, system.answer_format.types), image)


def _opened(picture: Path, faults: list[str], max_side: int | None = None) -> Image.Image | None:
    """The picture, or None and what is wrong with it among ``faults``."""
    try:
        return open_for_model(picture, max_side)
    except PictureError as error:
        faults.append(str(error))
        return None


def _tell(faults: Sequence[str]) -> None:
    if faults:
        print(f"features: {len(faults)} pictures are left out, the first: {faults[0]}", file=sys.stderr)


def encode_by_umt(settings: UmtFeatures, contents: Sequence[TextImagePair]) -> np.ndarray:
    """(contents, d): the states of a trained UMT tagger that ``settings`` names, of length 1."""
    from rivegs_mllm.cascade.tagging.umt import UmtTagger

    reader = UmtTagger(settings.checkpoint, types=settings.types, batch_size=settings.batch_size).predictor(Path())
    samples = [Sample(own.id, tuple(own.text.split()), image=str(own.picture or "")) for own in contents]
    made = [dataclasses.asdict(own)[settings.states] for own in reader.features(samples)]
    return normalize_rows(torch.cat(made).float().cpu().numpy())


def _load(kind, settings: TextFeatures | ImageFeatures):
    weights = {"use_safetensors": True} if kind is AutoModel else {}
    try:
        loaded = kind.from_pretrained(
            resolve_model_path(settings.model), revision=settings.revision, trust_remote_code=False, **weights
        )
    except (OSError, ValueError) as error:
        raise UserError(f"features: {settings.model}: {one_line(error)}") from None
    if isinstance(loaded, torch.nn.Module):
        loaded.eval().to(best_device())
    return loaded


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """The mean over the positions of the mask, (rows, d); of an empty text it is zeros."""
    weights = mask[..., None].to(torch.float32)
    return ((hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)).cpu().numpy()


def _batches(items: Sequence[Item], size: int, what: str) -> Iterator[list[Item]]:
    starts = range(0, len(items), size)
    for start in track(starts, what, quiet=len(starts) < 10):  # a bar for a few batches would only flicker
        yield list(items[start : start + size])
