"""What docs/cascade.md tells a new user is so: its types and its recipe."""

import re
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


def test_the_types_of_each_slot():
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert [slot for slot, _ in listed] == list(SLOTS)
    for slot, kinds in listed:
        assert set(re.findall(r"`(\w+)`", kinds)) == set(REGISTRIES[slot].get_known_choices()), slot


def test_the_recipe_is_that_of_the_demo():
    shown = re.search(r"skipped:\n\n((?:    .*\n)+)", PAGE)[1]
    own = (ROOT / "recipes" / "cascade" / "tiny.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(own)
