"""Models whose weights ZeRO-3 divides among the processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled


@contextmanager
def gathered_weights(engine: nn.Module) -> Iterator[None]:
    """All weights on every process, so that each generates by itself; they are divided again at the end.

    Without this every token gathers the whole model anew, and a process that has fewer tokens to write must go on as
    long as the others. A model that is not divided is left as it is. The memory it takes is that of the weights:
    2 bytes each in bfloat16, 15 GB for a 7B.
    """
    if not is_deepspeed_zero3_enabled():
        yield
        return
    from deepspeed.runtime.zero import unwrap_model_for_generation  # of the extra `deepspeed`

    with unwrap_model_for_generation(engine):
        yield
