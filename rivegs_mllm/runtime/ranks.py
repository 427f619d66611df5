"""The processes that a launcher (`accelerate launch`, torchrun) started together, which write one result."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta

from rivegs_mllm.types import UserError

_PATIENCE = timedelta(days=30)
"""For the slowest process. One that dies is noticed at once, by its closed connections."""


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def join_ranks() -> None:
    """Connects the processes, once, and makes this one's GPU its default device."""
    import torch  # here, so that what needs no model need not load it

    if world_size() == 1 or torch.distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)  # only to wait: no tensors are exchanged
    atexit.register(torch.distributed.destroy_process_group)


def wait_for_all() -> None:
    """Returns when all processes have come here. Raises UserError where one has ended."""
    import torch

    if world_size() == 1:
        return
    try:
        torch.distributed.barrier()
    except RuntimeError as error:
        raise UserError(f"process {rank()}: another process of this run has ended, and said why") from error


def are_joined() -> bool:
    """Whether ``join_ranks`` has connected several processes."""
    if world_size() == 1:
        return False
    import torch

    return bool(torch.distributed.is_initialized())
