"""The command ``memory``: what a run should need on each GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command, add_data, data_override
from rivegs_mllm.runtime.logs import quiet_transformers


def add_memory(commands) -> None:
    """The command's parser."""
    own = add_command(
        commands, "memory", "the memory that training by a recipe should need on each GPU, calculated", _memory, True
    )
    own.add_argument("recipe", type=Path, help="of the end-to-end model")
    own.add_argument("--gpus", type=int, default=1, help="how many GPUs share the run (default 1)")
    own.add_argument("--zero", type=int, choices=(2, 3), default=0, help="DeepSpeed's stage (default: without it)")
    add_data(own)


def _memory(args: argparse.Namespace, overrides: list[str]) -> None:
    from rivegs_mllm.cli.early import MODEL, check_keys
    from rivegs_mllm.config.reading.layers import read_layers
    from rivegs_mllm.types import UserError

    overrides = data_override(args, overrides)
    if args.gpus < 1:
        raise UserError(f"--gpus: {args.gpus}; a run needs one or more")
    check_keys(read_layers(args.recipe, overrides), MODEL)
    quiet_transformers()
    from rivegs_mllm.training.memory import tell_memory

    tell_memory(args.recipe, overrides, args.gpus, args.zero)
