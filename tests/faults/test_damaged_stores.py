"""Stores that were damaged in every way: a run goes on, or says in one line what to do; nothing is paid for twice, and
what was kept and what was lost is told."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from chat_server import ChatServer, completion
from test_distill import good, posts, recipe
from test_store import row

from rivegs_mllm.distill.runner import distill
from rivegs_mllm.store import answer_store as stores
from rivegs_mllm.store.answer_store import DAMAGED, Store, StoredAnswer, StoreError, read_rows
from rivegs_mllm.types import UserError

WRONG = [None, True, -1, 2**63, 2**70, 1.5, "", "word", "half \ud800", "NUL \0", [], [1], {}, {"a": 1}, "x" * 10**6]
COLUMNS = list(asdict(row(1)))


def left_open(folder: Path, rows: list[dict]) -> None:
    """A store as a killed run leaves it: a journal."""
    folder.mkdir(parents=True)
    lines = [json.dumps(values).encode() + b"\n" for values in rows]
    (folder / "journal-000000.jsonl").write_bytes(b"".join(lines))


def test_no_value_of_any_column_keeps_a_store_from_going_on(trials, tmp_path):
    def attempt(case):
        column, value = case
        folder = tmp_path / f"{COLUMNS.index(column)}-{WRONG.index(value)}-{type(value).__name__}"
        left_open(folder, [asdict(row(0)), {**asdict(row(1)), column: value}, asdict(row(2))])
        with Store(folder) as store:
            store.append(row(3))
        kept = list(read_rows(folder))
        assert (folder / "shard-000000.parquet").is_file()
        assert {row(0).key, row(2).key, row(3).key} <= {one.key for one in kept}
        assert len(kept) == 4 or (folder / DAMAGED).read_bytes().count(b"\n") == 1
        assert bool(store.notes) == (len(kept) < 4)

    trials.each("store: a row's wrong value in a journal", [(c, v) for c in COLUMNS for v in WRONG], attempt)


def test_whatever_is_appended_can_be_sealed(trials, tmp_path):
    """What no teacher of ours gives, a later one may: only what says which question it answers must be right."""

    def attempt(case):
        column, value = case
        folder = tmp_path / f"{COLUMNS.index(column)}-{WRONG.index(value)}-{type(value).__name__}"
        with Store(folder) as store:
            store.append(row(0))
            try:
                store.append(replace(row(1), **{column: value}))
            except ValueError:
                assert column in ("sample", "kind", "key", "question", "teacher", "status", "time")
        assert row(0).key in {one.key for one in read_rows(folder)}
        assert not list(folder.glob("journal-*"))

    cases = [(column, value) for column in COLUMNS for value in WRONG]
    trials.each("store: a row's wrong value when it is appended", cases, attempt)


LINES = {
    "half a line at the end": (b'{"sample": "post-2", "ki', True),
    "a line that is no JSON": (b"\xff\xfe garbage\n", True),
    "an empty line": (b"\n", True),
    "a list": (b"[]\n", True),
    "a row with a column too many": (orjson.dumps({**asdict(row(9)), "more": 1}) + b"\n", True),
    "a row of nothing": (b"{}\n", True),
    "zeros, as after a power cut": (b"\0" * 4096 + b"\n", True),
    "deep JSON": (b"[" * 100_000 + b"\n", True),
}


def test_damaged_lines_of_a_journal_are_set_aside_and_told(trials, tmp_path):
    def attempt(name):
        line, told = LINES[name]
        folder = tmp_path / str(list(LINES).index(name))
        left_open(folder, [asdict(row(0)), asdict(row(1))])
        with (folder / "journal-000000.jsonl").open("ab") as file:
            file.write(line)
        with Store(folder) as store:
            store.append(row(2))
        assert [one.key for one in read_rows(folder)] == [row(n).key for n in range(3)]
        assert bool(store.notes) == told
        assert all("\n" not in note and len(note) < 500 for note in store.notes)
        if line.endswith(b"\n"):
            assert (folder / DAMAGED).read_bytes() == line

    trials.each("store: a damaged line of a journal", LINES, attempt)


@pytest.mark.parametrize(("field", "value"), [("finish_reason", {"a": 1}), ("prompt_tokens", 9223372036854775808)])
def test_a_store_that_an_unstorable_answer_blocked_goes_on_and_asks_nothing_again(tmp_path, field, value):
    with ChatServer(good) as server:
        plain = recipe(tmp_path, server, posts(4))
        distill(plain)
        rows = [asdict(one) for one in read_rows(plain.store)]
        for path in plain.store.iterdir():
            path.unlink()
        plain.store.rmdir()
        left_open(plain.store, [{**values, field: value} for values in rows])
        report = distill(recipe(tmp_path, server, posts(6)))
        assert (report.answered, report.done_before, server.count) == (2, 4, 6)
    assert (plain.store / "shard-000000.parquet").is_file()


def test_an_answer_that_pyarrow_refuses_stays_in_the_journal(tmp_path, monkeypatch):
    class Refusing:
        @staticmethod
        def write_shard(path, rows):
            raise pa.ArrowTypeError("no\nsuch type")

        count_rows = staticmethod(lambda path: 0)

    parquet = stores._parquet()
    monkeypatch.setattr(stores, "_parquet", lambda: Refusing)
    with Store(tmp_path) as store:
        store.append(row(1))
    assert any("its rows stay in the journal" in note and "\n" not in note for note in store.notes)
    monkeypatch.setattr(stores, "_parquet", lambda: parquet)
    with Store(tmp_path):
        pass
    assert [one.key for one in read_rows(tmp_path)] == [row(1).key]
    assert (tmp_path / "shard-000000.parquet").is_file()


RUNS = {
    "half a line": b'{"time": "2026-01-01", "kind": "kn',
    "a line of zeros": b"\0" * 100 + b"\n",
    "a list": b"[]\n",
    "a run without a teacher": b'{"kind": "knowledge", "prompt": "x"}\n',
    "a run whose data are a number": b'{"kind": "k", "prompt": "x", "teacher": {"teacher": "t"}, "data": 3}\n',
}


def test_a_damaged_list_of_runs_is_mended_and_told(trials, tmp_path):
    def attempt(name):
        folder = tmp_path / str(list(RUNS).index(name))
        with ChatServer(good) as server:
            distill(recipe(folder, server, posts(2)))
            runs = folder / "store" / "runs.jsonl"
            whole = runs.read_bytes()
            runs.write_bytes(whole + RUNS[name])
            report = distill(recipe(folder, server, posts(3)))
            assert (report.answered, server.count) == (1, 3)
        assert "1 damaged or cut-off lines dropped" in str(report)
        lines = runs.read_bytes().splitlines()
        assert lines[0] + b"\n" == whole
        assert len([json.loads(line) for line in lines]) == 2
        assert "## Counts" in (folder / "store" / "README.md").read_text(encoding="utf-8")

    trials.each("store: a damaged list of runs", RUNS, attempt)


MANIFESTS = [b"", b"{", b"[]", b"{}", b"3", b"\0" * 50, b"[" * 100_000]
MANIFESTS += [json.dumps({"version": version, "shards": []}).encode() for version in (None, 2, "1", [1])]
MANIFESTS += [
    json.dumps({"version": 1, "shards": shards}).encode()
    for shards in (None, 3, "x", [1], [{}], [{"file": 5, "bytes": 1}], [{"file": "a\0b", "bytes": 1}])
]
MANIFESTS += [json.dumps({"version": 1, "shards": [{"file": "x", "bytes": size}]}).encode() for size in ("1", None, {})]


def test_a_damaged_manifest_is_named_in_one_line(trials, tmp_path):
    with Store(tmp_path) as store:
        store.append(row(1))

    def attempt(content):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"manifest\.json") as caught:
            Store(tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
        (tmp_path / "manifest.json").unlink()
        with Store(tmp_path):
            assert [one.key for one in read_rows(tmp_path)] == [row(1).key]

    trials.each("store: a damaged manifest", MANIFESTS, attempt)


@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.faults)])
def test_a_damaged_shard_is_named_with_the_way_to_go_on(trials, tmp_path, count):
    with Store(tmp_path, rows_a_shard=2) as store:
        for number in range(4):
            store.append(row(number))
    shard = tmp_path / "shard-000000.parquet"
    whole = shard.read_bytes()
    cases = [(trials.rng.randrange(len(whole)), trials.rng.randrange(1, 256)) for _ in range(count)]
    assert len(list(read_rows(tmp_path))) == 4

    def attempt(case):
        place, flip = case
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
        message = ""
        try:
            rows = list(read_rows(tmp_path))
        except UserError as error:
            message = str(error)
        else:
            assert all(isinstance(one, StoredAnswer) for one in rows)
        assert "\n" not in message
        assert message == "" or "shard-000000.parquet" in message
        assert message == "" or "to go on without" in message

    trials.each("store: a byte of a shard changed", cases, attempt)


def test_a_damaged_cache_of_similar_posts_is_made_again(tmp_path):
    from rivegs_mllm.llm.example_selection import load_cached

    path = tmp_path / "similar.npy"
    for content in (b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'", b"x" * 100):
        path.write_bytes(content)
        assert load_cached(path, (2, 5)) is None


def test_an_answer_of_megabytes_is_stored_or_counted_as_failed(tmp_path):
    answers = [completion("x" * 3_000_000), completion("y" * 5_000_000)]
    with ChatServer(lambda _, number: answers[number % 2]) as server:
        report = distill(recipe(tmp_path, server, posts(2)))
    assert (report.answered, report.failed) == (1, 1)
    texts = {len(one.text): one.error for one in read_rows(tmp_path / "store")}
    assert texts[3_000_000] == ""
    assert "longer than" in texts[0]
