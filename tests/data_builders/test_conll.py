"""Posts and knowledge of CoNLL files, with every repair listed and every error placed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.formats.conll import Repair, read_knowledge_posts, read_posts
from data_builders.formats.tags import spans_of
from rivegs_mllm.types import Entity, UserError


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_posts_with_their_lines_types_and_spans(tmp_path):
    text = (
        "IMGID:7\nRT\tO\nAda\tB-PER\nLovelace\tI-PER\nParis\tB-LOC\nRome\tB-LOC\n\n\nIMGID:O_8\nX\tB-MISC\n:\tB-OTHER\n"
    )
    first, second = read_posts(written(tmp_path / "a.txt", text))
    assert (first.id, first.line, first.tokens) == ("7", 1, ("RT", "Ada", "Lovelace", "Paris", "Rome"))
    assert first.entities == (
        Entity("Ada Lovelace", "PER", (1, 3)),
        Entity("Paris", "LOC", (3, 4)),
        Entity("Rome", "LOC", (4, 5)),
    )
    assert (second.id, second.line) == ("O_8", 9)
    assert second.entities == (Entity("X", "OTHER", (0, 1)), Entity(":", "OTHER", (1, 2)))
    assert first.repairs == second.repairs == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n\n"])
def test_byte_order_mark_line_endings_and_tail(tmp_path, encoding, ending, tail):
    text = ("IMGID:1\na\tO\n\nIMGID:2\nb\tB-PER" + tail).replace("\n", ending)
    posts = read_posts(written(tmp_path / "a.txt", text, encoding))
    assert [(post.id, post.line, post.tokens) for post in posts] == [("1", 1, ("a",)), ("2", 4, ("b",))]


def test_orphan_tags_start_an_entity_and_are_listed(tmp_path):
    text = "IMGID:1\na\tI-PER\nb\tI-PER\nc\tI-LOC\nd\tO\ne\tI-LOC\nf\tB-ORG\ng\tI-ORG\n"
    (post,) = read_posts(written(tmp_path / "a.txt", text))
    assert [(entity.span, entity.type) for entity in post.entities] == [
        ((0, 2), "PER"),
        ((2, 3), "LOC"),
        ((4, 5), "LOC"),
        ((5, 7), "ORG"),
    ]
    assert [(repair.line, repair.kind) for repair in post.repairs] == [(n, "orphan tag") for n in (2, 4, 6)]
    assert "'c' is tagged I-LOC" in post.repairs[1].message


@given(st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BI" for t in ("PER", "LOC", "ORG"))]), max_size=12))
def test_spans_are_those_of_the_definition(tags):
    """An entity begins at a B-, or at an I- behind nothing of its type, and goes on while I- of its type follow."""
    begins = [
        tag != "O" and (tag[0] == "B" or index == 0 or tags[index - 1][2:] != tag[2:]) for index, tag in enumerate(tags)
    ]
    expected = []
    for start in (index for index, begin in enumerate(begins) if begin):
        behind = range(start + 1, len(tags))
        end = next((index for index in behind if tags[index] == "O" or begins[index]), len(tags))
        expected.append((start, end, tags[start][2:]))
    spans, _ = spans_of(tags)
    assert list(map(tuple, spans)) == expected


def test_blank_tokens_keep_their_place(tmp_path):
    text = "IMGID:1\na\tO\n\tO\nNew\u3000York\tB-LOC\nCity\tI-LOC\n\x85\tO\nb\u2028c\tO\n"
    (post,) = read_posts(written(tmp_path / "a.txt", text))
    assert post.tokens == ("a", "_", "New_York", "City", "_", "b_c")
    assert post.entities == (Entity("New_York City", "LOC", (2, 4)),)
    assert [(repair.line, repair.kind) for repair in post.repairs] == [(n, "blank token") for n in (3, 4, 6, 7)]
    assert isinstance(post.repairs[0], Repair)


def test_empty_and_very_long_posts(tmp_path):
    text = "IMGID:1\n\nIMGID:2\nIMGID:3\n" + "word\tO\n" * 499 + "Ada\tB-PER\n"
    posts = read_posts(written(tmp_path / "a.txt", text))
    assert [(post.id, post.line, len(post.tokens)) for post in posts] == [("1", 1, 0), ("2", 3, 0), ("3", 4, 500)]
    assert posts[2].entities[0].span == (499, 500)
    assert read_posts(written(tmp_path / "empty.txt", "")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IMGID:1\na\tO\nb O\n", r"a\.txt:3: 'b O' is not a token, a tab and a tag"),
        ("IMGID:1\na\tO\nb\tB-\n", r"a\.txt:3: tag 'B-'"),
        ("IMGID:1\na\tX\n", r"a\.txt:2: tag 'X'"),
        ("a\tO\n", r"a\.txt:1: .*IMGID:"),
        ("IMGID:1\na\tO\n\nb\tO\n", r"a\.txt:4: .*IMGID:"),
        ("IMGID:1\n\nIMGID:\na\tO\n", r"a\.txt:3: IMGID: without an id"),
        ("IMGID:1\x07\na\tO\n", r"a\.txt:1: the id '1\\x07' has characters"),
        ("IMGID:1\rAda\tB-PER\nBob\tB-PER\n", r"a\.txt:1: a line end of old Macs"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_posts(written(tmp_path / "a.txt", text))


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"IMGID:1\n\xff\xfe")
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 at byte 8"):
        read_posts(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"gone\.txt"):
        read_posts(tmp_path / "gone.txt")


def test_knowledge_stands_behind_its_mark(tmp_path):
    text = "Ada\tB-PER\n!\tO\n<EOS>\tX\n1.\tX\nA\tX\n\tX\nperson\tX\n\nb\tO\n<EOS>\tX\n\n"
    path = written(tmp_path / "k.txt", text.replace("\n", "\r\n"))
    assert read_knowledge_posts(path) == [(("Ada", "!"), "1. A person"), (("b",), "")]
    with pytest.raises(UserError, match=r"k\.txt:1: .*<EOS>"):
        read_knowledge_posts(written(tmp_path / "k.txt", "a\tO\n"))


def test_any_type_is_a_type(tmp_path):
    text = "IMGID:1\nAcme\tB-PRODUCT\nX1\tI-PRODUCT\nwins\tO\nGrammys\tB-MISC\n"
    (post,) = read_posts(written(tmp_path / "a.txt", text))
    assert post.entities == (Entity("Acme X1", "PRODUCT", (0, 2)), Entity("Grammys", "OTHER", (3, 4)))
    assert post.repairs == ()


def test_lines_ended_by_carriage_returns_alone(tmp_path):
    path = written(tmp_path / "a.txt", "IMGID:1\rAda\tB-PER\rsings\tO\r\rIMGID:2\rBob\tO\r")
    assert [(post.id, post.tokens) for post in read_posts(path)] == [("1", ("Ada", "sings")), ("2", ("Bob",))]


def test_columns_between_token_and_tag_are_left_out_and_told(tmp_path):
    text = "IMGID:1\nBob\tNNP\tB-NP\tB-PER\nsings\tVBZ\tB-VP\tO\n\nIMGID:2\na\tb\tO\nBonn\tB-LOC\n"
    first, second = read_posts(written(tmp_path / "a.txt", text))
    assert (first.tokens, first.entities) == (("Bob", "sings"), (Entity("Bob", "PER", (0, 1)),))
    assert [(repair.line, repair.kind) for repair in first.repairs] == [(2, "further columns")]
    assert second.tokens == ("a_b", "Bonn"), "a tab in one token is no column"
