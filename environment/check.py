"""Sets up in an empty folder, without any cache, and imports every module: ``make setup-check``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = """
import importlib, pkgutil
from peft import LoraConfig
names = []
for package in ("rivegs_mllm", "data_builders", "eval"):
    names += [own.name for own in pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")]
for name in names:
    importlib.import_module(name)
print(f"imported {len(names)} modules")
"""


def main() -> int:
    """Returns 0 where all of it works. The environment is removed again."""
    quiet = {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet}
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch) / "venv"
        made = subprocess.run(
            [sys.executable, ROOT / "environment/set_up.py", venv, "--weights"], env=environment, check=False
        )
        if made.returncode:
            return made.returncode
        imports = [venv / "bin/python", "-c", IMPORTS]
        return subprocess.run(imports, cwd=scratch, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
