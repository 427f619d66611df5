"""Makes the tiny base: ``python -m rivegs_mllm.tiny.build recipes/tiny/base.yaml``.

Two stages, each a ``transformers.Trainer`` run: vision pre-training (vision_pretraining.py), then language pre-training
(language_pretraining.py). Started again, it resumes from its last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from transformers import Qwen2_5_VLForConditionalGeneration, Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from rivegs_mllm.config.bounds import Seed
from rivegs_mllm.config.reading.yaml_loader import parse_recipe
from rivegs_mllm.config.schema import TrainSettings
from rivegs_mllm.models.batching import SampleEncoder
from rivegs_mllm.models.device import count_parameters
from rivegs_mllm.tiny.architecture import build_answer_format, build_model, build_processor, train_tokenizer
from rivegs_mllm.tiny.language_pretraining import LOSS_WEIGHTS, LanguageTrainer, PretrainingDataset, corpus
from rivegs_mllm.tiny.vision_pretraining import SceneDataset, VisionPretrainingModel, VisionTrainer


@dataclass
class BaseRecipe:
    """The pre-training of the tiny base. ``vision`` and ``language`` are the two stages' training arguments."""

    out: Path
    seed: Seed
    vision: TrainSettings
    language: TrainSettings


def run_stage(trainer: Trainer) -> None:
    """Trains the trainer's model, or loads it where the stage ended before."""
    finished = Path(trainer.args.output_dir) / "finished.safetensors"
    if not finished.exists():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(trainer.args.output_dir))
        save_model(trainer.model, str(finished))
    load_model(trainer.model, finished)


def make(recipe: BaseRecipe) -> None:
    """Both stages, then the model in half precision and its processor into ``recipe.out``."""
    set_seed(recipe.seed)
    tokenizer = train_tokenizer(corpus(recipe.seed))
    processor = build_processor(tokenizer)
    model = build_model(tokenizer)
    print(f"{count_parameters(model):,} parameters, {len(tokenizer)} tokens", flush=True)

    vision = VisionPretrainingModel(model.model.visual, model.get_input_embeddings().weight)
    run_stage(VisionTrainer(vision, recipe.vision, SceneDataset(processor, recipe.seed)))

    Path(recipe.language.output_dir).mkdir(parents=True, exist_ok=True)
    if checkpoint := get_last_checkpoint(recipe.language.output_dir):
        # Trainer does not load weights that save_pretrained has renamed.
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    encoder = SampleEncoder(processor, LOSS_WEIGHTS)
    examples = PretrainingDataset(
        encoder, build_answer_format(), recipe.seed, recipe.language.per_device_train_batch_size
    )
    run_stage(LanguageTrainer(model, recipe.language, examples))
    model.to(torch.float16).save_pretrained(recipe.out)
    processor.save_pretrained(recipe.out)


if __name__ == "__main__":
    make(parse_recipe(BaseRecipe, sys.argv[1], sys.argv[2:]))
