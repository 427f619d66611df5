"""The files that containers are built from, read as Docker reads them; there is no Docker here to build them."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from pages import Command
from typed import faults_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "environment" / "containers"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
KNOWN = {"FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, without its comments, each on one line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def is_sent(path: Path, name: str) -> bool:
    """Whether a file of the checkout reaches Docker: the last line of the dockerignore that fits decides."""
    sent = True
    for line in path.with_name(f"{path.name}.dockerignore").read_text().splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        if line and line[0] != "#" and any(fnmatch(own, pattern) for own in (name, name.split("/")[0])):
            sent = line.startswith("!")
    return sent


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]
    assert instructions(FILES[1])[0][1].startswith("nvidia/cuda:13."), "the lock's torch is built for CUDA 13"
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^cuda-toolkit==13\.", lock, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_instructions_are_known_and_their_sources_reach_docker(path):
    found = instructions(path)
    assert {name for name, _ in found} == KNOWN
    sources = [source for name, rest in found if name == "COPY" for source in rest.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists() or not is_sent(path, source)] == []
    for name in (".git", "runs", ".venv", "data", "tests"):
        assert not is_sent(path, name), name
    listed = {source.split("/")[0] for source in sources}
    packages = {"rivegs_mllm", "data_builders", "eval", "recipes"}
    assert packages | {PROJECT["readme"], *PROJECT["license-files"], "setup.py", "pyproject.toml"} <= listed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_is_installed_under_the_lock_and_runs_as_no_root(path):
    found = instructions(path)
    installs = [shlex.split(rest) for name, rest in found if name == "RUN" and rest.startswith("pip ")]
    assert len(installs) == 3
    copied = {source for name, rest in found if name == "COPY" for source in rest.split()[:-1]}
    for words in installs:
        assert words[:4] == ["pip", "install", "-c", "requirements.lock"]
        assert [own for flag, own in itertools.pairwise(words) if flag in ("-c", "-r") and own not in copied] == []
    extras = re.fullmatch(r"\.\[(.*)\]", installs[-1][-1])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert "dev" not in extras
    last = dict(found)
    assert last["USER"] == "rivegs"
    assert json.loads(last["ENTRYPOINT"])[0] in PROJECT["scripts"]
    assert list(faults_of(Command(("rivegs", *json.loads(last["CMD"])), whole=True))) == []


def test_compose_shares_memory_and_its_commands_are_understood():
    path = FOLDER / "compose.yaml"
    services = yaml.safe_load(path.read_text())["services"]
    assert services.keys() == {"cpu", "serve", "cuda"}
    for own in services.values():
        assert own["ipc"] == "host"
        assert (path.parent / own["build"]["context"]).resolve() == ROOT
        assert (ROOT / own["build"]["dockerfile"]).is_file()
    assert services["cuda"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    own = [word.replace("${MODEL:-runs/demo/model}", "runs/demo/model") for word in services["serve"]["command"]]
    assert list(faults_of(Command(("rivegs", *own), whole=True))) == []
    text = path.read_text().replace("\\\n#    ", "")
    said = re.findall(r"run --rm (?:--entrypoint (\w+) )?(?:cpu|cuda) (.*)", text)
    assert len(said) == 4
    for program, words in said:
        own = [word.replace("/opt/rivegs/", "") for word in shlex.split(words)]
        assert list(faults_of(Command((program or "rivegs", *own), whole=True))) == []
