"""A post with its prediction, as it is shown."""

from __future__ import annotations

from rivegs_mllm.data.tokens import tokens_of
from rivegs_mllm.pipeline.post import Post
from rivegs_mllm.types import Entity, Prediction


def post(text, *entities):
    found = tokens_of(text)
    tokens, starts = tuple(token for token, _ in found), tuple(start for _, start in found)
    return Post(text, tokens, starts, None, Prediction("1", entities=entities))


def test_mentions_read_as_in_the_text():
    own = post(
        "神奈川沖浪裏 by  O'Neil!", Entity("神 奈 川 沖 浪 裏", "ARTWORK", (0, 6)), Entity("by O'Neil !", "X", (6, 9))
    )
    assert [row[0] for row in own.rows()] == ["神奈川沖浪裏", "by  O'Neil!"]
    assert post("x", Entity("東 京", "LOC")).rows()[0][0] == "東京"


def test_an_entity_that_is_repeated_is_one_row():
    """A model that repeats itself names a mention more often than it stands in the text: without a span, then."""
    ada, other = Entity("Ada", "PER", (0, 1)), Entity("Ada", "ORG")
    own = post("Ada met Ada", ada, ada, Entity("Ada", "PER", (2, 3)), Entity("Ada", "PER"), other, other)
    assert [row[:2] for row in own.rows()] == [("Ada", "PER"), ("Ada", "PER"), ("Ada", "ORG")]
    assert len(own.entities) == 6
