"""The store: what is kept, in which order it counts, and that no kill, full disk or damage loses or hides a row."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rivegs_mllm.runtime.lock import LockedError
from rivegs_mllm.store.answer_store import (
    FAILED,
    Store,
    StoredAnswer,
    StoreError,
    answers_by_question,
    read_rows,
    read_store,
)
from rivegs_mllm.store.attach import attach_expressions, attach_knowledge
from rivegs_mllm.store.parquet import SCHEMA, write_shard
from rivegs_mllm.types import Entity, Sample

ROOT = Path(__file__).parents[2]


def row(number: int = 0, **changes) -> StoredAnswer:
    made = StoredAnswer(
        f"post-{number}", "knowledge", f"key-{number}", f"question-{number}", "made", text=f"text {number}"
    )
    return replace(made, **changes)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_rows_come_back_as_they_were_from_shards_and_journal(tmp_path):
    rows = [row(number, prompt_tokens=number, faults=("empty", "refusal"), cost=0.25) for number in range(7)]
    with Store(tmp_path, rows_a_shard=3) as store:
        for one in rows:
            store.append(one)
        assert list(read_rows(tmp_path)) == rows, "readable while it is written"
        assert files(tmp_path) == [
            "journal-000002.jsonl",
            "manifest.json",
            "shard-000000.parquet",
            "shard-000001.parquet",
        ]
    assert files(tmp_path) == ["manifest.json", *(f"shard-00000{number}.parquet" for number in range(3))]
    assert list(read_rows(tmp_path)) == rows
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [3, 3, 1]
    with Store(tmp_path) as store:
        store.append(row(7))
    assert list(read_rows(tmp_path)) == [*rows, list(read_rows(tmp_path))[-1]]
    assert files(tmp_path)[-1] == "shard-000003.parquet"


@settings(max_examples=30, deadline=None)
@given(st.text(), st.lists(st.text(max_size=5), max_size=3), st.none() | st.integers(0, 2**40))
def test_any_text_comes_back(tmp_path_factory, text, faults, tokens):
    text = text.encode("utf-8", "replace").decode()
    faults = tuple(fault.encode("utf-8", "replace").decode() for fault in faults)
    folder = tmp_path_factory.mktemp("store")
    wanted = row(text=text, faults=faults, prompt_tokens=tokens)
    with Store(folder) as store:
        store.append(wanted)
        assert list(read_rows(folder)) == [wanted]
    assert list(read_rows(folder)) == [wanted]


def test_last_row_of_a_place_counts_and_failed_ones_are_no_answer(tmp_path):
    with Store(tmp_path) as store:
        store.append(row(1, text="old"))
        store.append(row(1, text="other", teacher="another"))
        store.append(row(1, text="new", key="edited", faults=("empty",)))
        store.append(row(2, status=FAILED, error="status 500", text=""))
        store.append(row(3, text="was good"))
        store.append(row(3, status=FAILED, key="edited", error="too long", text=""))
        store.append(row(1, kind="caption", text="a picture"))
    found = read_store(tmp_path, "knowledge")
    assert {place: [one.text for one in rows] for place, rows in found.items()} == {("post-1", ""): ["other", "new"]}
    assert [one.text for one in read_store(tmp_path, "knowledge", clean=True)["post-1", ""]] == ["other"]
    assert answers_by_question(tmp_path, "made")["question-1"] == "old"
    assert "question-2" not in answers_by_question(tmp_path)


def test_store_opens_in_pandas_duckdb_and_datasets(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    datasets = pytest.importorskip("datasets")
    with Store(tmp_path / "store", rows_a_shard=2) as store:
        for number in range(5):
            store.append(row(number, cost=0.5, faults=("empty",) if number else ()))
    shards = str(tmp_path / "store" / "shard-*.parquet")
    table = pandas.concat(pandas.read_parquet(path) for path in sorted((tmp_path / "store").glob("shard-*.parquet")))
    assert list(table["text"]) == [f"text {number}" for number in range(5)]
    assert list(table.columns) == SCHEMA.names
    assert duckdb.sql(f"select sum(cost), count(*), max(len(faults)) from '{shards}'").fetchall() == [(2.5, 5, 1)]
    loaded = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["sample"][:] == [f"post-{number}" for number in range(5)]


def test_one_writer_at_a_time(tmp_path):
    with Store(tmp_path), pytest.raises(LockedError, match="writes to it already"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_line_that_was_cut_off_is_taken_back(tmp_path):
    with Store(tmp_path / "open") as store:
        store.append(row(1))
        killed = shutil.copytree(store.folder, tmp_path / "killed", ignore=shutil.ignore_patterns(".lock"))
    with (killed / "journal-000000.jsonl").open("ab") as journal:
        journal.write(b'{"sample": "post-2", "ki')
    assert [one.sample for one in read_rows(killed)] == ["post-1"]
    with Store(killed) as again:
        again.append(row(3))
    assert [one.sample for one in read_rows(killed)] == ["post-1", "post-3"]


def test_killed_between_shard_and_journal_keeps_every_row_once(tmp_path):
    store = Store(tmp_path)
    store.append(row(1))
    journal = (tmp_path / "journal-000000.jsonl").read_bytes()
    store.close()
    (tmp_path / "journal-000000.jsonl").write_bytes(journal)  # renamed, journal not yet removed
    (tmp_path / "manifest.json").unlink()  # nor listed
    (tmp_path / "shard-000001.parquet.partial").write_bytes(b"half")
    assert [one.sample for one in read_rows(tmp_path)] == ["post-1"]
    with Store(tmp_path) as again:
        again.append(row(2))
    assert [one.sample for one in read_rows(tmp_path)] == ["post-1", "post-2"]
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("journal-*"))


def test_what_was_damaged_or_taken_away_is_named(tmp_path):
    with pytest.raises(StoreError, match="holds no store"):
        list(read_rows(tmp_path))
    with Store(tmp_path, rows_a_shard=1) as store:
        store.append(row(1))
        store.append(row(2))
    shard = tmp_path / "shard-000001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    with pytest.raises(StoreError, match=r"shard-000001\.parquet has .* bytes instead of"):
        Store(tmp_path)
    shard.write_bytes(b"x" * len(whole))
    with pytest.raises(StoreError, match=r"shard-000001\.parquet: cannot be read"):
        list(read_rows(tmp_path))
    shard.unlink()
    with pytest.raises(StoreError, match=r"shard-000001\.parquet is missing"):
        list(read_rows(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match=r"manifest\.json: damaged"):
        Store(tmp_path)
    (tmp_path / "manifest.json").unlink()
    Store(tmp_path).close()
    (tmp_path / "journal-000001.jsonl").write_text('{"sample": 1}\n')
    with pytest.raises(StoreError, match=r"journal-000001\.jsonl:1.*`rivegs distill` moves it aside"):
        list(read_rows(tmp_path))


def test_full_disk_keeps_what_was_written_and_the_store_whole(tmp_path):
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.dont_write_bytecode = True;"  # or it is cut off too, and the next process reads it
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "sys.path[:0] = ['tests', 'tests/store']; from test_store import *; store = Store(Path(sys.argv[1]))\n"
        "try:\n"
        "    for number in range(100): store.append(row(number))\n"
        "except OSError as error: print(number, error.errno)\n"
        "store.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    written = int(done.stdout.split()[0])
    assert 1 <= written < 10
    assert len(list(read_rows(tmp_path))) == written
    with Store(tmp_path) as store:
        store.append(row(written))
    assert [one.sample for one in read_rows(tmp_path)] == [f"post-{number}" for number in range(written + 1)]


def test_shard_has_the_schema_that_is_documented(tmp_path):
    write_shard(tmp_path / "one.parquet", [asdict(row())])
    assert pq.read_schema(tmp_path / "one.parquet").names == SCHEMA.names
    documented = (ROOT / "docs" / "distilling.md").read_text(encoding="utf-8")
    for name in SCHEMA.names:
        assert f"`{name}`" in documented


def test_texts_become_fields_of_samples(tmp_path):
    entities = (Entity("Ann", "PER", (0, 1), expression="kept"), Entity("Bonn", "LOC", (1, 2)))
    samples = [Sample("post-1", ("Ann", "Bonn"), entities=entities), Sample("post-2", ("x",), knowledge=("own",))]
    with Store(tmp_path) as store:
        for teacher, faults in (("b", ()), ("a", ()), ("c", ("empty",))):
            store.append(row(1, teacher=teacher, text=f"by {teacher}", faults=faults))
        store.append(row(1, kind="expression", mention="Bonn", text="a town"))
    attached = attach_knowledge(samples, tmp_path)
    assert [sample.knowledge for sample in attached.samples] == [("by a", "by b"), ("own",)]
    assert (attached.without, attached.faulty) == (["post-2"], 1)
    assert attach_knowledge(samples, tmp_path, clean=False).samples[0].knowledge == ("by a", "by b", "by c")
    assert attach_knowledge(samples, tmp_path, teachers=["b"]).samples[0].knowledge == ("by b",)
    described = attach_expressions(samples, tmp_path)
    assert [entity.expression for entity in described.samples[0].entities] == ["kept", "a town"]
    assert described.without == ["post-1: Ann"]


def test_killed_writer_lets_go_of_the_lock(tmp_path):
    code = "import os, sys; sys.path[:0] = ['tests', 'tests/store']; from test_store import *;"
    code += "s = Store(Path(sys.argv[1])); s.append(row(5)); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT).returncode == -9
    with Store(tmp_path):
        pass
    assert [one.sample for one in read_rows(tmp_path)] == ["post-5"]
    assert (tmp_path / "shard-000000.parquet").exists()


def test_store_on_a_full_disk_says_so_at_the_start(tmp_path):
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "sys.dont_write_bytecode = True;"  # or it is cut off too, and the next process reads it
        "sys.path[:0] = ['tests', 'tests/store']; from test_store import *;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); Store(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", limited, tmp_path / "store"], cwd=ROOT, capture_output=True, text=True)
    assert "store: cannot be written: File too large" in done.stderr
    assert "store: cannot be written: " in done.stderr
