"""What each system of a comparison is, in plain words."""

import json

from rivegs_mllm.cascade.config import read_cascade
from rivegs_mllm.compare.legend import legend

STAGES = {
    "knowledge": {"type": "replay", "source": "knowledge.jsonl"},
    "tagger": {"type": "crf", "checkpoint": "runs/tagger"},
    "expander": {"type": "none"},
    "entailment": {"type": "always"},
    "grounder": {"type": "patches", "checkpoint": "runs/grounder"},
}
END_TO_END = {"type": "mllm", "recipe": "runs/e2e.yaml"}


def words(tmp_path, **changed):
    """The legend of the cascade `base` and of itself with stages changed, null to leave one out."""
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(json.dumps(STAGES))
    own.write_text(json.dumps({slot: stage for slot, stage in {**STAGES, **changed}.items() if stage}))
    return legend({"base": read_cascade(base), "own": read_cascade(own)})


def test_the_first_is_said_in_full_and_the_next_by_what_differs(tmp_path):
    said = words(tmp_path, knowledge=None, tagger={"type": "crf", "checkpoint": "runs/text"})
    assert said == {
        "base": "cascade of knowledge replay, tagger crf, expander none, entailment always, grounder patches",
        "own": "as base, but no knowledge, tagger with checkpoint runs/text",
    }


def test_an_end_to_end_model_says_what_it_is_conditioned_on(tmp_path):
    said = words(tmp_path, expander=None, entailment=END_TO_END, grounder=END_TO_END)["own"]
    assert said == (
        "as base, but no expander, entailment end-to-end model e2e, grounder end-to-end model e2e, "
        "conditioned on the cascade's knowledge and entities"
    )
    whole = dict.fromkeys(("knowledge", "tagger", "entailment", "grounder"), END_TO_END)
    assert "conditioned" not in words(tmp_path, expander=None, **whole)["own"]


def test_a_system_with_little_in_common_is_said_in_full(tmp_path):
    gold = {slot: {"type": "gold"} for slot in ("tagger", "expander", "entailment", "grounder")}
    assert words(tmp_path, knowledge=None, **gold)["own"].startswith("cascade of tagger gold (oracle), expander gold")


def test_the_same_system_twice_is_said_in_full(tmp_path):
    said = words(tmp_path)
    assert said["own"] == said["base"]
