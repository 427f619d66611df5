"""The import rule: types alone at the bottom, builders and scores on types and records, nothing upward."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = ("rivegs_mllm.types", "rivegs_mllm.data.")
ALLOWED = {
    "rivegs_mllm/types.py": (),
    "rivegs_mllm/data": BASE,
    "data_builders": (*BASE, "data_builders."),
    "eval": (*BASE, "eval."),
    **dict.fromkeys(
        (f"rivegs_mllm/published/{own}" for own in ("seqtr", "umt", "hindex", "weights.py")),
        (*BASE, "rivegs_mllm.config.", "rivegs_mllm.published."),
    ),
}
OWN = ("rivegs_mllm", "data_builders", "eval")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in OWN}


@pytest.mark.parametrize("place", ALLOWED)
def test_only_what_is_allowed_is_imported(place):
    target = ROOT / place
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            assert name.startswith(ALLOWED[place]), f"{path} imports {name}"


def test_nobody_imports_the_bare_name_eval():
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in (*OWN, "tests", "benchmarks"):
            assert "eval" not in imported(path), f"{path}: `import eval` hides the builtin"


@pytest.mark.parametrize("module", ["rivegs_mllm.cli.main", "eval.scores", "data_builders.twitter_gmner"])
def test_scores_and_builders_start_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
