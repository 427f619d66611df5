"""Peak memory: the GPU's where there is one, else the process's."""

from __future__ import annotations

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Resets the peak. Where the system cannot do that, peaks are those of the run so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # man 5 proc: resets the peak resident set size


def peak_bytes() -> int | None:
    """Allocated on the GPU, or resident in memory, libraries included; None where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
