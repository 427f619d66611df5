"""Set-up says in one line what a machine lacks, and takes nothing half made for whole."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import installer
import pytest

ROOT = Path(__file__).parents[2]
SET_UP = ROOT / "environment/set_up.py"


def told(capsys) -> str:
    """The only line on the console of errors."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 7), (3, 14, 0)])
def test_python_that_is_not_supported(version):
    as_if = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({str(SET_UP)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", as_if], capture_output=True, text=True, check=False)
    assert done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: this is Python {version[0]}.{version[1]}, and 3.10 to 3.13 are supported")


def test_oldest_python_can_read_what_tells_it():
    old = next(Path.home().glob(".pyenv/versions/2.7*/bin/python"), None)
    if old is None:
        pytest.skip("no Python 2.7 here")
    done = subprocess.run([old, SET_UP], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: this is Python 2.7")


@pytest.mark.parametrize("lacking", ["venv", "ensurepip"])
def test_python_without_the_module_that_makes_environments(lacking, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installer, "_importable", lambda name: name != lacking)
    with pytest.raises(SystemExit):
        installer.set_up(tmp_path / "venv")
    assert f"no module {lacking}" in (line := told(capsys))
    assert "apt install python3" in line


def test_no_space(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(1_200_000_000))
    with pytest.raises(SystemExit):
        installer.set_up(tmp_path / "venv")
    assert told(capsys) == f"error: 1.2 GB are free in {tmp_path}; at least 4 GB are needed"


def test_folder_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        installer.set_up(tmp_path / "none/venv")
    assert f"{tmp_path / 'none'} cannot be written to" in told(capsys)


def test_no_compiler_is_only_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    installer.check_machine(tmp_path / "venv")
    assert capsys.readouterr().out.startswith("no C++ compiler found: only training with DeepSpeed")


def test_no_registry_leaves_nothing_that_is_taken_for_whole(tmp_path):
    venv = tmp_path / "venv"
    # uv is found, and cannot reach it either
    away = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    environment = {**os.environ, **away, "UV_HTTP_RETRIES": "0"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, SET_UP, venv], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line == (
            "error: packages cannot be installed: the package registry cannot be reached; check network and proxy; "
            f"all of it is in {venv}.log"
        )
        assert "setting up" in done.stdout  # the second time too
        assert not (venv / installer.READY).exists()


@pytest.mark.parametrize("content", [None, "", "[]", '{"python": "3.1"}'])
def test_half_an_environment_is_made_anew(content, tmp_path, monkeypatch):
    (tmp_path / "venv").mkdir()
    if content is not None:
        (tmp_path / "venv" / installer.READY).write_text(content)
    steps = []
    monkeypatch.setattr(installer.Installer, "make", lambda own: steps.append("make"))
    monkeypatch.setattr(installer.Installer, "install", lambda own, *arguments: steps.append(arguments[-1]))
    installer.set_up(tmp_path / "venv", ["weights"])
    assert steps[0] == "make"
    assert json.loads((tmp_path / "venv" / installer.READY).read_text()) == {**installer.wanted(), "parts": ["weights"]}


def test_a_whole_one_is_left_as_it_is_and_gets_parts_when_they_are_wanted(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(installer.Installer, "make", lambda own: steps.append("make"))
    monkeypatch.setattr(installer.Installer, "install", lambda own, *arguments: steps.append(Path(arguments[-1]).name))
    (tmp_path / "venv").mkdir()
    installer.set_up(tmp_path / "venv")
    assert steps == ["make", "torch", "build.in", f".[{installer.EXTRAS}]"]
    installer.set_up(tmp_path / "venv")
    assert len(steps) == 4
    installer.set_up(tmp_path / "venv", ["weights"])
    assert steps[4:] == ["weights.in"]
    installer.set_up(tmp_path / "venv", ["docs"])
    assert steps[5:] == ["docs.in"]
    installer.set_up(tmp_path / "venv")
    installer.set_up(tmp_path / "venv", ["weights"])
    assert len(steps) == 6


def test_a_second_set_up_waits_for_the_first(tmp_path):
    venv = tmp_path / "venv"
    slow = (
        f"import sys, time; sys.path.insert(0, {str(SET_UP.parent)!r}); sys.argv[1:] = [{str(venv)!r}]\n"
        "import installer\n"
        "installer.Installer.make = lambda own: (own.venv.mkdir(), time.sleep(2))\n"  # fails where there is one
        "installer.Installer.install = lambda own, *arguments: None\n"
        "sys.exit(installer.main())"
    )
    both = [subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [own.communicate()[0] for own in both]
    assert [own.returncode for own in both] == [0, 0]
    assert sorted(f"another set-up of {venv} is at work" in text for text in said) == [False, True]
    assert sorted("setting up" in text for text in said) == [False, True]


def test_uv_is_told_what_pip_is_configured_to(tmp_path, monkeypatch):
    configured = tmp_path / "pip.conf"
    configured.write_text(
        "[global]\nfind-links = /wheels\nextra-index-url = https://one/simple\n\thttps://two/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configured))
    monkeypatch.setenv("PIP_INDEX_URL", "https://own/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    own = installer.Installer(Path(sys.prefix))
    command = own._as_pip("uv")
    pairs = list(pairwise(command))
    assert ("--find-links", "/wheels") in pairs
    assert ("--default-index", "https://own/simple") in pairs
    assert ("--index", "https://one/simple") in pairs
    assert ("--index", "https://two/simple") in pairs
    assert "--no-cache" in command


def test_where_uv_fails_pip_installs(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(shutil, "which", lambda name: "/somewhere/uv")
    own = installer.Installer(tmp_path / "venv")
    monkeypatch.setattr(own, "_as_pip", lambda uv: [uv, "pip", "install"])
    monkeypatch.setattr(own, "_run", lambda command: commands.append(command) or ("/somewhere/uv" in command))
    own.install("torch")
    assert [command[0] for command in commands] == ["/somewhere/uv", str(own.python)]
    assert commands[1][-3:] == ["-c", str(installer.LOCK), "torch"]
