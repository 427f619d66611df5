"""The rows of RiVEG's own statistic."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_builders.formats.riveg_rows import (
    read_riveg_gold,
    read_riveg_predictions,
    with_empty_posts,
    write_riveg_gold,
    write_riveg_predictions,
)
from data_builders.twitter_gmner import read_raw, to_samples
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

GOLD = """\
71044.jpg###Garfield Park(LOC)###a park###0###&[0, 0, 0, 0]
17_06_3196.jpg###Warriors(ORG)###a basketball team###2###&[308.0, 414.0, 390.0, 603.0]&[673.0, 376.0, 763.0, 565.0]
17_06_3196.jpg###NBA(ORG)######0###&[0, 0, 0, 0]
71044.jpg###St . Mary ( UK )(LOC)###one ### two###2###&[1, 2, 3.5, 4]
"""
PREDICTED = """\
Imageid:71044.jpg#8465###Garfield Park(LOC)###Garfield Park(LOC)-A park.###0###&[0, 0, 0, 0]
Imageid:O_9.jpg#03b7###Royal # Navy(ORG)###Royal # Navy(ORG)-A force.###2###&[10.5, 20.0, 30.0, 40.0]
Imageid:17_06_3196.jpg#a035###Warriors(ORG)###Warriors(ORG)-A team (of five).###2###&[0, 0, 0, 0]
Imageid:71044.jpg#0023###Garfield Park(LOC)###no prefix###1###&[1, 2, 3, 4]
Imageid:71044.jpg#0024###Boston(LOC)###Boston(LOC)-###0
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_gold_rows_become_posts(tmp_path, mark):
    first, second = read_riveg_gold(written(tmp_path / "gold.txt", mark + GOLD))
    assert (first.id, first.tokens, first.image) == ("71044", (), "")
    assert first.entities == (
        Entity("Garfield Park", "LOC", None, "a park", False),
        Entity("St . Mary ( UK )", "LOC", None, "one ### two", True, boxes=(Box(1, 2, 3.5, 4),)),
    )
    assert second.id == "17_06_3196"
    assert second.entities == (
        Entity(
            "Warriors", "ORG", None, "a basketball team", True, boxes=(Box(308, 414, 390, 603), Box(673, 376, 763, 565))
        ),
        Entity("NBA", "ORG", None, "", False),
    )


def test_predicted_rows_become_predictions(tmp_path):
    predictions = read_riveg_predictions(written(tmp_path / "said.txt", PREDICTED))
    assert predictions == [
        Prediction(
            "71044",
            entities=(
                Entity("Garfield Park", "LOC", None, "A park.", False),
                # RiVEG's statistic takes all that is not 0 for visible.
                Entity("Garfield Park", "LOC", None, "no prefix", True, boxes=(Box(1, 2, 3, 4),)),
                Entity("Boston", "LOC", None, "", False),
            ),
        ),
        Prediction(
            "O_9", entities=(Entity("Royal # Navy", "ORG", None, "A force.", True, boxes=(Box(10.5, 20, 30, 40),)),)
        ),
        Prediction("17_06_3196", entities=(Entity("Warriors", "ORG", None, "A team (of five).", True),)),
    ]


def test_posts_that_only_predictions_have_are_added_without_entities(tmp_path):
    gold = read_riveg_gold(written(tmp_path / "gold.txt", GOLD))
    posts = with_empty_posts(gold, read_riveg_predictions(written(tmp_path / "said.txt", PREDICTED)))
    assert posts == [*gold, Sample("O_9", ())]


def test_boxes_may_come_from_the_grounding_models_file(tmp_path):
    rows = "Imageid:7.jpg#ab###Ada(PER)###Ada(PER)-x###2\nImageid:7.jpg#cd###Bob(PER)###Bob(PER)-y###0\n"
    path = written(tmp_path / "said.txt", rows)
    boxes = written(tmp_path / "boxes.json", json.dumps([{"uniq_id": "7.jpg#ab", "box": [1, 2.5, 3, 4]}]))
    (prediction,) = read_riveg_predictions(path, boxes)
    assert prediction.entities == (
        Entity("Ada", "PER", None, "x", True, boxes=(Box(1, 2.5, 3, 4),)),
        Entity("Bob", "PER", None, "y", False),
    )
    with pytest.raises(UserError, match=r"said\.txt:1: in the picture, but without a box"):
        read_riveg_predictions(path)
    written(boxes, json.dumps([{"uniq_id": "7.jpg#cd", "box": [1, 2, 3, 4]}]))
    with pytest.raises(UserError, match=r"said\.txt:1: in the picture, but without a box"):
        read_riveg_predictions(path, boxes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not JSON"),
        ("{}", "not a list"),
        ("[3]", r"\[0\]: not"),
        ('[{"uniq_id": "a", "box": [1, 2, 3]}]', r"\[0\]: \[1, 2, 3\] is not a box"),
        ('[{"uniq_id": "a", "box": [1, 2, 3, NaN]}]', "is not a box"),
        ('[{"uniq_id": "a"}]', "None is not a box"),
        ('[{"uniq_id": "a", "box": [1, 2, 3, 4]}, {"uniq_id": "a", "box": [1, 2, 3, 4]}]', "a second box of a"),
    ],
)
def test_a_grounding_file_of_another_form_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"boxes\.json.*{message}"):
        read_riveg_predictions(written(tmp_path / "said.txt", ""), written(tmp_path / "boxes.json", text))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7.jpg###Ada(PER)###2", "not picture###"),
        ("7.jpg###Ada###x###2###&[1, 2, 3, 4]", r"'Ada' is not mention\(TYPE\)"),
        ("7.jpg###(PER)###x###2###&[1, 2, 3, 4]", "is not mention"),
        ("7.jpg###Ada(PER)###x###yes###&[1, 2, 3, 4]", "'yes' stands where 0"),
        ("7.jpg###Ada(PER)###x###2###&[1, 2, 3]", "is not a box of four numbers"),
        ("7.jpg###Ada(PER)###x###2###&[1, 2, nan, 4]", "is not a box of four numbers"),
        ("7.jpg###Ada(PER)###x###2###&1, 2, 3, 4", "is not a row of"),
        ("7.jpg###Ada(PER)###x###0###&[1, 2, 3, 4]", "says 0, not in the picture, but has a box"),
        ("7.jpg###Ada(PER)###x###2", "at its end"),
        ("7.png###Ada(PER)###x###2###&[1, 2, 3, 4]", r"'7\.png' is not the name"),
    ],
)
def test_gold_rows_of_another_form_are_refused(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"gold\.txt:2: .*{message}"):
        read_riveg_gold(written(tmp_path / "gold.txt", f"{GOLD.splitlines()[0]}\n{row}\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOLD.splitlines()[0], r"'71044\.jpg' is not Imageid:"),
        ("Imageid:7.jpg###Ada(PER)###x###0", "is not Imageid:"),
        ("Imageid:7.jpg#ab###Ada(PER)###x###2###&[1, 2, 3, 4]&[1, 2, 3, 4]", "2 boxes"),
    ],
)
def test_predicted_rows_of_another_form_are_refused(tmp_path, row, message):
    with pytest.raises(UserError, match=rf"said\.txt:1: .*{message}"):
        read_riveg_predictions(written(tmp_path / "said.txt", row))


def test_what_is_written_is_what_riveg_writes(tmp_path):
    path = tmp_path / "sub" / "rows.txt"
    ada = Entity("Ada", "PER", (0, 1), "a  poet #", None, boxes=(Box(0, 1, 2.5, 3), Box(4, 5, 6, 7)))
    bob, seen = Entity("Bob", "PER", visible=False), Entity("Eve", "PER", visible=True)
    write_riveg_gold(path, [Sample("7", ("Ada",), entities=(ada, bob))])
    assert path.read_text() == (
        "7.jpg###Ada(PER)###a poet # ###2###&[0.0, 1.0, 2.5, 3.0]&[4.0, 5.0, 6.0, 7.0]\n"
        "7.jpg###Bob(PER)######0###&[0, 0, 0, 0]\n"
    )
    (finding,) = write_riveg_predictions(
        path, [Prediction("7", entities=(ada, bob)), Prediction("8", entities=(seen,))]
    )
    assert path.read_text() == (
        "Imageid:7.jpg#0000###Ada(PER)###Ada(PER)-a poet # ###2###&[0.0, 1.0, 2.5, 3.0]\n"
        "Imageid:7.jpg#0001###Bob(PER)###Bob(PER)-###0###&[0, 0, 0, 0]\n"
        "Imageid:8.jpg#0002###Eve(PER)###Eve(PER)-###2###&[0, 0, 0, 0]\n"
    )
    assert (finding.kind, finding.place) == ("several boxes", "7")
    assert "'Ada' has 2 boxes" in finding.message


@pytest.mark.parametrize("entity", [Entity("a ### b", "PER"), Entity("a", "P(E)R"), Entity("a\nb", "PER")])
def test_what_rows_cannot_say_is_refused(tmp_path, entity):
    with pytest.raises(UserError, match="cannot be written"):
        write_riveg_predictions(tmp_path / "said.txt", [Prediction("7", entities=(entity,))])
    assert not list(tmp_path.iterdir())


# Four zeros stand for no box.
edges = st.floats(0.5, 1e6)
words = st.text(st.characters(codec="utf-8", categories=("L", "P", "S")), min_size=1, max_size=6)
mentions = st.lists(words, min_size=1, max_size=3).map(" ".join).filter(lambda text: "###" not in text)
entities = st.builds(
    Entity,
    text=mentions,
    type=st.sampled_from(("PER", "OTHER")),
    expression=st.lists(words, max_size=4).map(" ".join),
    visible=st.booleans(),
    boxes=st.lists(st.builds(Box, edges, edges, edges, edges), min_size=1, max_size=1).map(tuple),
).map(lambda entity: entity if entity.visible else replace(entity, boxes=()))
ids = st.sampled_from(("7", "O_8", "17_06_9", "7#2", "a.jpg#b"))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(ids, st.lists(entities, min_size=1, max_size=3).map(tuple)))
def test_what_is_written_is_read_again(tmp_path_factory, posts):
    path = tmp_path_factory.mktemp("rows") / "rows.txt"
    write_riveg_gold(path, [Sample(identity, (), entities=entities) for identity, entities in posts.items()])
    assert {sample.id: sample.entities for sample in read_riveg_gold(path)} == posts
    assert not write_riveg_predictions(path, [Prediction(i, entities=entities) for i, entities in posts.items()])
    assert {prediction.id: prediction.entities for prediction in read_riveg_predictions(path)} == posts


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
def test_published_posts_survive_the_rows(tmp_path):
    raw = read_raw(Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner", [])
    posts = [sample for sample in to_samples(raw, {}, [])["test"] if sample.entities]
    write_riveg_gold(tmp_path / "gold.txt", posts)
    assert len((tmp_path / "gold.txt").read_text().splitlines()) == 2543
    read = read_riveg_gold(tmp_path / "gold.txt")
    assert [sample.id for sample in read] == [sample.id for sample in posts]
    for ours, theirs in zip(posts, read, strict=True):
        assert [replace(entity, span=None) for entity in ours.entities] == list(theirs.entities)
