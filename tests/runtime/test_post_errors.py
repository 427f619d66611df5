"""What goes wrong with one post: kept as its own, counted, and told apart from what is wrong with the run."""

import pytest

from rivegs_mllm.runtime.post_errors import (
    MIN_FAILED_POSTS,
    check_some_answered,
    each_by_itself,
    is_incomplete,
    kinds_of,
    nothing_read,
    summary,
    with_error,
)
from rivegs_mllm.types import Entity, Prediction, UserError


def with_errors(*errors: str, post: str = "a") -> Prediction:
    return Prediction(post, errors=errors)


def failed(post: str, note: str) -> Prediction:
    return Prediction(post, errors=(note,))


def test_only_what_fails_alone_is_that_post_s_error():
    """The batch of three fails, and of the posts only ``b`` does."""
    calls = []

    def work(posts):
        calls.append(posts)
        if "b" in posts:
            raise MemoryError("no room\n\x1b[31mleft")
        return [Prediction(post) for post in posts]

    answers = each_by_itself(work, ["a", "b", "c"], failed)
    assert answers[::2] == [Prediction("a"), Prediction("c")]
    assert answers[1].errors[0].startswith("not answered: MemoryError no room")
    assert "\n" not in answers[1].errors[0]
    assert "\x1b" not in answers[1].errors[0]
    assert calls == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert each_by_itself(work, ["a", "c"], failed) == [Prediction("a"), Prediction("c")]
    assert len(calls) == 5


@pytest.mark.parametrize("error", [UserError("the recipe"), KeyboardInterrupt(), SystemExit(1)])
def test_what_is_about_the_run_ends_it(error):
    def work(_):
        raise error

    with pytest.raises(type(error)):
        each_by_itself(work, ["a", "b"], failed)


def test_a_run_in_which_nothing_can_be_answered_ends_early():
    broken = [with_errors("not answered: gone", post=str(number)) for number in range(MIN_FAILED_POSTS)]
    check_some_answered(broken[:-1], 100)
    with pytest.raises(
        UserError, match=f"none of the first {MIN_FAILED_POSTS} posts could be answered; the last one: .*gone"
    ):
        check_some_answered(broken, 100)
    with pytest.raises(UserError, match="first 2 posts"):
        check_some_answered(broken[:2], 2)
    check_some_answered([with_errors("truncated: read 2 of 9 words"), *broken], 100)
    check_some_answered([], 0)


@pytest.mark.parametrize(
    ("errors", "kinds", "hindered"),
    [
        ((), set(), False),
        (("not a line of an answer: 'cut: no'",), {"other"}, False),
        (("no picture: x.jpg: no such picture",), {"no picture"}, True),
        (
            ("tagger (gold): not answered: RuntimeError: x", "cut: read 2 of 3 words"),
            {"not answered", "truncated"},
            True,
        ),
    ],
)
def test_kinds(errors, kinds, hindered):
    assert kinds_of(with_errors(*errors)) == kinds
    assert is_incomplete(with_errors(*errors)) == hindered


def test_the_summary_counts_kinds_and_lists_the_first_that_were_hindered():
    assert summary([with_errors()]) == ["1 post, none with errors"]
    posts = [with_errors("no picture: p.jpg", "odd line", post=f"p{number}") for number in range(7)]
    assert summary([with_errors(), *posts, with_errors("odd line")]) == [
        "9 posts, 8 with errors: 7 no picture, 8 other",
        *(f"  p{number}: no picture: p.jpg" for number in range(5)),
        "  and 2 more, in their `errors`",
    ]


def test_an_error_is_added_behind_those_that_are_there():
    assert with_error(with_errors("a"), "b") == with_errors("a", "b")


def test_where_no_answer_can_be_read_it_is_said_what_to_look_at():
    def answer(raw: str, *errors: str, entities=()) -> Prediction:
        return Prediction("1", entities=entities, raw=raw, errors=errors)

    unread = answer("I see a dog.", "no knowledge line")
    (*_, last) = summary([unread, unread])
    assert last.startswith("not one of 2 answers could be read; the first is 'I see a dog.' (no knowledge line).")
    assert "rivegs preview" in last
    read = answer("entity 1: Ada (PER)", "line 2: odd", entities=(Entity("Ada", "PER"),))
    assert not nothing_read([unread, read])
    assert not nothing_read([answer("knowledge:")])  # there is nothing to say of that post
    assert not nothing_read([answer("", "not answered: gone")])
