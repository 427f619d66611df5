import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from eval.analysis.significance import compare
from eval.analysis.summary import evaluate_systems, explain, run_files
from eval.proposals import read_candidates
from eval.protocols import PROTOCOLS, Criteria
from eval.report.tables import format_comparison, format_scores
from eval.scores import evaluate, iou_sweep
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

SQUARE, FAR = Box(0, 0, 10, 10), Box(50, 50, 60, 60)
GOLD = [
    Sample(
        str(i),
        ("a", "b"),
        entities=(Entity("a", "PER", (0, 1), visible=True, boxes=(SQUARE,)), Entity("b", "LOC", (1, 2), visible=False)),
    )
    for i in range(40)
]
RIGHT = [
    Prediction(s.id, entities=(replace(s.entities[0], visible_score=0.9), replace(s.entities[1], visible_score=0.2)))
    for s in GOLD
]
WORSE = [
    replace(p, entities=(replace(p.entities[0], boxes=(FAR,)), p.entities[1])) if int(p.id) % 2 else p for p in RIGHT
]


def text(renderable) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_one_system_explained():
    result = explain(GOLD, WORSE, Criteria(tuple(PROTOCOLS)))
    assert {**result, **evaluate(GOLD, WORSE, Criteria(tuple(PROTOCOLS)))} == result
    assert set(result["intervals"]) == set(result["iou_sweep"]) == set(PROTOCOLS)
    assert result["error_budget"]["GMNER"]["gold"]["background"] == 20
    assert result["error_budget"]["GMNER"]["corrected"]["background"]["f1"] == 1
    assert result["calibration"]["total"] == 80
    json.dumps(result, allow_nan=False)
    shown = text(format_scores(result))
    for words in ("95 %", "75.00", "box on no entity's object", "+25.00", "F1 by IoU threshold", "calibration error"):
        assert words in shown


def test_without_scores_there_is_no_calibration():
    bare = [Prediction(s.id, entities=s.entities) for s in GOLD]
    result = explain(GOLD, bare)
    assert result["calibration"] is None
    assert "calibration" not in text(format_scores(result))


def test_two_systems_compared():
    comparison = compare(GOLD, [WORSE], [RIGHT], Criteria(("strict", "riveg")))
    assert comparison["riveg"]["GMNER"]["verdict"] == "B is better"
    shown = text(format_comparison(comparison, ("old", "new")))
    for words in ("A: old", "B: new", "B against A, protocol riveg", "+25.00", "B is better", "no difference shown"):
        assert words in shown
    seeds = text(format_comparison(compare(GOLD, [WORSE, RIGHT], [RIGHT]), ("old", "new")))
    assert "87.50 ± 17.68" in seeds
    json.dumps(comparison, allow_nan=False)


def test_systems_in_one_json():
    assert evaluate_systems(GOLD, {"new": [RIGHT]}) == evaluate(GOLD, RIGHT)
    swept = evaluate_systems(GOLD, {"new": [RIGHT]}, swept=True)
    assert swept == {**evaluate(GOLD, RIGHT), "iou_sweep": iou_sweep(GOLD, RIGHT)}
    both = evaluate_systems(GOLD, {"old": [WORSE, RIGHT], "new": [RIGHT], "same": [RIGHT]}, explained=True)
    assert both["strict"] == evaluate(GOLD, WORSE)["strict"]
    assert both["system"] == "old"
    assert both["against"]["new"]["strict"] == evaluate(GOLD, RIGHT)["strict"]
    assert both["against"]["new"] == both["against"]["same"]
    assert both["comparison"]["new"]["strict"]["GMNER"]["a"] == both["seeds"]["strict"]["GMNER"]
    assert both["comparison"]["new"] == compare(GOLD, [WORSE, RIGHT], [RIGHT])
    assert both["seeds"]["strict"]["GMNER"]["runs"] == [0.75, 1]
    assert "87.50 ± 17.68" in text(format_scores(both))
    json.dumps(both, allow_nan=False)
    with pytest.raises(UserError, match="'new' has no predictions"):
        evaluate_systems(GOLD, {"old": [RIGHT], "new": []})


def test_a_folder_is_the_seeds_of_a_system(tmp_path):
    for name in ("2.jsonl", "1.jsonl", "note.txt"):
        (tmp_path / name).touch()
    assert run_files(tmp_path) == [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    assert run_files(tmp_path / "1.jsonl") == [tmp_path / "1.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        run_files(tmp_path / "empty")


def test_candidates(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"id": "1", "boxes": [[0, 0, 10, 10.5]]}\n\n{"id": "2", "boxes": []}\n')
    assert read_candidates(path) == {"1": (Box(0, 0, 10, 10.5),), "2": ()}
    for line in (
        "{",
        "[]",
        '{"id": 1, "boxes": []}',
        '{"id": "1", "boxes": [[1, 2, 3]]}',
        '{"id": "1", "boxes": [[1, 2, 3, "4"]]}',
    ):
        path.write_text(f'{{"id": "0", "boxes": []}}\n{line}\n')
        with pytest.raises(UserError, match=r"boxes\.jsonl:2"):
            read_candidates(path)
    path.write_text('{"id": "1", "boxes": []}\n{"id": "1", "boxes": []}\n')
    with pytest.raises(UserError, match="twice"):
        read_candidates(path)
    with pytest.raises(UserError, match="no such file"):
        read_candidates(tmp_path / "none")
