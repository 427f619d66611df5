"""The GPUs that a run can be calculated for, by what their makers state."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """``memory`` in bytes; ``flops``, operations a second of dense bfloat16 products that are summed in float32;
    ``bandwidth`` of its memory, bytes a second."""

    memory: float
    flops: float
    bandwidth: float


GPUS = {
    "h200": Gpu(141e9, 989e12, 4.8e12),
    "h100-80": Gpu(80 * GIB, 989e12, 3.35e12),
    "a100-80": Gpu(80 * GIB, 312e12, 2.04e12),
    "a100-40": Gpu(40 * GIB, 312e12, 1.55e12),
    "l40s": Gpu(48 * GIB, 362e12, 0.864e12),
    "l4": Gpu(24 * GIB, 121e12, 0.3e12),
    "4090": Gpu(24 * GIB, 165e12, 1.008e12),
    "3090": Gpu(24 * GIB, 71e12, 0.936e12),
}
"""From their data sheets, the SXM models where there are several. Stated with sparsity, figures are halved."""
