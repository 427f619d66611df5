"""Models pushed to a hub on this machine, by the real client in a process of its own; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, HubServer
from tiny_base import write_recipe

from rivegs_mllm.cli.main import main
from rivegs_mllm.config.answering import save_recipe
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.models.adapter import add_adapter, answering_of, instruction_of, save_beside_weights
from rivegs_mllm.models.base_model import load_base
from rivegs_mllm.release.card import card, licence_of

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from rivegs_mllm.cli.main import main; sys.exit(main())"


@pytest.fixture
def run(tmp_path, emblems) -> Path:
    """An adapter of the package's base, among what a run and its user leave in a folder."""
    path = write_recipe(tmp_path / "recipe", Path("tiny"), emblems)
    recipe = read_recipe(path)
    system = add_adapter(load_base(recipe), recipe)
    out = tmp_path / "run"
    system.model.save_pretrained(out)
    save_recipe(recipe, out)
    save_beside_weights(system, out)
    (out / "metrics.json").write_text(json.dumps({"dev": {"mner_f1": 0.876, "gmner_f1": 0.5}, "test": {}}))
    (out / "run.json").write_text(json.dumps({"settings": {"data.train": "24 samples, digest 0123"}}))
    for name in ("log.txt", "test.jsonl", "test.jsonl.costs.json", ".lock", "pickle.bin"):
        (out / name).write_text("private")
    (out / "checkpoint-1").mkdir()
    (out / "checkpoint-1" / "adapter_model.safetensors").write_text("private")
    return out


def pushed(*words: object, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", COMMAND, "push", *map(str, words)]
    return subprocess.run(command, env={**kept, **own}, capture_output=True, text=True, check=False)


def test_an_adapter_is_pushed_in_one_commit_with_its_card_and_nothing_private(run, tmp_path):
    with HubServer() as hub:
        done = pushed(run, "me/my-model", HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    assert hub.commits == 1
    assert [(own["name"], own["visibility"]) for own in hub.created] == [("my-model", "private")]
    files = hub.files["me/my-model"]
    left_out = {"log.txt", "test.jsonl", "test.jsonl.costs.json", "run.json", ".lock", "pickle.bin"}
    assert files.keys() == {path.name for path in run.iterdir() if path.is_file()} - left_out | {"README.md"}
    for name in files.keys() - {"README.md"}:
        assert files[name] == (run / name).read_bytes(), name
        assert f"  {name} " in done.stdout
    text = files["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
    assert "- dev: MNER 87.6, GMNER 50.0\n" in text
    assert "- data: `emblems`, 24 samples, digest 0123\n" in text
    assert TOKEN not in done.stdout + done.stderr
    assert f"pushed: {hub.url}/me/my-model" in done.stdout


def test_a_merged_model_and_a_public_repository(run, tmp_path):
    merged = shutil.copytree(run, tmp_path / "merged")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (merged / name).unlink()
    (merged / "model.safetensors").write_bytes(b"weights")
    (merged / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    with HubServer() as hub:
        done = pushed(
            merged, "me/my-model", "--public", HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf")
        )
    assert done.returncode == 0, done.stderr
    assert hub.created[0]["visibility"] == "public"
    assert hub.files["me/my-model"]["README.md"] == (merged / "README.md").read_bytes()
    assert hub.files["me/my-model"]["model.safetensors"] == b"weights"


def test_what_hinders_a_push_is_a_line(run, tmp_path):
    with HubServer() as hub:
        wrong = pushed(run, "me/m", HF_TOKEN="hf_wrong", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    gone = pushed(run, "me/m", HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
    for done, says in ((wrong, "401"), (gone, "me/m: cannot be pushed: ")):
        assert done.returncode == 2, says
        assert says in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "hf_" not in done.stderr
    assert not hub.created


def refused(capsys, *words: object) -> str:
    assert main(["push", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_what_is_refused_before_the_hub_is_asked(run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "HF_HUB_OFFLINE is set, so nothing can be uploaded" in refused(capsys, run, "me/m")  # by tests/conftest.py
    assert "mine: no name of a repository" in refused(capsys, run, "mine")
    assert "me/other: no folder here" in refused(capsys, "me/other", "me/m")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    assert "HF_TOKEN: not set" in refused(capsys, run, "me/m")
    (run / "adapter_model.safetensors").unlink()
    assert "has no weights in safetensors" in refused(capsys, run, "me/m", "--dry-run")


def test_a_dry_run_needs_neither_token_nor_hub(run, capsys):
    assert main(["push", str(run), "me/m", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "  adapter_model.safetensors" in said
    assert "nothing was uploaded" in said


def test_an_adapter_whose_base_others_do_not_have_is_refused(trained, capsys):
    assert "others do not have" in refused(capsys, trained.recipe.parent / "run", "me/m", "--dry-run")


def test_a_card_names_base_and_licence_as_they_are(run, tmp_path, monkeypatch):
    recipe = answering_of(run)
    recipe.model.base = "Some/Base-7B"
    front = yaml.safe_load(card(run, recipe, instruction_of(run), merged=True).split("---\n")[1])
    assert front["base_model"] == "Some/Base-7B"
    assert front["base_model_relation"] == "merge"
    assert "license" not in front, "it is not known here"
    cached = tmp_path / "hub" / "models--Some--Base-7B"
    (cached / "snapshots" / "0123").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    (cached / "snapshots" / "0123" / "README.md").write_text("---\nlicense: other\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert licence_of("Some/Base-7B") == "other"
    assert licence_of(str(cached / "snapshots" / "0123")) == "other"
    assert licence_of(str(tmp_path)) == ""
