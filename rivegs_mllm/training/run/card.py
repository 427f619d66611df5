"""What a run was made with and by: versions, the state of the code, the machine, and its time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("rivegs-mllm", "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes")


def card_of_start(processes: int) -> dict[str, object]:
    """A start of a run: when, by how many processes, the versions of Python and packages, the commit of the code with a
    "+" where files were changed since (None outside a checkout), and the processor or the GPUs of this machine."""
    return {
        "at": now(),
        "processes": processes,
        "python": platform.python_version(),
        "packages": {name: own for name in PACKAGES if (own := _version(name))},
        "commit": _commit(),
        "machine": _machine(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    folder = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True).stdout
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return None
    return head.strip() + ("+" if changes else "")


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} cores of {_processor()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
