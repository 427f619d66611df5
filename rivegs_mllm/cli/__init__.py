"""The command line: ``rivegs COMMAND``."""

from rivegs_mllm.cli.main import main

__all__ = ["main"]
