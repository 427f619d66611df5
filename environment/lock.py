"""Makes requirements.lock anew: ``make lock``, or ``python environment/lock.py [--keep]``.

With ``--keep`` (``make lock-new``) what is locked keeps its version, and only what pyproject.toml names newly is added.
uv finds the newest versions that fit each other, for every supported Python and platform. The lock is a file of
constraints that pip and uv both read. Behind a version that has no wheel, or none for some Python on some platform,
stands ``# no wheel``, or where.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = {
    "x86_64 Linux": ("linux", "x86_64", [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]),
    "aarch64 Linux": ("linux", "aarch64", [f"manylinux_2_{minor}_aarch64" for minor in range(34, 16, -1)]),
    "arm64 macOS": ("darwin", "arm64", list(mac_platforms((15, 0), "arm64"))),
}
_OLD_NAMES = {"manylinux_2_17": "manylinux2014", "manylinux_2_12": "manylinux2010", "manylinux_2_5": "manylinux1"}
INDEX = "https://pypi.org/simple"
HEAD = """\
# Every package that set-up installs, as constraints for pip and uv. Made by `make lock`; not to be edited.
"""


def resolved(*sources: str, keep: bool) -> list[str]:
    """The lines ``name==version ; marker`` that uv finds for the sources, relative to the project's folder.

    ``keep``: the versions of the lock as it is are taken where they fit.
    """
    options = ["--universal", "--python-version", PYTHONS[0], "--no-header", "--no-annotate", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / LOCK.name
        if keep:
            shutil.copy(LOCK, out)  # uv prefers the versions of the file that it writes to
        command = ["uv", "pip", "compile", *options, "--output-file", str(out), *sources]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return out.read_text(encoding="utf-8").splitlines()


def no_wheel(requirement: Requirement) -> str:
    """The note on a version that has no wheel everywhere where it is wanted: empty, "no wheel", or that and where."""
    version = next(iter(requirement.specifier)).version
    request = urllib.request.Request(
        f"{INDEX}/{requirement.name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request) as answer:
        names = [file["filename"] for file in json.load(answer)["files"] if not file.get("yanked")]
    wheels = [parse_wheel_filename(name) for name in names if name.endswith(".whl") and f"-{version}-" in name]
    tags = {tag for _, found, _, own in wheels if str(found) == version for tag in own}
    if not tags:
        return "no wheel"
    without = [
        f"{python} on {platform}"
        for platform in PLATFORMS
        for python in PYTHONS
        if _wanted(requirement.marker, python, platform) and tags.isdisjoint(_tags(python, platform))
    ]
    return f"no wheel: {', '.join(without)}" if without else ""


def _wanted(marker: Marker | None, python: str, platform: str) -> bool:
    system, machine, _ = PLATFORMS[platform]
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return marker is None or marker.evaluate({**environment, "sys_platform": system, "platform_machine": machine})


def _tags(python: str, platform: str) -> Iterator[Tag]:
    version = tuple(map(int, python.split(".")))
    names = list(PLATFORMS[platform][2])
    for name in PLATFORMS[platform][2]:
        new, _, machine = name.partition(f"_{PLATFORMS[platform][1]}")
        if new in _OLD_NAMES:
            names.append(f"{_OLD_NAMES[new]}_{PLATFORMS[platform][1]}{machine}")
    names.append(f"linux_{PLATFORMS[platform][1]}")
    yield from cpython_tags(version, platforms=names)
    yield from compatible_tags(version, f"cp{version[0]}{version[1]}", names)


def main() -> None:
    """Writes the lock, whole or not at all, and prints what has no wheel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="add what is new, and move nothing else")
    keep = parser.parse_args().keep
    lines = resolved("environment/build.in", "environment/docs.in", "pyproject.toml", "--all-extras", keep=keep)
    lines += resolved("environment/weights.in", "--no-deps", keep=keep)
    noted = []
    for line in sorted(set(lines)):
        without = no_wheel(Requirement(line))
        noted.append(f"{line}  # {without}" if without else line)
        if without:
            print(noted[-1])
    partial = LOCK.with_suffix(".partial")
    partial.write_text(HEAD + "\n".join(noted) + "\n", encoding="utf-8")
    partial.replace(LOCK)
    print(f"wrote {LOCK.name}: {len(noted)} versions")


if __name__ == "__main__":
    main()
