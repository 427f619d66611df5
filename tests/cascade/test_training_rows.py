"""The rows on which the stages of the cascade are trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from data_builders.twitter_gmner import read_raw, to_samples
from rivegs_mllm.cascade.rows import bio_tags, entailment_rows, grounding_rows
from rivegs_mllm.types import Box, Entity, Sample, UserError

SMALL, LARGE, WIDE = Box(0, 0, 50, 4), Box(10, 10, 40, 60), Box(0, 0, 60, 1)
ADA = Entity("Ada Lovelace", "PER", (1, 3), visible=True, boxes=(SMALL, LARGE, WIDE))
BOB = Entity("Bob", "PER", (3, 4), visible=False)
PARIS = Entity("Paris", "LOC", (5, 6), visible=True, boxes=(WIDE,))
POST = Sample(
    "1", ("RT", "Ada", "Lovelace", "Bob", "in", "Paris"), "1.jpg", (80, 60), (ADA, BOB, PARIS), ("She counts.",)
)
EMPTY = Sample("2", ("hello",), "2.jpg", (9, 8))


def test_entailment_has_a_row_an_entity():
    rows = entailment_rows([EMPTY, POST])
    assert [(row.id, row.index, row.entity, row.visible) for row in rows] == [
        ("1", 0, ADA, True),
        ("1", 1, BOB, False),
        ("1", 2, PARIS, True),
    ]
    assert {(row.image, row.size, row.tokens) for row in rows} == {("1.jpg", (80, 60), POST.tokens)}


def test_grounding_has_the_visible_ones_and_their_largest_box():
    rows = grounding_rows([POST, EMPTY])
    assert [(row.id, row.index, row.entity, row.target) for row in rows] == [
        ("1", 0, ADA, LARGE),
        ("1", 2, PARIS, WIDE),
    ]
    assert (rows[1].image, rows[1].size, rows[1].tokens) == ("1.jpg", (80, 60), POST.tokens)


def test_of_boxes_of_one_area_the_first_is_the_target():
    twins = replace(ADA, boxes=(Box(5, 5, 15, 25), Box(0, 0, 20, 10)))
    assert grounding_rows([replace(POST, entities=(twins,))])[0].target == Box(5, 5, 15, 25)


def test_tagging_has_a_tag_a_token():
    # Ada and Bob touch and are of one type: B- keeps them apart.
    assert bio_tags(POST) == ("O", "B-PER", "I-PER", "B-PER", "O", "B-LOC")
    assert bio_tags(EMPTY) == ("O",)


@pytest.mark.parametrize("view", [entailment_rows, grounding_rows])
def test_undecided_visibility_is_left_out_and_refused_where_nothing_else_is_there(view, capsys):
    bob = replace(BOB, visible=None)
    assert [row.entity for row in view([replace(POST, entities=(ADA, bob))])] == [ADA]
    assert capsys.readouterr().out == "1 entity of 2 left out: whether visible is not known\n"
    with pytest.raises(UserError, match=r"'1'.*'Bob'"):
        view([replace(POST, entities=(bob,))])


def test_a_visible_entity_without_a_box_is_refused():
    with pytest.raises(UserError, match=r"'1'.*'Bob' is visible but has no box"):
        grounding_rows([replace(POST, entities=(replace(BOB, visible=True),))])


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (replace(BOB, span=None), "no span"),
        (replace(BOB, span=(5, 7)), "no span within"),
        (replace(BOB, span=(2, 4)), "overlaps"),
    ],
)
def test_spans_that_tags_cannot_say_are_refused(entity, message):
    with pytest.raises(UserError, match=f"'1'.*'Bob'.*{message}"):
        bio_tags(replace(POST, entities=(ADA, entity)))


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
def test_the_published_data_have_the_published_rows():
    raw = read_raw(Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner", [])
    samples = to_samples(raw, {}, [])
    assert [len(entailment_rows(samples[split])) for split in ("train", "dev", "test")] == [11779, 2450, 2543]
    assert [len(grounding_rows(samples[split])) for split in ("train", "dev", "test")] == [4733, 991, 1046]
    for split, posts in raw.posts.items():
        assert [sample.tokens for sample in samples[split]] == [post.tokens for post in posts]
        tags = [tag for sample in samples[split] for tag in bio_tags(sample)]
        assert sum(tag[0] == "B" for tag in tags) == len(entailment_rows(samples[split]))
