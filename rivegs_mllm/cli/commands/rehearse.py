"""The command ``rehearse``: a run of GPUs tried without one."""

from __future__ import annotations

import argparse
from pathlib import Path

from rivegs_mllm.cli.common import add_command, add_data, data_override
from rivegs_mllm.runtime.logs import quiet_transformers

GPU_NAMES = ("h200", "h100-80", "a100-80", "a100-40", "l40s", "l4", "4090", "3090")
EXAMPLES = """\
examples:
  rivegs rehearse recipes/e2e/qwen2_5_vl_7b.yaml --gpus 8 --gpu a100-80
  rivegs rehearse recipes/e2e/qwen2_5_vl_3b.yaml --gpu 4090 --json rehearsal.json

Each line is ok, a warning or a fault, and says what to do. The first thousand posts go through processor and answer
format; two steps of the real training are made on a small base like the recipe's, in two processes where there is more
than one GPU; memory, time and disk are calculated. The exit code is 1 where there is a fault."""


def add_rehearse(commands) -> None:
    """The command's parser."""
    own = add_command(commands, "rehearse", "try a run of GPUs without one, before it is paid for", _rehearse, True)
    own.formatter_class = argparse.RawDescriptionHelpFormatter
    own.epilog = EXAMPLES
    own.add_argument("recipe", type=Path, help="of the end-to-end model")
    own.add_argument("--gpus", type=int, default=1, metavar="N", help="how many GPUs a node has (default 1)")
    own.add_argument("--nodes", type=int, default=1, metavar="M", help="how many nodes share the run (default 1)")
    own.add_argument("--gpu", choices=GPU_NAMES, default="a100-80", help="which GPU (default a100-80)")
    own.add_argument("--json", type=Path, metavar="FILE", help="also write what was found, with its figures")
    add_data(own)


def _rehearse(args: argparse.Namespace, overrides: list[str]) -> int:
    from rivegs_mllm.cli.early import check_model_recipe
    from rivegs_mllm.runtime.files import write_json
    from rivegs_mllm.types import UserError

    overrides = data_override(args, overrides)
    for name in ("gpus", "nodes"):
        if vars(args)[name] < 1:
            raise UserError(f"--{name}: {vars(args)[name]}; a run needs one or more")
    check_model_recipe(args.recipe, overrides)
    quiet_transformers()
    from rivegs_mllm.rehearsal.check import FAULT, WARNING
    from rivegs_mllm.rehearsal.cost import Machine
    from rivegs_mllm.rehearsal.gpus import GPUS
    from rivegs_mllm.rehearsal.run import rehearse

    machine = Machine(args.gpu, GPUS[args.gpu], args.gpus, args.nodes, zero=0)
    checks = []
    for check in rehearse(args.recipe, overrides, machine):
        print(check.line(), flush=True)
        checks.append(check)
    faults, warnings = (sum(check.level == level for check in checks) for level in (FAULT, WARNING))
    print(f"{faults} faults, {warnings} warnings")
    if args.json:
        write_json(args.json, [check.to_json() for check in checks])
    return 1 if faults else 0
