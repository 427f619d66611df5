"""`rivegs predict` uses what `rivegs calibrate` left with the run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.analysis.calibration import FILE_NAME, Calibration, write_calibration
from rivegs_mllm.config.schema import read_recipe
from rivegs_mllm.prediction.run import _run_name, predict
from rivegs_mllm.types import UserError


@pytest.fixture(scope="module")
def adapter(trained, tmp_path_factory) -> Path:
    """The trained run's adapter, to be written to."""
    folder = tmp_path_factory.mktemp("run") / "adapter"
    shutil.copytree(read_recipe(trained.recipe).train.output_dir, folder)
    return folder


def answered(trained, adapter, out):
    return predict(read_recipe(trained.recipe), trained.samples, trained.data, out, adapter)


def test_scores_and_decisions_are_calibrated(trained, adapter, tmp_path):
    plain = answered(trained, adapter, tmp_path / "plain.jsonl")
    scores = [entity.visible_score for said in plain for entity in said.entities if entity.visible]
    assert len(scores) > 2
    middle = Calibration(2.0).probability(sorted(scores)[len(scores) // 2])
    path = write_calibration(adapter, Calibration(2.0, middle), {})
    after = answered(trained, adapter, tmp_path / "after.jsonl")
    assert after == [Calibration(2.0, middle).apply(said) for said in plain]
    kept = [entity for said in after for entity in said.entities if entity.visible]
    assert 0 < len(kept) < len(scores)
    assert [replace(said, entities=()) for said in after] == [replace(said, entities=()) for said in plain]
    path.unlink()


def test_a_run_does_not_go_on_under_another_calibration(trained, adapter, tmp_path):
    (tmp_path / "p.jsonl.parts").mkdir()
    (tmp_path / "p.jsonl.parts" / "run").write_text(_run_name(read_recipe(trained.recipe), trained.samples, adapter))
    path = write_calibration(adapter, Calibration(1.5), {})
    with pytest.raises(UserError, match="another run"):
        answered(trained, adapter, tmp_path / "p.jsonl")
    path.write_text("{")
    with pytest.raises(UserError, match=FILE_NAME):
        answered(trained, adapter, tmp_path / "p.jsonl")
    path.unlink()
