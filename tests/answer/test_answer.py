"""The answer: what is written is read back, and whatever is read does no harm."""

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rivegs_mllm.answer.format import AnswerFormat
from rivegs_mllm.answer.serialization import NO, SEGMENTS, YES, AnswerLine, in_text_order, line_start, parse, render
from rivegs_mllm.data.jsonl import read_predictions, write_records
from rivegs_mllm.types import TYPES, Box, Entity, Prediction, UserError

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

NATIVE = AnswerFormat("qwen2_5_vl", "native", 3136, 1003520, 28)
LOC = AnswerFormat("qwen2_5_vl", "loc", 3136, 1003520, 28, bins=48)
FORMATS = [
    NATIVE,
    AnswerFormat("qwen3_vl", "native", 3136, 1003520, 32),
    LOC,
    *[LOC.up_to(segment) for segment in SEGMENTS],
    dataclasses.replace(LOC, segments=("entities",)),
    dataclasses.replace(LOC, segments=("entities", "boxes")),
    dataclasses.replace(LOC, segments=("entities", "visible")),
    dataclasses.replace(NATIVE, segments=("knowledge", "entities", "visible", "boxes")),
]
SIZE = (640, 480)

# Words that look like parts of an answer, and writing that is easily broken.
TRAPS = [
    "none", "(PER)", "(", ")", "(LOC,", "2)", "entity", "entity:", "1:", "knowledge:", "visible", "yes", "no", "box",
    "<loc_1>", "<loc_1><loc_2><loc_3><loc_4>", "[1,", "2,", "3,", "4]", "\\", "\\n", "\\\\", "\\u000a",
    "¯\\_(ツ)_/¯", "<|im_end|>", "<|", "|>", '"', "'", "“", "\U0001f469\u200d\U0001f467", "🇫🇷", "é", "e\u0301",
    "שלום", "العربية", "\u202e", "\u200b", "\u200f",
    "\u200d", "\ufeff", "北京", "#", "@user", "RT", "http://t.co/x", "{", "}", "{{x}}", "\x00", "\x7f", "ﷺ", "İ", "ß",
]  # fmt: skip
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
BLANKS = [" ", "  ", "\t", "\r\n", *BREAKS]
tokens_of_a_post = st.one_of(
    st.sampled_from(TRAPS),
    st.sampled_from(["a", "b"]),
    st.text(min_size=1, max_size=8).map(lambda text: "".join(text.split())).filter(bool),
)
free_text = st.one_of(
    st.just(""),
    st.text(max_size=40),
    st.lists(st.sampled_from([*TRAPS, *BLANKS]), max_size=6).map("".join),
)
boxes = st.tuples(st.integers(0, 600), st.integers(0, 440), st.integers(40, 640), st.integers(40, 480)).map(
    lambda box: Box(box[0], box[1], min(640, box[0] + box[2]), min(480, box[1] + box[3]))
)


@st.composite
def records(draw):
    """(tokens, knowledge, entities): spans of any kind, repeated, nested and crossing ones too."""
    tokens = tuple(draw(st.lists(tokens_of_a_post, min_size=1, max_size=10)))
    entities = []
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(tokens) - 1))
        end = draw(st.integers(start + 1, min(len(tokens), start + 3)))
        regions = tuple(draw(st.lists(boxes, max_size=2)))
        entities.append(
            Entity(
                " ".join(tokens[start:end]),
                draw(st.sampled_from(TYPES)),
                (start, end),
                draw(free_text),
                bool(regions),
                boxes=regions,
            )
        )
    return tokens, draw(free_text), in_text_order(entities)


def text_of(pieces: tuple[AnswerLine, ...]) -> str:
    return "".join([piece.text for piece in pieces])


def told(entity: Entity, answer_format: AnswerFormat, size: tuple[int, int] | None) -> Entity:
    """What is left of an entity when only the format's segments are told, its boxes left aside."""
    decides = "visible" in answer_format.segments or ("boxes" in answer_format.segments and size is not None)
    expression = entity.expression if "expressions" in answer_format.segments else ""
    return Entity(entity.text, entity.type, entity.span, expression, entity.visible if decides else None)


def assert_boxes_within_rounding(read: Entity, given: Entity, answer_format: AnswerFormat) -> None:
    dx, dy = (1e-6 + half_a_step for half_a_step in answer_format.rounding(SIZE))
    assert len(read.boxes) == len(given.boxes)
    for back, box in zip(read.boxes, given.boxes, strict=True):
        assert max(abs(back.xmin - box.xmin), abs(back.xmax - box.xmax)) <= dx
        assert max(abs(back.ymin - box.ymin), abs(back.ymax - box.ymax)) <= dy


# --- written and read back


@settings(max_examples=300)
@given(records(), st.sampled_from(FORMATS))
def test_what_is_rendered_is_parsed(record, answer_format):
    tokens, knowledge, entities = record
    pieces = render(tokens, knowledge, entities, answer_format, SIZE)
    answer = parse("7", text_of(pieces), tokens, answer_format, SIZE)
    assert answer.id == "7"
    assert answer.raw == text_of(pieces)
    assert answer.errors == ()
    assert answer.knowledge == (knowledge if "knowledge" in answer_format.segments else "")
    if "entities" not in answer_format.segments:
        return
    assert [dataclasses.replace(entity, boxes=()) for entity in answer.entities] == [
        told(entity, answer_format, SIZE) for entity in entities
    ]
    for read, given_ in zip(answer.entities, entities, strict=True):
        if "boxes" in answer_format.segments:
            assert_boxes_within_rounding(read, given_, answer_format)
        else:
            assert read.boxes == ()


@given(records(), st.sampled_from(FORMATS))
def test_pieces_are_lines_and_a_beginning_of_the_segments_is_a_beginning_of_the_pieces(record, answer_format):
    pieces = render(*record, answer_format, SIZE)
    assert all(piece.text.endswith("\n") and piece.text.splitlines() == [piece.text[:-1]] for piece in pieces)
    assert all("<|" not in piece.text for piece in pieces)
    order = [SEGMENTS.index(piece.segment) for piece in pieces]
    assert order == sorted(order)
    for segment in answer_format.segments:
        first = render(*record, answer_format.up_to(segment), SIZE)
        assert first == pieces[: len(first)]
        assert all(SEGMENTS.index(piece.segment) > SEGMENTS.index(segment) for piece in pieces[len(first) :])


@given(records())
def test_without_a_picture_no_box_is_written_and_none_is_missed(record):
    tokens, knowledge, entities = record
    answer = parse("1", text_of(render(*record, LOC, None)), tokens, LOC, None)
    assert answer == Prediction("1", knowledge, tuple(told(entity, LOC, None) for entity in entities), raw=answer.raw)


@given(records(), st.randoms())
def test_the_order_of_the_lines_does_not_matter(record, random):
    tokens, _, _ = record
    lines = [piece.text for piece in render(*record, LOC, SIZE)]
    straight = parse("1", "".join(lines), tokens, LOC, SIZE)
    random.shuffle(lines)
    shuffled = parse("1", "".join(lines), tokens, LOC, SIZE)
    assert dataclasses.replace(shuffled, raw=straight.raw) == straight


@given(records(), st.data())
def test_an_answer_cut_off_keeps_what_was_whole(record, data):
    tokens, _, _ = record
    pieces = render(*record, LOC, SIZE)
    text = text_of(pieces)
    cut = data.draw(st.integers(0, len(text)))
    answer = parse("1", text[:cut], tokens, LOC, SIZE)
    assert answer.raw == text[:cut]
    assert bool(answer.errors) == (cut < len(text))
    assert text[:cut].endswith("\n") or not cut or answer.errors[0].startswith("the last line is truncated")
    whole = sum(line.startswith("entity ") for line in text[:cut].split("\n")[:-1])
    full = parse("1", text, tokens, LOC, SIZE)
    assert len(answer.entities) >= whole
    for read, given_ in zip(answer.entities[:whole], full.entities, strict=False):
        assert (read.text, read.type, read.span) == (given_.text, given_.type, given_.span)


def test_the_whole_format_in_one_example():
    tokens = ["Kevin", "Durant", "beat", "the", "Rockets", "in", "Paris", ",", "not", "Paris", "TX"]
    entities = (
        Entity("Rockets", "ORG", (4, 5), "a red logo\nwith an R", False),
        Entity("Kevin Durant", "PER", (0, 2), "a tall man", True, boxes=(Box(64, 48, 320, 480), Box(0, 0, 640, 480))),
        Entity("Paris", "LOC", (9, 10), " ", False),
    )
    answer_format = dataclasses.replace(LOC, bins=100)
    pieces = render(tokens, "He plays \\o/", entities, answer_format, SIZE)
    assert text_of(pieces) == (
        "knowledge: He plays \\\\o/\n"
        "entity 1: Kevin Durant (PER)\n"
        "entity 2: Rockets (ORG)\n"
        "entity 3: Paris (LOC, 2)\n"
        "expression 1: a tall man\n"
        "expression 2: a red logo\\nwith an R\n"
        "expression 3:  \n"
        "visible 1: yes\n"
        "visible 2: no\n"
        "visible 3: no\n"
        "box 1: <loc_10><loc_10><loc_50><loc_100> <loc_0><loc_0><loc_100><loc_100>\n"
    )
    assert parse("1", text_of(pieces), tokens, answer_format, SIZE) == Prediction(
        "1", "He plays \\o/", in_text_order(entities), raw=text_of(pieces)
    )
    assert [piece.segment for piece in pieces] == (
        ["knowledge"] + ["entities"] * 3 + ["expressions"] * 3 + ["visible"] * 3 + ["boxes"]
    )
    assert text_of(render(tokens, "", (), answer_format, SIZE)) == "knowledge:\nentity: none\n"


def test_what_breaks_lines_stays_on_its_line():
    assert all(len(f"x{character}x".splitlines()) == 2 for character in BREAKS)
    answer_format = LOC.up_to("knowledge")
    knowledge = "x".join(["", *BREAKS, ""])
    (piece,) = render((), knowledge, (), answer_format, None)
    assert piece.text.splitlines() == [piece.text[:-1]]
    assert parse("1", piece.text, (), answer_format, None).knowledge == knowledge


def test_lines_begin_as_line_start_says():
    record = (("x",), "k", (Entity("x", "PER", (0, 1), "e", True, boxes=(Box(0, 0, 640, 480),)),))
    for piece, number in zip(render(*record, LOC, SIZE), (None, 1, 1, 1, 1), strict=True):
        assert piece.text.startswith(line_start(piece.segment, number) + " ")
    assert line_start("visible", 3) == "visible 3:"
    assert (line_start("visible", 1) + YES, line_start("visible", 1) + NO) == ("visible 1: yes", "visible 1: no")


# --- where an entity is


@pytest.mark.parametrize(
    ("spans", "lines"),
    [
        ([(0, 1), (2, 3), (3, 4)], ["a (PER)", "a (PER)", "a (PER)"]),
        ([(2, 3), (3, 4)], ["a (PER, 2)", "a (PER)"]),
        ([(0, 1), (0, 1)], ["a (PER)", "a (PER, 1)"]),
        ([(0, 3), (0, 1)], ["a (PER)", "a b a (PER)"]),
        ([(0, 3), (1, 2), (2, 3)], ["a b a (PER)", "b (PER)", "a (PER)"]),
        ([(0, 3), (2, 4)], ["a b a (PER)", "a a (PER)"]),
    ],
)
def test_only_an_occurrence_that_is_not_expected_is_named(spans, lines):
    tokens = ("a", "b", "a", "a")
    entities = [Entity(" ".join(tokens[slice(*span)]), "PER", span) for span in spans]
    answer_format = dataclasses.replace(LOC, segments=("entities",))
    text = text_of(render(tokens, "", entities, answer_format, SIZE))
    assert text.splitlines() == [f"entity {number}: {line}" for number, line in enumerate(lines, 1)]
    assert [entity.span for entity in parse("1", text, tokens, answer_format, SIZE).entities] == sorted(spans)


def test_an_entity_without_span_comes_last_and_is_found_where_it_can_be():
    tokens = ("x", "y", "x")
    entities = (Entity("z", "PER"), Entity("x", "PER"), Entity("y", "LOC", (1, 2)))
    answer_format = dataclasses.replace(LOC, segments=("entities",))
    text = text_of(render(tokens, "", entities, answer_format, SIZE))
    assert text == "entity 1: y (LOC)\nentity 2: z (PER)\nentity 3: x (PER)\n"
    answer = parse("1", text, tokens, answer_format, SIZE)
    assert [entity.span for entity in answer.entities] == [(1, 2), None, (2, 3)]
    assert answer.errors == ("entity 2: 'z' is not in the post",)


# --- what an answer cannot say


@pytest.mark.parametrize(
    ("entity", "answer_format", "message"),
    [
        (Entity("x", "MISC", (0, 1), visible=False), LOC, "type 'MISC' is not one of PER, LOC, ORG, OTHER"),
        (Entity("x", "PER", (1, 2), visible=False), LOC, r"'x': the tokens of its span \[1, 2\] are 'y'"),
        (Entity("", "PER", visible=False), LOC, "has no mention"),
        (Entity("x", "PER", (0, 1)), LOC, "whether it is visible is not known"),
        (Entity("x", "PER", (0, 1), visible=False, boxes=(Box(0, 0, 9, 9),)), LOC, "boxes, but is not visible"),
        (
            Entity("x", "PER", (0, 1), visible=True),
            dataclasses.replace(LOC, segments=("entities", "boxes")),
            "visible without a box",
        ),
        (Entity("x", "PER", (0, 1), visible=True, boxes=(Box(700, 0, 800, 9),)), LOC, "covers nothing"),
    ],
)
def test_what_cannot_be_written_is_refused(entity, answer_format, message):
    with pytest.raises(UserError, match=message):
        render(("x", "y"), "", (entity,), answer_format, SIZE)


def test_what_is_not_asked_for_is_not_looked_at():
    draft = (Entity("x", "PER", (0, 1)),)
    assert text_of(render(("x",), "", draft, LOC.up_to("entities"), SIZE)) == "knowledge:\nentity 1: x (PER)\n"
    assert text_of(render(("x",), "", draft, LOC, None)).splitlines()[-1] == "visible 1: no"


# --- any text at all

CONTENTS = [
    "yes", "no", "maybe", "a (PER)", "a (PER, 2)", " (PER)", "a (", "a (, 1)", f"a (X, {'9' * 5000})", "\\ud800",
    "<loc_1><loc_2><loc_3><loc_4>", "[1, 2, 3, 4]", "[5, 5, 1, 1], [0", "<loc_99999>" * 4,
]  # fmt: skip
labels = st.sampled_from(["knowledge", "entity", "expression", "visible", "box", "mask"])
numbers = st.sampled_from(["", " 0", " 1", " 2", " -1", " " + "9" * 5000, " ٣"])
look_alikes = st.builds("{}{}: {}".format, labels, numbers, st.sampled_from(CONTENTS) | free_text)
whole_lines = st.sampled_from(
    ["entity: none", "entity 1: a (PER)", "entity 2: a (LOC, 9)", "visible 1: yes", "box 2:", ""]
)
look_alike_lines = st.lists(whole_lines | look_alikes, max_size=8).map("\n".join)


@settings(max_examples=400)
@given(st.one_of(st.text(), look_alike_lines), st.sampled_from(FORMATS), st.sampled_from([SIZE, None, (1, 1)]))
@example(f"entity 1: a (PER, {'9' * 5000})\n", LOC, SIZE)
@example("\ud800 entity 1: \udfff (PER)", LOC, SIZE)
def test_parse_takes_any_text(text, answer_format, size):
    answer = parse("1", text, ("a", "b", "a"), answer_format, size)
    assert answer.raw == text
    for entity in answer.entities:
        assert entity.text
        assert entity.visible is not False or entity.boxes == ()
        assert all(0 <= box.xmin < box.xmax <= size[0] and 0 <= box.ymin < box.ymax <= size[1] for box in entity.boxes)
        assert entity.span is None or " ".join(("a", "b", "a")[slice(*entity.span)]) == entity.text


@given(look_alike_lines)
@example("knowledge: \\ud800\nentity 1: \\udfff (PER)\nvisible 1: no\n")
def test_what_is_parsed_can_be_stored(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("answers") / "predictions.jsonl"
    answer = parse("1", text, ("a", "b", "a"), LOC, SIZE)
    write_records(path, [answer])
    assert read_predictions(path) == [answer]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hello\nentity: none\n", "not a line of an answer: 'hello'"),
        ("entity: none\nvisible 1: no\n", "'visible 1:' belongs to no entity"),
        ("", "no entity line"),
        ("entity: none\nentity 1: a (PER)\nvisible 1: no\n", "'entity: none' beside entities"),
        ("entity 1: a (DOG)\nvisible 1: no\n", "entity 1: unknown type 'DOG'"),
        ("entity 1: q (PER)\nvisible 1: no\n", "entity 1: 'q' is not in the post"),
        ("entity 1: a (PER, 3)\nvisible 1: no\n", "entity 1: 'a' has no occurrence 3 in the post"),
        (
            "entity 1: b (PER)\nentity 2: b (PER)\nvisible 1: no\nvisible 2: no\n",
            "every 'b' of the post has",
        ),
        ("entity 1: a\n", "entity 1: not 'mention (type)'"),
        ("entity 1: a (PER)\nentity 1: b (PER)\nvisible 1: no\n", "comes twice: 'entity 1: b (PER)'"),
        ("entity 1: a (PER)\n", "entity 1: no visible line"),
        ("entity 1: a (PER)\nvisible 1: perhaps\n", "visible is 'perhaps', neither yes nor no"),
        ("entity 1: a (PER)\nvisible 1: yes\n", "entity 1: visible without a box"),
        ("entity 1: a (PER)\nvisible 1: no\nbox 1: <loc_1><loc_2><loc_3><loc_4>\n", "its 1 boxes are left out"),
        ("entity 1: a (PER)\nvisible 1: yes\nbox 1: <loc_1><loc_2>\n", "entity 1: not a box: '<loc_1><loc_2>'"),
        ("entity 1: a (PER)\nvisible 1: yes\nbox 1: <loc_3><loc_2><loc_1><loc_4>\n", "has no area"),
        ("entity 1: a (PER)\nvisible 1: no\nexpression 1: x\n", "the answer format has no segment 'expressions'"),
        ("entity 1: a (PER)\nvisible 1: no", "the last line is truncated: 'visible 1: no'"),
    ],
)
def test_what_cannot_be_read_is_said(text, error):
    answer_format = dataclasses.replace(LOC, segments=("entities", "visible", "boxes"))
    answer = parse("1", text, ("a", "b", "a"), answer_format, SIZE)
    assert any(error in message for message in answer.errors), answer.errors


def test_what_is_wrong_is_kept_where_it_can_be():
    text = "entity 1: q (DOG)\nvisible 1: yes\nbox 1: <loc_0><loc_0><loc_48><loc_48> <loc_1>\n"
    answer_format = dataclasses.replace(LOC, segments=("entities", "visible", "boxes"))
    (entity,) = parse("1", text, ("a",), answer_format, SIZE).entities
    assert entity == Entity("q", "DOG", visible=True, boxes=(Box(0, 0, *SIZE),))


# --- real posts


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="RIVEGS_DATA is not set")
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_spans_of_real_posts_come_back(split):
    (path,) = (Path(os.environ["RIVEGS_DATA"]) / "twitter_gmner").glob(f"*v2.0/**/{split}.txt")
    answer_format = dataclasses.replace(LOC, segments=("entities",), types=("PER", "LOC", "ORG", "OTHER", "MISC"))
    named, entities = 0, 0
    for tokens, gold in posts(path):
        text = text_of(render(tokens, "", gold, answer_format, None))
        answer = parse("1", text, tokens, answer_format, None)
        assert answer.entities == gold
        assert not answer.errors
        entities += len(gold)
        named += text.count(", 2)")
    assert entities > 2000
    assert named < entities / 50  # almost every entity is where it is expected


def posts(path: Path):
    """(tokens, entities) of each post of a BIO file."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.split("\n") if "\t" in line]
        tokens, tags = [row[0] for row in rows], [row[1] for row in rows]
        starts = [at for at, tag in enumerate(tags) if tag.startswith("B-")]
        spans = [(at, next((i for i in range(at + 1, len(tags)) if tags[i][0] != "I"), len(tags))) for at in starts]
        yield tokens, tuple(Entity(" ".join(tokens[at:end]), tags[at][2:], (at, end)) for at, end in spans)
