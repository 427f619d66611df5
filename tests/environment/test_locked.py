"""requirements.lock: everything that set-up installs, for each supported Python, from wheels."""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

FROM_SOURCE = {
    "deepspeed": "published as a source distribution alone, since its operators are built on the machine that uses them"
}
"""What the registry has no wheel of, and why; its build requirements are in environment/build.in."""


def locked() -> list[tuple[Requirement, str]]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.partition("  # ") for line in lines if line and not line.startswith("#")]
    return [(Requirement(line), note) for line, _, note in pairs]


def wanted() -> list[Requirement]:
    """What pyproject.toml and set-up name themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        lines += [line for line in extra if not line.startswith("rivegs-mllm[")]
    for name in ("build.in", "docs.in", "weights.in"):
        lines += [line for line in (ROOT / "environment" / name).read_text().splitlines() if line[:1] != "#"]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("python", PYTHONS)
def test_one_version_of_everything_that_is_named(python):
    environment = {"python_version": python, "python_full_version": f"{python}.5"}
    versions: dict[str, list[str]] = {}
    for requirement, _ in locked():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (version,) = requirement.specifier
            assert version.operator == "=="
            versions.setdefault(canonicalize_name(requirement.name), []).append(version.version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    for requirement in wanted():
        (version,) = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_what_has_no_wheel_is_known():
    without = {requirement.name: note for requirement, note in locked() if note}
    assert set(without) == set(FROM_SOURCE)
    assert set(without.values()) == {"no wheel"}


def test_seqeval_is_gone():
    assert "seqeval" not in {requirement.name for requirement, _ in locked()}


def test_all_that_is_installed_here_is_locked():
    ready = Path(sys.prefix) / "ready"
    if not ready.exists() or json.loads(ready.read_text()).get("folder") != str(ROOT):
        pytest.skip("this Python is not the environment that make sets up")
    own = [
        (canonicalize_name(requirement.name), next(iter(requirement.specifier)).version)
        for requirement, _ in locked()
        if requirement.marker is None or requirement.marker.evaluate()
    ]
    installed = {(canonicalize_name(one.name), one.version.partition("+")[0]) for one in distributions()}
    others = {one for one in installed if one[0] not in ("pip", "setuptools", "rivegs-mllm")} - set(own)
    assert others == set()
