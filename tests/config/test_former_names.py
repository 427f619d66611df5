"""Keys and types under the names that they had in the version before: recipes and what was saved are still read."""

import json
from pathlib import Path

import pytest

from rivegs_mllm.cascade.checkpoint import read_metadata
from rivegs_mllm.cascade.config import read_cascade
from rivegs_mllm.cascade.grounding.late_interaction import PatchGrounder, PatchGrounderTraining
from rivegs_mllm.cascade.knowledge.base import ReplayKnowledge
from rivegs_mllm.compare.systems import read_systems
from rivegs_mllm.config.reading.former_names import current
from rivegs_mllm.types import TYPES, UserError

OLD = """\
knowledge: {type: replay, otherwise: nothing}
tagger: {type: gold}
grounder: {type: cells, checkpoint: run, refer: [mention, type]}
"""


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    return path


def test_a_recipe_with_former_names_is_read_with_a_warning(old, capsys):
    recipe = read_cascade(old)
    assert recipe.knowledge == ReplayKnowledge(fallback="nothing")
    assert recipe.grounder == PatchGrounder(Path("run"), query_fields=["mention", "type"], types=list(TYPES))
    warnings = capsys.readouterr().err.splitlines()
    assert [line.partition(" is now")[0] for line in warnings] == [
        f"warning: {old}: otherwise",
        f"warning: {old}: cells",
        f"warning: {old}: refer",
    ]
    read_cascade(old)
    assert capsys.readouterr().err == "", "once is enough"


def test_overrides_with_former_names(old, capsys):
    recipe = read_cascade(old, ["--knowledge.otherwise=little", "--grounder.refer=[type]"])
    assert (recipe.knowledge.fallback, recipe.grounder.query_fields) == ("little", ["type"])
    assert "warning: --grounder.refer: refer is now called query_fields" in capsys.readouterr().err
    assert read_cascade(old, ["--grounder.type=cells"]).grounder.query_fields == ["mention", "type"]


def test_a_present_name_is_laid_over_the_former_one_of_a_base(old, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("base: old.yaml\nknowledge: {fallback: child}\ngrounder: {type: patches, query_fields: [type]}\n")
    recipe = read_cascade(child)
    assert (recipe.knowledge.fallback, recipe.grounder.query_fields) == ("child", ["type"])
    assert recipe.grounder.checkpoint == Path("run"), "cells and patches are one type"


def test_both_names_of_a_key_are_refused(old):
    old.write_text("knowledge: {type: replay, otherwise: a, fallback: b}\n")
    with pytest.raises(UserError, match=r"old\.yaml: otherwise: is now called fallback, which is there too"):
        read_cascade(old)


def test_variants_keep_the_names_that_users_gave_them(old, tmp_path):
    path = tmp_path / "variants.yaml"
    path.write_text("variants:\n  refer: {base: old.yaml, knowledge: {otherwise: a}, grounder: null}\n")
    (name, system), *_ = read_systems([path]).items()
    assert (name, system.recipe.knowledge.fallback) == ("refer", "a")


def test_saved_metadata_with_former_names(tmp_path):
    settings = {"base": "tiny", "refer": ["type"], "expressions": {"store": None, "how": "draw"}, "unnamed": True}
    content = {"version": 1, "kind": "cells", "types": TYPES, "settings": {**settings, "width": 128, "layers": 2}}
    (tmp_path / "stage.json").write_text(json.dumps(content))
    found = read_metadata(tmp_path, "grounder (patches)", "patches", TYPES, PatchGrounderTraining)
    assert found.settings["query_fields"] == ["type"]
    assert PatchGrounder(tmp_path).requires() == ()


def test_saved_settings_with_former_names():
    saved = {
        "stage.type": "cells",
        "stage.model.type": "cells",
        "stage.refer": ["type"],
        "stage.expressions": {"how": "draw"},
    }
    present = ["stage.type", "stage.model.type", "stage.query_fields", "stage.expressions"]
    assert current(saved) == dict(zip(present, ["patches", "patches", ["type"], {"strategy": "draw"}], strict=True))


def test_other_content_stays_as_it_is():
    content = {"type": "crf", "kind": ["cells"], "name": "refer", "rows": [{"text": "how"}, None, 3]}
    assert current(content) == content
