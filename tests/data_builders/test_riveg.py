"""RiVEG's knowledge and caption files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_builders.formats.conll import read_posts
from data_builders.formats.riveg_text import add_knowledge, read_captions, read_knowledge
from rivegs_mllm.types import Sample, UserError

KNOWLEDGE = """\
Ada\tB-PER
!\tO
<EOS>\tX
A\tX
poet.\tX

hi\tO
<EOS>\tX
First.\tX

hi\tO
<EOS>\tX
Second.\tX

bare\tO
<EOS>\tX

"""
ADA, FIRST, SECOND = Sample("1", ("Ada", "!")), Sample("2", ("hi",)), Sample("3", ("hi",))


@pytest.fixture
def knowledge(tmp_path) -> Path:
    path = tmp_path / "train.txt"
    path.write_text("\ufeff" + KNOWLEDGE, encoding="utf-8")
    return path


def test_knowledge_is_found_by_the_words_of_the_post(knowledge):
    samples = [FIRST, Sample("4", ("bare",)), Sample("5", ("other",)), SECOND, ADA]
    assert read_knowledge(knowledge, samples) == {"2": "First.", "4": "", "3": "Second.", "1": "A poet."}


def test_a_part_of_the_posts_can_be_asked_for(knowledge):
    assert read_knowledge(knowledge, [ADA]) == {"1": "A poet."}


def test_a_split_gets_its_knowledge_and_what_fits_not_is_found(knowledge):
    samples = {"train": [ADA, FIRST, Sample("9", ("other",)), Sample("4", ("bare",))]}
    findings = []
    add_knowledge(samples, knowledge.parent, findings)
    assert [sample.knowledge for sample in samples["train"]] == [("A poet.",), ("First.",), (), ()]
    assert [(f.level, f.kind, f.place) for f in findings] == [
        ("warning", "knowledge of other words", f"{knowledge}: post 3")
    ]
    samples, findings = {"train": [ADA]}, []
    add_knowledge(samples, knowledge.parent, findings)
    assert samples == {"train": [ADA]}
    assert [(f.level, f.message) for f in findings] == [("error", "4 posts, but the split has 1")]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_captions_over_several_lines(tmp_path, ending, mark):
    text = "imgid:7###A man.\n\nO_1.jpg :is written on his hat. ### so\nimgid:O_8### \nimgid:17_06_9###Last."
    path = tmp_path / "owl.txt"
    path.write_bytes((mark + text + "\n").replace("\n", ending).encode())
    assert read_captions(path) == {
        "7": "A man.\n\nO_1.jpg :is written on his hat. ### so",
        "O_8": "",
        "17_06_9": "Last.",
    }


def test_captions_on_a_line_each(tmp_path):
    path = tmp_path / "blip.txt"
    path.write_text("\ufeff713.jpg :white sox : quotes\nO_59.jpg :\n", encoding="utf-8")
    assert read_captions(path) == {"713": "white sox : quotes", "O_59": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("713 a caption\n", ":1: '713 a caption' is neither"),
        ("", ":1: '' is neither"),
        ("1.jpg :a\n2.jpg :b\n1.jpg :c\n", ":3: a second caption of 1"),
    ],
)
def test_captions_of_no_form_are_refused(tmp_path, text, message):
    path = tmp_path / "captions.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=f"captions.txt{message}"):
        read_captions(path)


def test_captions_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: cannot be read"):
        read_captions(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"1.jpg :caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8 at byte 10"):
        read_captions(tmp_path / "latin.txt")


DATA = Path(os.environ.get("RIVEGS_DATA", "")) / "twitter_gmner"


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
@pytest.mark.parametrize(("split", "count"), [("train", 7000), ("dev", 1500), ("test", 1500)])
def test_published_knowledge_and_captions(split, count):
    posts = read_posts(DATA / "Twitter10000_v2.0" / "txt" / f"{split}.txt")
    texts = read_knowledge(DATA / "chatgpt_knowledge" / f"{split}.txt", [Sample(p.id, p.tokens) for p in posts])
    assert len(texts) == count
    assert all(text and "<EOS>" not in text for text in texts.values())
    # The published files lack the caption of one post each.
    captions = read_captions(DATA / "captions" / f"mplug_owl_{split}.txt")
    assert len(captions) == count - 1
    assert captions.keys() < {post.id for post in posts}
    assert all(text and "###" not in text for text in captions.values())


@pytest.mark.skipif("RIVEGS_DATA" not in os.environ, reason="needs RIVEGS_DATA")
@pytest.mark.parametrize(("name", "count", "empty"), [("15", 8288, 2), ("17", 4819, 0)])
def test_published_short_captions(name, count, empty):
    captions = read_captions(DATA / "captions" / f"blip2_twitter{name}.txt")
    assert len(captions) == count
    assert sum(not text for text in captions.values()) == empty
