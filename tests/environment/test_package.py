"""The wheel, used outside the checkout, where no extra is installed."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_EXTRAS = """
import sys

for name in ("aiohttp", "bitsandbytes", "datasets", "deepspeed", "duckdb", "evaluate", "fastapi", "openai", "pandas",
             "prometheus_client", "pyarrow", "pydantic", "python_multipart", "segment_anything", "sklearn", "torchcrf",
             "uvicorn"):
    sys.modules[name] = None
"""

COMMAND = "import sys; from rivegs_mllm.cli.main import main; sys.exit(main())"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves its build folder in the source
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if not name.startswith("tests/") and (ROOT / name).exists():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True)
    (own,) = folder.glob("*.whl")
    return own


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, wheel], check=True)
    (folder / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    return folder


@pytest.fixture
def rivegs(installed, tmp_path):
    """The command, run in an empty folder."""

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", COMMAND, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_the_wheel_holds_what_it_needs_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "rivegs_mllm/tiny/base/model.safetensors",
        "rivegs_mllm/tiny/base/tokenizer.json",
        "rivegs_mllm/config/bases.json",
        "rivegs_mllm/release/card.md.jinja",
        "rivegs_mllm/compare/page.html.jinja",
        "rivegs_mllm/training/preview.html.jinja",
        "eval/report/templates/page.html.jinja",
        "data_builders/emblems/build.py",
        "rivegs_mllm/recipes/tiny/e2e.yaml",
        "rivegs_mllm/recipes/distill/emblems_examples.jsonl",
    ):
        assert needed in names
    assert [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "environment", "recipes")] == []
    jinja = {str(path.relative_to(ROOT)) for path in ROOT.glob("[er]*/**/*.jinja")}
    assert jinja <= set(names)


def test_its_recipes_are_found_by_the_names_that_they_have_in_a_checkout(rivegs):
    names = rivegs("recipe").stdout.split()
    assert names == sorted(
        str(file.relative_to(ROOT)) for file in ROOT.glob("recipes/**/*.yaml") if not file.name.startswith("_")
    )
    assert "base: Qwen/" in rivegs("recipe", "recipes/e2e/qwen2_5_vl_7b_vision.yaml").stdout
    assert "no such recipe" in rivegs("recipe", "recipes/../tiny/e2e.yaml", code=2).stderr


def test_a_dataset_is_made_checked_scored_and_shown(rivegs, tmp_path):
    assert "rivegs build emblems" in rivegs("--help").stdout
    rivegs("build", "emblems", "--out", "data", "--train", "12", "--dev", "4", "--test", "4")
    assert "12" in rivegs("audit", "data").stdout
    gold = [json.loads(line) for line in (tmp_path / "data/test.jsonl").read_text().splitlines()]
    lines = [json.dumps({"id": sample["id"], "entities": []}) for sample in gold]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n")
    assert "GMNER" in rivegs("evaluate", "data", "own.jsonl").stdout
    rivegs("report", "data", "own.jsonl", "--out", "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_a_recipe_for_own_data_is_made_on_every_base(rivegs, tmp_path):
    rivegs("build", "emblems", "--out", "data", "--train", "12", "--dev", "4", "--test", "4")
    refused = rivegs("init", "--data", "data", "--base", "none", code=2).stderr
    names = refused.partition("there are ")[2].strip().split(", ")
    assert names == [own["name"] for own in json.loads((ROOT / "rivegs_mllm/config/bases.json").read_text())]
    for name in names:
        rivegs("init", "--data", "data", "--base", name, "--gpus", "1", "--out", f"{name}.yaml")
        assert "folder: data" in rivegs("recipe", f"{name}.yaml").stdout


def test_what_needs_an_extra_names_it(rivegs, tmp_path):
    rivegs("build", "emblems", "--out", "data", "--train", "12", "--dev", "4", "--test", "4")
    tagger = str(ROOT / "recipes/stages/tagger_tiny.yaml")
    said = rivegs(
        "train", tagger, f"--train.output_dir={tmp_path / 'run'}", "--data.folder=data", "--train.max_steps=1", code=2
    ).stderr
    assert "pip install 'rivegs-mllm[cascade]'" in said
    (tmp_path / "teacher.yaml").write_text((ROOT / "recipes/distill/twitter_gmner_expressions.yaml").read_text())
    said = rivegs("distill", "teacher.yaml", "--data.folder=data", "--task.captions=[]", code=2).stderr
    assert "pip install 'rivegs-mllm[distill]'" in said
    assert "pip install 'rivegs-mllm[serve]'" in rivegs("serve", "runs/none", code=2).stderr
