"""What is read from an answer, and the faults that are found in it."""

import pytest

from rivegs_mllm.llm.answer_checks import check_caption, check_expression, check_knowledge, named_entities
from rivegs_mllm.llm.client import Answer
from rivegs_mllm.types import Sample

POST = Sample("p", ("RT", "@", "DrottM", ":", "Ted", "Cruz", "speaks", "in", "St.", "Paul", "#", "CruzCrew"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "Named entities: Ted Cruz (person); St. Paul (location)\nTed Cruz is a senator (R).",
            ["Ted Cruz", "St. Paul"],
        ),
        (
            "Named entities:1. DrottM (person/handle)2. Ted Cruz (person/politician)Reasoning: none",
            ["DrottM", "Ted Cruz"],
        ),
        ("Named entities:\n1. Ted Cruz (Person)\n2. St. Paul (location)\n", ["Ted Cruz", "St. Paul"]),
        ("named entities in the text:\n- Ted Cruz (person)\n- CruzCrew (group)", ["Ted Cruz", "CruzCrew"]),
        ("1. Ted Cruz (person)\n2. St. Paul (location)", ["Ted Cruz", "St. Paul"]),
        ("Named entities: none\nIt is a greeting (person).", []),
        ("Named entities: There are no named entities.", []),
        ("Named entities:1. None identified.Reasoning: It is about a good day.", []),
        ("Named entities may not be present in this sentence. It is about 1. rain (weather).", []),
        ("There is no named entity in it.", []),
        ("None.", []),
        ("Named entities: Nonesuch (group)", ["Nonesuch"]),
        ("I think this is nice (really).", None),
        ("", None),
    ],
)
def test_names_of_an_answer(text, names):
    found = named_entities(text)
    assert (found if found is None else [name for name, _ in found]) == names


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (Answer("Named entities: Ted Cruz (person)\nA senator."), []),
        (Answer("Named entities: @DrottM (handle); ted cruz (person)"), []),
        (Answer("Named entities: Barack Obama (person)"), ["names that are not in the text"]),
        (Answer("Named entities: Ted Cruz (PER)"), ["label words"]),
        (Answer("Named entities: Ted Cruz (person)\nIt is tagged B-PER I-PER."), ["label words"]),
        (Answer("Named entities: Ted Cruz (person)\nPer person, other than him, miscellaneous."), []),
        (Answer("Named entities: Ted Cruz (person)", finish_reason="length"), ["cut off"]),
        (Answer("  \n"), ["empty"]),
        (Answer("I’m sorry, I can’t help."), ["refusal", "names cannot be read"]),
        (Answer("As an AI language model I cannot"), ["refusal", "names cannot be read"]),
        (Answer("Named entities: none", finish_reason="content_filter"), ["refusal"]),
        (Answer("Named entities: none\nI cannot see who it is."), []),
        (Answer("None of this can be read."), ["names cannot be read"]),
    ],
)
def test_faults_of_knowledge(answer, faults):
    assert check_knowledge(POST, answer)[1] == faults


def test_tags_that_the_post_itself_holds_are_no_fault():
    post = Sample("p", ("ORG", "chart", "of", "Ted"))
    assert check_knowledge(post, Answer("Named entities: Ted (person)\nAn ORG chart."))[1] == []


def test_faults_of_short_answers():
    assert check_expression(POST, Answer("a senator from Texas"))[1] == []
    assert check_expression(POST, Answer(" ".join(["word"] * 40)))[1] == ["too long"]
    assert check_expression(POST, Answer("a senator\nText: more"))[1] == ["too long"]
    assert check_expression(POST, Answer("Sorry, I do not know"))[1] == ["refusal"]
    assert check_caption(POST, Answer("two men on a stage\nin front of flags"))[1] == []
