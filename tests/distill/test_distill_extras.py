"""Without the extra distill: cascades and training that ask no teacher run, and what does need it says so."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from rivegs_mllm.runtime.logs import missing_extra

ROOT = Path(__file__).parents[2]

WITHOUT = """
import sys
from pathlib import Path
for package in ("aiohttp", "pyarrow", "datasets", "duckdb"):
    sys.modules[package] = None  # as if it were not installed
import rivegs_mllm.llm.client as chat
import rivegs_mllm.cli.distill_command
from rivegs_mllm.cascade.config import as_cascade, run_cascade
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.store.answer_store import Store, read_store
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.runtime.logs import missing_extra

data, out = Path(sys.argv[1]), Path(sys.argv[2])
gold = as_cascade(read_layers("recipes/cascade/tiny_ablations.yaml").variants()["gold"])
predictions, _ = run_cascade(gold, read_split(data, "dev"), data, out / "work")
print(sum(len(prediction.entities) for prediction in predictions))
(out / "store").mkdir()
(out / "store" / "shard-000000.parquet").write_bytes(b"")
for attempt in (
    lambda: Store(out / "new"),
    lambda: read_store(out / "store", "knowledge"),
    lambda: chat.OpenAIChat("some", api_key_env=None).open(chat.Sampling()),
):
    try:
        attempt()
    except ImportError as error:
        print(missing_extra(error))
"""


def test_without_the_extra(tmp_path, emblems):
    done = subprocess.run([sys.executable, "-c", WITHOUT, emblems, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, *said = done.stdout.splitlines()
    assert int(found) > 6
    assert len(said) == 3
    assert all("pip install 'rivegs-mllm[distill]'" in line for line in said)
    assert not (tmp_path / "new").exists(), "nothing is asked before it is known that answers can be kept"


def test_what_an_installed_package_lacks_is_no_missing_extra():
    with pytest.raises(ImportError) as caught:
        importlib.import_module("pyarrow.of_another_version")
    assert str(missing_extra(caught.value)) == "pyarrow: No module named 'pyarrow.of_another_version'"
