"""Real posts: Twitter-GMNER v2.0 built, the tiny base trained on its text for a short while, its dev split scored."""

import json
import os
from pathlib import Path

import pytest

from rivegs_mllm.cli.main import main

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "twitter_text.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="RIVEGS_DATA does not name the folder of real data")
def test_the_tiny_model_learns_entities_of_real_posts(tmp_path):
    raw = Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner"
    data, run = tmp_path / "data", tmp_path / "run"
    assert main(["build", "twitter-gmner", "--raw", str(raw), "--without-images", "--out", str(data)]) == 0
    overrides = [f"--data.folder={data}", f"--train.output_dir={run}"]
    assert main(["train", str(RECIPE), *overrides]) == 0
    predictions, scores = tmp_path / "dev.jsonl", tmp_path / "dev.json"
    command = ["predict", str(RECIPE), "--data", str(data), "--split", "dev", "--out", str(predictions), *overrides]
    assert main(command) == 0
    assert main(["evaluate", str(data), str(predictions), "--split", "dev", "--json", str(scores)]) == 0
    result = json.loads(scores.read_text())
    mner = result["strict"]["all"]["MNER"]
    print("MNER on dev:", mner)
    assert mner["gold"] == 2450
    assert mner["f1"] > 0.28  # runs of capitalised words, all taken for PER, have 0.21
    assert result["missing_predictions"]["count"] == 0
