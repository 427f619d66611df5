"""Console and log: the console has what a user wants to know, the log file also what libraries say."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from rivegs_mllm.runtime.ranks import are_joined, is_first
from rivegs_mllm.types import UserError

LOG = "log.txt"
"""The log's name in a run's folder."""

VARIABLE = "RIVEGS_LOG"
FLAGS = ("--verbose", "--debug")
FLAGS_HELP = "--verbose shows what libraries say, too, --debug where in the code an error arose; both go anywhere."
EXTRAS = {
    "aiohttp": "distill",
    "bitsandbytes": "quant",
    "datasets": "metrics",
    "deepspeed": "deepspeed",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "pyarrow": "distill",
    "python_multipart": "serve",
    "segment_anything": "sam",
    "torchcrf": "cascade",
    "uvicorn": "serve",
}
"""Modules that not every installation has, and the extras that bring them."""

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
_HELD = 10_000  # a capacity is asked for; without a target the handler keeps all records, however many
_OWN_HANDLERS = ("DeepSpeed",)
"""Loggers whose library gives them a handler on the console when it is imported, later than this can take it away."""


class _ToRoot(logging.Filter):
    """Hands a logger's records to the root's handlers alone, whatever handlers the logger has or will be given."""

    def filter(self, record: logging.LogRecord) -> bool:
        logging.getLogger().handle(record)
        return False


class _LogFile(logging.FileHandler):
    """A log file that ends no run where it cannot be written."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


_memory = MemoryHandler(_HELD, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
_to_root = _ToRoot()


def escape_on_console() -> None:
    """From here on what the console's encoding has no sign for is printed escaped; Python's way is to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def take_flags(arguments: Sequence[str]) -> tuple[list[str], set[str]]:
    """The arguments without ``--verbose`` and ``--debug``, and which of the two were among them."""
    return [own for own in arguments if own not in FLAGS], {own for own in arguments if own in FLAGS}


def tell_error(error: Exception, flags: set[str]) -> None:
    """Prints one line that says what is wrong, below the stack trace where ``--debug`` is among the flags.

    What launched processes find before they are joined is the same for all, and told by the first.
    """
    if not (is_first() or are_joined()):
        return
    if "--debug" in flags:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)


def missing_extra(error: ImportError) -> UserError:
    """The error as a message that names the extra to install, or what an installed one of another version lacks.

    Raises it again where no extra has what is missing.
    """
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:  # transformers and accelerate say it in words
        name = next((own for own in EXTRAS if own in str(error).lower()), "")
    if not name:
        raise error
    return UserError(f"{name}: {error}") if _is_installed(name) else _not_installed(name)


def check_installed(module: str) -> None:
    """Raises UserError that names the extra of a module of EXTRAS, where it is not installed."""
    if not _is_installed(module):
        raise _not_installed(module)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of one whose import is blocked
        return False


def _not_installed(module: str) -> UserError:
    return UserError(f"this needs {module}, which is not installed: pip install 'rivegs-mllm[{EXTRAS[module]}]'")


def quiet_unless_verbose(flags: set[str]) -> None:
    """From here on libraries' messages and Python's warnings are held for `log_to`, and do not reach the console.

    Unless ``--verbose`` is among the flags, or RIVEGS_LOG is "debug"; raises UserError where it is another word. To
    be called before torch is imported, which reads its level then.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "debug"):
        raise UserError(f"{VARIABLE}: {value!r} is not known; set it to debug, or not at all")
    if value == "debug" or "--verbose" in flags:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    root = logging.getLogger()
    if _memory not in root.handlers:
        root.addHandler(_memory)
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        logging.raiseExceptions = False  # a full disk is reported by what is written beside the log
        for name in _OWN_HANDLERS:
            logging.getLogger(name).addFilter(_to_root)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within, transformers shows no bar of the weights that it reads, though those of downloads, and no library warns
    of what it will change. Afterwards all is as the caller's program has it. RIVEGS_LOG=debug shows everything."""
    if os.environ.get(VARIABLE) == "debug":
        yield
        return
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    restore = [transformers_logging.enable_progress_bar] if transformers_logging.is_progress_bar_enabled() else []
    restore.append(disable_progress_bars if are_progress_bars_disabled() else enable_progress_bars)
    transformers_logging.disable_progress_bar()
    restore[-1]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for call in restore:
            call()


def quiet_transformers() -> None:
    """The same for transformers, which sets its logger up when it is imported, as it is here."""
    if _memory not in logging.getLogger().handlers:
        return
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    transformers_logging.disable_progress_bar()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Writes what was held so far, and what is said within, to the file's end, if there is anything."""
    root = logging.getLogger()
    if _memory not in root.handlers:  # nothing is quiet, so all is said on the console
        yield
        return
    file = _LogFile(path, encoding="utf-8", delay=True)
    file.setFormatter(_FORMAT)
    before = _memory.target, _memory.flushLevel
    _memory.setTarget(file)
    _memory.flushLevel = logging.NOTSET  # at once, so that a killed run has its log
    _memory.flush()
    try:
        yield
    finally:
        _memory.target, _memory.flushLevel = before
        file.close()


@contextmanager
def warnings_on_console() -> Iterator[None]:
    """For what runs for weeks: within it warnings are printed as they come, and nothing is held."""
    root = logging.getLogger()
    if _memory not in root.handlers:
        yield
        return
    console = logging.StreamHandler()
    console.setFormatter(_FORMAT)
    console.setLevel(logging.WARNING)
    root.removeHandler(_memory)
    root.addHandler(console)
    try:
        yield
    finally:
        root.removeHandler(console)
        root.addHandler(_memory)
