"""The commands that score, calibrate and export, as the command line calls them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.analysis.calibration import read_calibration
from eval.protocols import PROTOCOLS, Criteria
from eval.scores import evaluate as scores_of
from rivegs_mllm.cli.evaluate_command import EvaluateArgs, calibrate, evaluate, system_files
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.jsonl import read_predictions, read_samples, write_records
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

SQUARE, FAR = Box(0, 0, 10, 10), Box(50, 50, 60, 60)
ADA = Entity("Ada", "PER", (0, 1), "a woman", True, 0.9, (SQUARE,))
ROME = Entity("Rome", "LOC", (2, 3), "", False, 0.2)
GOLD = [
    Sample(
        str(index),
        ("Ada", "in", "Rome"),
        f"images/{index}.jpg",
        (100, 80),
        tuple(dataclasses.replace(entity, visible_score=None) for entity in (ADA, ROME)),
        subset=("seen", "unseen")[index % 2],
    )
    for index in range(40)
]
RIGHT = [Prediction(sample.id, entities=(ADA, ROME)) for sample in GOLD]
OFF = Prediction("", entities=(dataclasses.replace(ADA, boxes=(FAR,)), ROME))
HALF = [said if int(said.id) % 2 else dataclasses.replace(OFF, id=said.id) for said in RIGHT]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of data/test.jsonl and dev.jsonl, right.jsonl, half.jsonl and the same as seeds."""
    write_records(tmp_path / "data" / "test.jsonl", GOLD)
    write_records(tmp_path / "data" / "dev.jsonl", GOLD)
    for name, said in (("right", RIGHT), ("half", HALF), ("seeds/1", RIGHT), ("seeds/2", HALF)):
        write_records(tmp_path / f"{name}.jsonl", said)
    return tmp_path


def test_some_types_alone(files, capsys):
    def places(records):
        return [dataclasses.replace(own, entities=tuple(e for e in own.entities if e.type == "LOC")) for own in records]

    asked = EvaluateArgs(files / "data", [files / "half.jsonl"], types=["LOC"])
    assert evaluate(asked)["strict"] == scores_of(places(GOLD), places(HALF))["strict"]
    assert "gold: 40 of 80 entities are of other types and left out ('PER' 40)" in capsys.readouterr().out
    with pytest.raises(UserError, match="--types: 'ORG' is no type of the gold, which has LOC, PER"):
        evaluate(dataclasses.replace(asked, types=["LOC", "ORG"]))
    page, arguments = files / "page.html", ["report", str(files / "data"), str(files / "half.jsonl")]
    assert main([*arguments, "--types", "LOC", "--out", str(page)]) == 0
    assert '"types":[["LOC",' in page.read_text(encoding="utf-8")
    assert main([*arguments, "--out", str(page)]) == 0
    assert '"types":[["PER",' in page.read_text(encoding="utf-8")


def test_one_system_is_short(files, capsys):
    result = evaluate(EvaluateArgs(files / "data", [files / "half.jsonl"], json=files / "new" / "scores.json"))
    assert result == json.loads((files / "new" / "scores.json").read_text())
    assert result == scores_of(GOLD, HALF)
    shown = capsys.readouterr().out
    assert "75.00" in shown
    assert "unseen" in shown
    for absent in ("type:PER", "95 %", "Stages", "lost", "IoU threshold"):
        assert absent not in shown
    assert len(shown.splitlines()) <= 18


@pytest.mark.parametrize("other", [[], ["right"]])
def test_boxes_in_shares_of_the_picture_are_told(files, capsys, other):
    small = dataclasses.replace(ADA, boxes=(Box(0, 0, 0.1, 0.125),))
    write_records(files / "shares.jsonl", [Prediction(sample.id, entities=(small, ROME)) for sample in GOLD])
    evaluate(EvaluateArgs(files / "data", [files / f"{name}.jsonl" for name in ("shares", *other)]))
    assert f"warning: {files / 'shares.jsonl'}: no box is longer than a pixel" in capsys.readouterr().err
    evaluate(EvaluateArgs(files / "data", [files / "right.jsonl"]))
    assert capsys.readouterr().err == ""


def test_each_option_adds_its_part(files, capsys):
    for option, words in (("subsets", "box:small"), ("stages", "predicted visible"), ("sweep", "IoU threshold")):
        evaluate(EvaluateArgs(files / "data", [files / "half.jsonl"], **{option: True}))
        shown = capsys.readouterr().out
        assert words in shown
        assert "95 %" not in shown
    evaluate(EvaluateArgs(files / "data", [files / "half.jsonl"], protocol=list(PROTOCOLS), explain=True))
    shown = capsys.readouterr().out
    for words in (
        "box:small",
        "predicted visible",
        "IoU threshold",
        "95 %",
        "Error analysis, GMNER",
        "calibration error",
    ):
        assert words in shown
    for protocol in PROTOCOLS:
        assert f"Scores, protocol {protocol}" in shown


def test_several_systems_are_compared_with_the_first(files, capsys):
    result = evaluate(EvaluateArgs(files / "data", [files / "half.jsonl", files / "right.jsonl", files / "seeds"]))
    assert result["system"] == "half"
    assert set(result["against"]) == set(result["comparison"]) == {"right", "seeds"}
    row = result["comparison"]["right"]["strict"]["GMNER"]
    assert (row["difference"], row["verdict"]) == (0.25, "B is better")
    assert result["comparison"]["seeds"]["strict"]["GMNER"]["b"]["runs"] == [1.0, 0.75]
    shown = capsys.readouterr().out
    for words in ("A: half", "B: right", "+25.00", "B is better", "no difference", "87.50 ± 17.68"):
        assert words in shown
    assert "seeds: the first of its seeds" in shown
    assert "Scores, protocol" not in shown
    assert [line.split() for line in shown.splitlines() if "GMNER" in line][:3] == [
        ["GMNER", "75.00", "100.00", "100.00"],
        ["GMNER", "50.00", "100.00", "100.00"],
        ["GMNER", "100.00", "100.00", "100.00"],
    ]
    evaluate(EvaluateArgs(files / "data", [files / "half.jsonl", files / "right.jsonl"], stages=True))
    assert capsys.readouterr().out.count("Scores, protocol strict") == 2


def test_what_is_odd_is_said_of_each_system(files, capsys):
    write_records(files / "cut.jsonl", HALF[:30])
    evaluate(EvaluateArgs(files / "data", [files / "half.jsonl", files / "cut.jsonl"]))
    assert "cut: 10 of 40 posts without a prediction" in capsys.readouterr().out


def test_two_copies_differ_by_nothing_but_could_be_chance(files):
    result = evaluate(EvaluateArgs(files / "data", [files / "half.jsonl", files / "half.jsonl"]))
    (comparison,) = result["comparison"].values()
    assert {row["p"] for row in comparison["strict"].values()} == {1.0}
    assert {row["difference"] for row in comparison["strict"].values()} == {0.0}


def test_seeds_of_one_system(files, capsys):
    result = evaluate(EvaluateArgs(files / "data", [files / "right.jsonl", files / "half.jsonl"], seeds=True))
    assert result["seeds"]["strict"]["GMNER"] == {
        "f1": 0.875,
        "deviation": pytest.approx(0.1767767),
        "runs": [1.0, 0.75],
    }
    assert "87.50 ± 17.68" in capsys.readouterr().out


def test_names_of_systems():
    a, b = Path("x/a.jsonl"), Path("y/a.jsonl")
    assert list(system_files([a, Path("b.jsonl")])) == ["a", "b"]
    assert list(system_files([a, b])) == ["x/a.jsonl", "y/a.jsonl"]
    assert system_files([a, a]) == {"x/a.jsonl": [a], "x/a.jsonl again": [a]}
    assert system_files([a, b], seeds=True) == {"a": [a, b]}


def test_riveg_rows_there_and_back(files, capsys):
    main(["export", "riveg", str(files / "data"), str(files / "half.jsonl"), "--out", str(files / "out")])
    gold, said = files / "out" / "test.txt", files / "out" / "half.txt"
    assert gold.read_text().splitlines()[1] == "0.jpg###Rome(LOC)######0###&[0, 0, 0, 0]"
    assert said.read_text().splitlines()[0].startswith("Imageid:0.jpg#")
    result = evaluate(EvaluateArgs(gold, [said], format="riveg"))
    assert list(result)[:2] == ["riveg", "strict"]
    expected = scores_of(GOLD, HALF, Criteria(["riveg"]))["riveg"]["all"]
    assert result["riveg"]["all"] == expected
    assert "Scores, protocol riveg" in capsys.readouterr().out


def test_posts_that_have_rows_on_one_side_alone(files):
    gold, said = files / "gold.txt", files / "said.txt"
    gold.write_text("1.jpg###Ada(PER)###a woman###0###&[0, 0, 0, 0]\n")
    said.write_text("Imageid:2.jpg#0a###Ada(PER)###Ada(PER)-a woman###0\n")
    result = evaluate(EvaluateArgs(gold, [said, said], format="riveg"))
    assert result["posts"] == 2
    assert result["missing_predictions"]["count"] == 0
    row = result["riveg"]["all"]["MNER"]
    assert (row["correct"], row["predicted"], row["gold"]) == (0, 1, 1)


def test_boxes_of_rows_that_have_none(files):
    gold, said, boxes = files / "gold.txt", files / "said.txt", files / "boxes.json"
    gold.write_text("1.jpg###Ada(PER)###a woman###2###&[0.0, 0.0, 10.0, 10.0]\n")
    said.write_text("Imageid:1.jpg#0a###Ada(PER)###Ada(PER)-a woman###2\n")
    boxes.write_text('[{"uniq_id": "1.jpg#0a", "box": [0, 0, 10, 9]}]')
    result = evaluate(EvaluateArgs(gold, [said], format="riveg", boxes=[boxes]))
    assert result["riveg"]["all"]["GMNER"]["f1"] == 1
    with pytest.raises(UserError, match="without a box"):
        evaluate(EvaluateArgs(gold, [said], format="riveg"))
    with pytest.raises(UserError, match="2 files for 1"):
        evaluate(EvaluateArgs(gold, [said], format="riveg", boxes=[boxes, boxes]))
    with pytest.raises(UserError, match="--format riveg"):
        evaluate(EvaluateArgs(files / "data", [files / "half.jsonl"], boxes=[boxes]))


def test_candidates_give_hindex_and_top_n(files, capsys):
    boxes = files / "boxes.jsonl"
    boxes.write_text("".join(f'{{"id": "{s.id}", "boxes": [[50, 50, 60, 60], [0, 0, 10, 9]]}}\n' for s in GOLD))
    result = evaluate(EvaluateArgs(files / "data", [files / "right.jsonl"], protocol=["hindex"], candidates=boxes))
    assert result["hindex"]["all"]["GMNER"]["f1"] == 1
    assert [row["precision"] for row in result["proposals"]["top"].values()] == [0, 1, 1, 1]
    assert "Top-N-Prec" in capsys.readouterr().out


def test_calibrating_leaves_its_file_with_the_run(files, capsys):
    (files / "run").mkdir()
    unsure = [
        Prediction(
            said.id,
            entities=(
                dataclasses.replace(ADA, visible_score=0.6),
                dataclasses.replace(ROME, visible=True, visible_score=0.55, boxes=(FAR,)),
            ),
        )
        for said in RIGHT
    ]
    write_records(files / "unsure.jsonl", unsure)
    calibrate(files / "data", "dev", files / "unsure.jsonl", files / "run")
    calibration = read_calibration(files / "run")
    after = [calibration.apply(said) for said in unsure]
    assert scores_of(GOLD, after)["strict"]["all"]["GMNER"]["f1"] == 1
    assert "GMNER F1 50.00 -> 100.00" in capsys.readouterr().out
    with pytest.raises(UserError, match="delete it"):
        calibrate(files / "data", "dev", files / "unsure.jsonl", files / "run")


def test_mistakes_are_named(files):
    with pytest.raises(UserError, match=r"no split 'val' .*dev, test"):
        evaluate(EvaluateArgs(files / "data", [files / "half.jsonl"], split="val"))
    with pytest.raises(UserError, match="no such file"):
        evaluate(EvaluateArgs(files / "data", [files / "none.jsonl"]))
    (files / "other.jsonl").write_text('{"id": "77"}\n')
    for more in ([], [files / "half.jsonl"]):
        with pytest.raises(UserError, match="'77' is not in the gold"):
            evaluate(EvaluateArgs(files / "data", [files / "other.jsonl", *more], json=files / "no.json"))
    assert not (files / "no.json").exists()
    assert len(read_samples(files / "data" / "test.jsonl")) == len(read_predictions(files / "half.jsonl"))


def test_the_command_line_passes_every_option_on(files, capsys):
    gold, half, right = (str(files / name) for name in ("data", "half.jsonl", "right.jsonl"))
    shown = ["--subsets", "--stages", "--sweep", "--json", str(files / "x.json")]
    assert main(["evaluate", gold, half, right, "--split", "dev", "--iou", "0.6", "--protocol", "e2e", *shown]) == 0
    written = json.loads((files / "x.json").read_text())
    assert written["e2e"] == scores_of(GOLD, HALF, Criteria(["e2e"], 0.6))["e2e"]
    assert written["comparison"]["right"]["e2e"]["GMNER"]["verdict"] == "B is better"
    assert "box:small" in capsys.readouterr().out
    assert main(["evaluate", gold, half, right, "--seeds", "--explain"]) == 0
    assert "Error analysis, GMNER" in capsys.readouterr().out
    assert main(["export", "riveg", gold, half, "--out", str(files / "out")]) == 0
    rows = [str(files / "out" / name) for name in ("test.txt", "half.txt")]
    assert main(["evaluate", "--format", "riveg", *rows]) == 0
    (files / "run").mkdir()
    assert main(["calibrate", gold, half, "--adapter", str(files / "run")]) == 0
    assert read_calibration(files / "run") is not None
    assert main(["calibrate", gold, half, "--adapter", str(files / "run")]) == 2
    assert "delete it" in capsys.readouterr().err


def test_scoring_imports_nothing_heavy():
    code = (
        "import sys, rivegs_mllm.cli.main, rivegs_mllm.cli.evaluate_command\n"
        "print({'torch', 'transformers', 'scipy', 'jinja2', 'PIL', 'datasets'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_dataset_is_a_file_of_predictions(emblems, tmp_path, capsys):
    """Gold against gold is perfect in every task, whichever way it is given."""
    gold = emblems / "test.jsonl"
    for command in (["evaluate", str(gold), str(gold)], ["evaluate", str(emblems), str(gold)]):
        assert main([*command, "--json", str(tmp_path / "scores.json")]) == 0
        scores = json.loads((tmp_path / "scores.json").read_text())["strict"]
        assert {found["f1"] for tasks in scores.values() for found in tasks.values() if found["gold"]} == {1.0}
    assert main(["report", str(emblems), str(gold), "--out", str(tmp_path / "page.html")]) == 0


def test_answers_that_cannot_be_read_are_told_and_precision_of_nothing_is_null(tmp_path, capsys):
    unread = [Prediction(own.id, raw="I see a dog.", errors=("no entity line",)) for own in GOLD]
    write_records(tmp_path / "gold.jsonl", GOLD)
    write_records(tmp_path / "unread.jsonl", unread)
    scores = tmp_path / "scores.json"
    assert main(["evaluate", str(tmp_path / "gold.jsonl"), str(tmp_path / "unread.jsonl"), "--json", str(scores)]) == 0
    told = capsys.readouterr()
    assert f"unread.jsonl: not one of {len(GOLD)} answers could be read; the first is 'I see a dog.'" in told.err
    assert "–" in told.out
    figures = json.loads(scores.read_text())["strict"]["all"]
    assert (figures["MNER"]["precision"], figures["MNER"]["recall"], figures["MNER"]["f1"]) == (None, 0.0, 0.0)
