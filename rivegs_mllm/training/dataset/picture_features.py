"""The features of each training picture by a frozen vision tower, computed once instead of once an epoch."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rivegs_mllm.models.base_model import System
from rivegs_mllm.models.batching import Tensors, encode_prompt
from rivegs_mllm.runtime.batching import batches
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.training.dataset.rows import AnswerDataset
from rivegs_mllm.types import UserError

FAMILIES = ("qwen2_vl", "qwen2_5_vl")
"""Those whose language model takes one row a picture token; Qwen3-VL's also takes those of inner layers (DeepStack)."""
BATCH_SIZE = 8


def check_cacheable(system: System) -> None:
    """Raises UserError where a picture's features would change while training, or are more than a row a token."""
    if system.answer_format.family not in FAMILIES:
        raise UserError(f"model.cache_pictures: not for the family {system.answer_format.family}; set it to false")
    tower = system.model.get_base_model().model.visual
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise UserError("model.cache_pictures: lora.target_modules trains the vision tower; set it to false")


@torch.inference_mode()
def encode_pictures(dataset: AnswerDataset, system: System) -> dict[str, torch.Tensor]:
    """The ``image_features`` of each picture by its path, (picture tokens, width), on the CPU.

    Every process encodes its share of the pictures and returns all of them.
    """
    state = PartialState()
    tower = system.model.get_base_model().model
    by_picture = {sample.image: sample for sample in dataset.samples if sample.image}
    own = list(by_picture.values())[state.process_index :: state.num_processes]
    features = []
    some = list(batches(own, BATCH_SIZE))
    for samples in track(some, "encoding pictures", quiet=not state.is_local_main_process):
        prompts = [
            encode_prompt(sample, dataset.folder, dataset.encoder, dataset.answer_format, dataset.instruction)
            for sample in samples
        ]
        pixels, grid = (
            torch.cat([prompt[key] for prompt in prompts]).to(tower.device)
            for key in ("pixel_values", "image_grid_thw")
        )
        encoded = tower.get_image_features(pixels, grid, return_dict=True).pooler_output
        features += [(sample.image, rows.cpu().clone()) for sample, rows in zip(samples, encoded, strict=True)]
    return dict(gather_object(features))


def with_features(inputs: Tensors) -> dict:
    """A batch's inputs, its ``image_features`` (picture tokens, width) put where the model's ``forward`` takes them."""
    features = inputs.pop("image_features", None)
    if features is None:
        return inputs
    return {**inputs, "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=(features,))}}
