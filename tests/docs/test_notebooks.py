"""The notebooks run from their first cell to their last at a small size, and are stored without outputs."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from pages import ROOT, Command
from typed import faults_of

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SMALL = {"POSTS": 16, "STEPS": 2, "EPOCHS": 1}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request, tmp_path):
    """A notebook that writes into an empty folder, at its smallest."""
    read = nbformat.read(request.param, as_version=4)
    at = next(number for number, cell in enumerate(read.cells) if "parameters" in tags(cell))
    small = "\n".join(f"{key} = {value}" for key, value in SMALL.items())
    read.cells.insert(at + 1, nbformat.v4.new_code_cell(f"FOLDER = {str(tmp_path)!r}\n{small}"))
    return read


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_there_are_two():
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_stored_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


class Shell:
    """In the place of IPython's: commands are read by the programs' parsers, and not run."""

    def __init__(self, names: dict):
        self.names = names
        self.commands: list[Command] = []

    def system(self, line: str) -> None:
        said = re.sub(r"\{([^}]+)\}", lambda found: str(eval(found[1], self.names)), line)
        self.commands.append(Command(tuple(shlex.split(said)), whole=True))


def test_cells_run_and_commands_are_understood(notebook, monkeypatch):
    """All but those cells that are tagged to show results: these need what the commands make, and are only read."""
    monkeypatch.chdir(ROOT)
    names: dict = {}
    shell = Shell(names)
    names["get_ipython"] = lambda: shell
    for cell in notebook.cells:
        if cell.cell_type == "code":
            program = compile(TransformerManager().transform_cell(cell.source), cell.id, "exec")
            if "results" not in tags(cell):
                exec(program, names)
    assert len(shell.commands) >= 6
    assert [f"{command}: {fault}" for command in shell.commands for fault in faults_of(command)] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_of_it_runs(notebook, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = {"metadata": {"path": ROOT / "docs" / "notebooks"}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    lines = [line for output in outputs for line in output.get("text", "").split("\n")]
    assert [line for line in lines if line.startswith(("error: ", "Traceback"))] == []
    assert "text/html" in notebook.cells[-1].outputs[-1].data  # a post, which shows itself
