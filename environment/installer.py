"""An environment with everything at the versions of requirements.lock, installed by uv, or by pip where uv is not.

An environment that is there and whole is left as it is; one that is half made, of another Python or of another lock is
made anew. Nothing but Python's own library is there to be used.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = Path(__file__).parent
READY = "ready"
"""The file that is written last into an environment, with what it was made of."""

EXTRAS = "all,serve,dev"
PARTS = {
    "weights": ("--no-deps", "-r", str(ENVIRONMENT / "weights.in")),
    "docs": ("-r", str(ENVIRONMENT / "docs.in")),
}
"""What is installed only where it is asked for, and how."""

UV_OPTIONS = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
"""What pip's configuration calls the sources of packages, and what uv does."""

NEEDED = 4_000_000_000
"""Bytes that must be free: the environment has 2.4 GB with a CPU build of torch. One with CUDA has 7 GB and more."""


def fail(message: str) -> None:
    """Ends with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def base_python() -> str:
    """The Python that environments are made of, also where this one runs in an environment."""
    return sys._base_executable


def wanted() -> dict[str, str]:
    """What an environment must have been made of."""
    content = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", LOCK, ENVIRONMENT / "build.in", Path(__file__)):
        content.update(path.read_bytes())
    return {"python": ".".join(map(str, sys.version_info[:2])), "content": content.hexdigest(), "folder": str(ROOT)}


def check_machine(venv: Path) -> None:
    """Ends with a line about what this machine lacks. A compiler is not needed for everything, so that is only said."""
    missing = [name for name in ("venv", "ensurepip") if not _importable(name)]
    if missing:
        version = ".".join(map(str, sys.version_info[:2]))
        fail(
            f"this Python has no module {missing[0]}; install it (Debian, Ubuntu: apt install python{version}-venv), "
            f"or name another Python: make setup PYTHON=..."
        )
    free = shutil.disk_usage(venv.absolute().parent).free
    if free < NEEDED:
        fail(f"{free / 1e9:.1f} GB are free in {venv.absolute().parent}; at least {NEEDED / 1e9:.0f} GB are needed")
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        print(
            "no C++ compiler found: only training with DeepSpeed, and its tests, need one "
            "(Debian, Ubuntu: apt install g++)"
        )


def _importable(name: str) -> bool:
    probe = subprocess.run([base_python(), "-c", f"import {name}"], stderr=subprocess.DEVNULL, check=False)
    return probe.returncode == 0


class Installer:
    """Runs uv, and pip where uv fails, in an environment. What they print goes to a log beside the environment."""

    def __init__(self, venv: Path):
        self.venv = venv
        self.log = venv.with_name(f"{venv.name}.log")
        self.python = venv / "bin" / "python"
        self.pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "install", "-c", str(LOCK)]

    def make(self) -> None:
        """An empty environment with uv, if the registry has it. Ends with a line where that fails."""
        shutil.rmtree(self.venv, ignore_errors=True)
        self.log.write_text("")
        code = self._run([base_python(), "-m", "venv", str(self.venv)])
        if code:
            fail(f"{self.venv} cannot be made: {_reason(self.log, 0)}; all of it is in {self.log}")
        if not shutil.which("uv"):
            self._run([*self.pip, "uv"])

    def install(self, *arguments: str) -> None:
        """Installs under the lock. Ends with a line where that fails."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        own = self.venv / "bin" / "uv"
        uv = shutil.which("uv") or (str(own) if own.exists() else None)  # several times as fast as pip
        if uv and not self._run([*self._as_pip(uv), *arguments]):
            return
        if self._run([*self.pip, *arguments]):
            fail(f"packages cannot be installed: {_reason(self.log, begin)}; all of it is in {self.log}")

    def _as_pip(self, uv: str) -> list[str]:
        """uv's command of an installation from where pip is configured to install, which uv does not read itself."""
        listed = subprocess.run(
            [str(self.python), "-m", "pip", "config", "list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        options = []
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            option = UV_OPTIONS.get(key.rpartition(".")[2])
            for own in value.strip("'\"").replace("\\n", " ").split() if option else ():
                options += [option, own]
        if options:
            options += ["--index-strategy", "unsafe-best-match"]  # as pip: the newest version of all indexes
        if os.environ.get("PIP_NO_CACHE_DIR"):
            options.append("--no-cache")
        # As pip does: without it a command that trains starts in 25 seconds instead of 9 where Python may not write.
        options.append("--compile-bytecode")
        return [uv, "pip", "install", "--python", str(self.python), "-c", str(LOCK), *options]

    def _run(self, command: list[str]) -> int:
        with self.log.open("a", encoding="utf-8") as log:
            print("$", *command, file=log, flush=True)
            # uv trusts the certificates of the system, as pip does, only if told to: by the older name or the newer
            environment = {**os.environ, "UV_NATIVE_TLS": "true", "UV_SYSTEM_CERTS": "true"}
            return subprocess.run(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode


def _reason(log: Path, begin: int) -> str:
    """What a person can do something about, of the output from the byte ``begin`` on."""
    last = log.read_bytes()[begin:].decode(errors="replace")
    for sign, reason in (
        ("No space left on device", "the disk is full"),
        ("Temporary failure in name resolution", "the package registry cannot be reached; check network and proxy"),
        ("NewConnectionError", "the package registry cannot be reached; check network and proxy"),
        ("Connection refused", "the package registry cannot be reached; check network and proxy"),
        ("dns error", "the package registry cannot be reached; check network and proxy"),
        ("CERTIFICATE_VERIFY_FAILED", "the package registry's certificate is not trusted here"),
        ("ProxyError", "the proxy does not let through to the package registry"),
    ):
        if sign in last:
            return reason
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×"))]
    return (errors or lines)[-1]


@contextmanager
def _alone(venv: Path) -> Iterator[None]:
    """Waits until no other set-up of this environment runs; two would delete each other's files."""
    with venv.with_name(f"{venv.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another set-up of {venv} is at work; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(venv: Path, parts: Collection[str] = ()) -> None:
    """Makes or completes the environment, with these of PARTS. Ends with a line where something is missing."""
    folder = venv.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fail(f"{folder} cannot be written to, and the environment belongs there")
    with _alone(venv):
        _complete(venv, parts)


def _complete(venv: Path, parts: Collection[str]) -> None:
    made = _made(venv)
    there = made.pop("parts", [])
    installer = Installer(venv)
    started = time.monotonic()
    if made != wanted():
        check_machine(venv)
        print(f"setting up {venv} with Python {wanted()['python']}; usually a minute", flush=True)
        installer.make()
        # torch first and alone: whatever asks for it then takes the build that is there
        installer.install("torch")
        installer.install("-r", str(ENVIRONMENT / "build.in"))
        installer.install("--no-build-isolation", "-e", f".[{EXTRAS}]")
        there = []
        print(f"set up in {time.monotonic() - started:.0f} s: {venv}", flush=True)
    for name in sorted(set(parts) - set(there)):
        installer.install(*PARTS[name])
    partial = venv / "ready.partial"
    partial.write_text(json.dumps({**wanted(), "parts": sorted({*there, *parts})}))
    partial.replace(venv / READY)


def _made(venv: Path) -> dict:
    """What an environment was made of; nothing where it is not whole."""
    try:
        made = json.loads((venv / READY).read_text())
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def main() -> int:
    """The command. Returns 0, or ends with one line and 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path, nargs="?", default=ROOT / ".venv", help="its folder (default: .venv)")
    parser.add_argument("--weights", action="store_true", help="with the small models that tests and examples use")
    parser.add_argument("--docs", action="store_true", help="with what makes a site of docs/")
    known = parser.parse_args()
    try:
        set_up(known.venv, [name for name in PARTS if getattr(known, name)])
    except KeyboardInterrupt:
        fail("interrupted; the next run begins anew")
    except OSError as error:
        fail(str(error))
    return 0
