"""Makes the tiny base: ``python -m rivegs_mllm.tiny.make recipes/tiny/base.yaml``.

Two stages, each a resumable ``transformers.Trainer`` run: the vision tower learns to see (see.py), then the language
model learns to read, to describe and to find (read.py). Started again, it goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import draccus
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from rivegs_mllm.dataset import Collator, Encoder
from rivegs_mllm.tiny import read, see
from rivegs_mllm.tiny.architecture import build_contract, build_model, build_processor, train_tokenizer


@dataclass
class BaseRecipe:
    """How the tiny base is made. ``see`` and ``read`` are the two stages' training arguments."""

    out: Path
    seed: int
    see: TrainingArguments
    read: TrainingArguments


class LogRight(TrainerCallback):
    """Adds the model's own measure, how often it was right, to what is logged."""

    def on_log(self, args, state, control, logs, model, **_):
        logs.update(model.right)
        print(logs, flush=True)


def run_stage(model: nn.Module, arguments: TrainingArguments, rows, collate) -> None:
    """Trains ``model``, or loads it when the stage ended before."""
    finished = Path(arguments.output_dir) / "finished.safetensors"
    if not finished.exists():
        trainer = Trainer(
            model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[LogRight()]
        )
        trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))
        save_file(model.state_dict(), finished)
    model.load_state_dict(load_file(finished))


def make(recipe: BaseRecipe) -> None:
    """Both stages, then the model in half precision and its processor into ``recipe.out``."""
    set_seed(recipe.seed)
    tokenizer = train_tokenizer(read.corpus(recipe.seed))
    processor = build_processor(tokenizer)
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)

    seer = see.Seer(model.model.visual, model.config.text_config.hidden_size)
    run_stage(seer, recipe.see, see.Scenes(processor, recipe.seed), see.collate)

    encoder = Encoder(processor, weights={"visible": 2.0})
    model.model.visual.requires_grad_(False)
    reader = read.Reader(model, read.token_groups(tokenizer))
    lessons = read.Lessons(encoder, build_contract(), recipe.seed, recipe.read.per_device_train_batch_size)
    run_stage(reader, recipe.read, lessons, Collator(encoder, keep_vision=True))
    model.to(torch.float16).save_pretrained(recipe.out)
    processor.save_pretrained(recipe.out)


if __name__ == "__main__":
    make(draccus.parse(BaseRecipe, sys.argv[1], args=sys.argv[2:]))
