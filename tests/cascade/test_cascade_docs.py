"""What docs/cascade.md tells a new user is so: its types, its settings, its stage of one's own."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from rivegs_mllm.cascade.base import SLOTS
from rivegs_mllm.cascade.entailment.base import Entailment
from rivegs_mllm.cascade.grounding.base import Grounder
from rivegs_mllm.cascade.knowledge.base import Knowledge
from rivegs_mllm.cascade.knowledge.expansion import Expander
from rivegs_mllm.cascade.segmentation.base import Segmenter
from rivegs_mllm.cascade.tagging.base import Tagger

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cascade.md").read_text(encoding="utf-8")
REGISTRIES = dict(zip(SLOTS, (Knowledge, Tagger, Expander, Entailment, Grounder, Segmenter), strict=True))

RUN = """
samples = [Sample("1", ("Ada", "met", "Wilhelmina"), entities=(
    Entity("Ada", "PER", (0, 1), visible=False), Entity("Wilhelmina", "PER", (2, 3), visible=True)))]
with tempfile.TemporaryDirectory() as folder:
    recipe = Path(folder) / "recipe.yaml"
    recipe.write_text("tagger: {type: gold}\\nentailment: {type: long_names, letters: 4}\\n")
    predictions, _ = run_cascade(read_cascade(recipe), samples, Path(folder), Path(folder) / "work")
assert [entity.visible for entity in predictions[0].entities] == [False, True]
"""
IMPORTS = """
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.cascade.entailment.base import Entailment
from rivegs_mllm.cascade.config import read_cascade, run_cascade
from rivegs_mllm.cascade.base import Stage
from rivegs_mllm.types import Entity, Prediction, Sample
"""


def test_the_types_of_each_slot():
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert [slot for slot, _ in listed] == list(SLOTS)
    for slot, kinds in listed:
        assert set(re.findall(r"`(\w+)`", kinds)) == set(REGISTRIES[slot].get_known_choices()), slot


def test_the_recipe_is_that_of_the_demo():
    shown = re.search(r"skipped:\n\n((?:    .*\n)+)", PAGE)[1]
    own = (ROOT / "recipes" / "cascade" / "tiny.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(own)


def test_the_stage_of_one_s_own_runs():
    """In a process of its own, since its type would be known to all other tests."""
    stage = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    program = f"{IMPORTS}\n{stage}\n{RUN}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_recipes_it_names_are_there():
    named = set(re.findall(r"recipes/[\w/]+\.yaml", PAGE))
    assert len(named) >= 3
    assert all((ROOT / path).is_file() for path in named)
