"""Who may import whom: rooms on floors, nothing upward or sideways; and what starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = ("rivegs_mllm.types", "rivegs_mllm.runtime.", "rivegs_mllm.data.")
ALLOWED = {
    "rivegs_mllm/types.py": (),
    "rivegs_mllm/runtime": ("rivegs_mllm.types", "rivegs_mllm.runtime."),
    "rivegs_mllm/data": BASE,
    "data_builders": (*BASE, "data_builders."),
    "rivegs_mllm/pages": ("rivegs_mllm.types", "rivegs_mllm.pages."),
    "eval": (*BASE, "rivegs_mllm.pages.", "eval."),
    **dict.fromkeys(
        (f"rivegs_mllm/published/{own}" for own in ("seqtr", "umt", "hindex", "weights.py")),
        (*BASE, "rivegs_mllm.config.", "rivegs_mllm.published."),
    ),
}
OWN = ("rivegs_mllm", "data_builders", "eval")
FLOORS = (
    ("rivegs_mllm.types", "rivegs_mllm.torchvision_ops"),
    ("rivegs_mllm.runtime",),
    ("rivegs_mllm.data", "rivegs_mllm.pages"),
    ("rivegs_mllm.answer", "data_builders.findings", "eval"),
    ("rivegs_mllm.config", "data_builders.emblems", "data_builders.formats", "eval.analysis"),
    (
        "data_builders",
        "rivegs_mllm.models",
        "rivegs_mllm.store",
        "rivegs_mllm.published",
        "eval.report",
        "eval.metrics",
    ),
    (
        "rivegs_mllm.prediction",
        "rivegs_mllm.release",
        "rivegs_mllm.training",
        *(f"rivegs_mllm.published.{own}" for own in ("seqtr", "umt", "hindex")),
    ),
    ("rivegs_mllm.cascade", "rivegs_mllm.tiny"),
    (
        "rivegs_mllm.train",
        "rivegs_mllm.cascade.tagging",
        "rivegs_mllm.cascade.entailment",
        "rivegs_mllm.cascade.grounding",
    ),
    ("rivegs_mllm.llm", "rivegs_mllm.cascade.regions", "rivegs_mllm.cascade.segmentation"),
    ("rivegs_mllm.cascade.knowledge",),
    ("rivegs_mllm.cascade.mllm",),
    ("rivegs_mllm.cascade.config", "rivegs_mllm.cascade.stage_types"),
    ("rivegs_mllm.cascade.in_memory",),
    ("rivegs_mllm.compare", "rivegs_mllm.distill", "rivegs_mllm.pipeline", "rivegs_mllm.rehearsal"),
    ("rivegs_mllm.serving",),
    ("rivegs_mllm", "rivegs_mllm.cli"),
    ("rivegs_mllm.predict",),
)
"""From the ground up. A module belongs to the longest of these names that begins its own."""
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str:
    return next(name for name in prefixes(module) if name in FLOOR)


def prefixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(path for top in OWN for path in (ROOT / top).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found.append((name.removesuffix(".__init__"), path))
    return found


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


def test_imports_lead_down():
    """Also those inside functions: of two rooms, one can be read, tested and changed without the other."""
    upward = {
        f"{module} ({room_of(module)}) imports {name}"
        for module, path in modules()
        for name in imported(path)
        if room_of(name) != room_of(module) and FLOOR[room_of(name)] >= FLOOR[room_of(module)]
    }
    assert upward == set()


def test_every_room_is_there():
    rooms = {room_of(module) for module, _ in modules()}
    assert rooms == set(FLOOR)


def test_nobody_imports_the_bare_name_eval():
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in (*OWN, "tests", "benchmarks"):
            assert "eval" not in imported(path), f"{path}: `import eval` hides the builtin"


@pytest.mark.parametrize("module", ["rivegs_mllm.cli.main", "eval.scores", "data_builders.twitter_gmner"])
def test_scores_and_builders_start_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
