"""Splits that are made: shares, types, what belongs together, and what is the same again."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importing_files import imported, json_file, kinds, picture

from data_builders.importing.duplicates import groups
from data_builders.importing.splitting import divide, parse_shares, split_named
from rivegs_mllm.data.jsonl import read_samples
from rivegs_mllm.types import Entity, Sample, UserError


def sample(number: int, kind: str, visible: bool) -> Sample:
    return Sample(f"{number:03}", ("Ada",), entities=(Entity("Ada", kind, (0, 1), visible=visible),))


POSTS = [sample(n, "rare" if n < 10 else "common", n % 2 == 0) for n in range(100)]
ALONE = [[n] for n in range(100)]


def test_each_type_has_its_share_everywhere():
    chosen = divide(POSTS, ALONE, (80, 10, 10), 0)
    assert Counter(chosen) == {"train": 80, "dev": 10, "test": 10}
    rare = Counter(split for split, own in zip(chosen, POSTS, strict=True) if own.entities[0].type == "rare")
    assert rare == {"train": 8, "dev": 1, "test": 1}
    seen = Counter(split for split, own in zip(chosen, POSTS, strict=True) if own.entities[0].visible)
    assert abs(seen["train"] - 40) <= 1


def test_the_order_of_the_posts_does_not_matter_and_the_seed_does():
    first = dict(zip([own.id for own in POSTS], divide(POSTS, ALONE, (80, 10, 10), 7), strict=True))
    again = dict(zip([own.id for own in POSTS[::-1]], divide(POSTS[::-1], ALONE, (80, 10, 10), 7), strict=True))
    assert first == again
    assert first != dict(zip(first, divide(POSTS, ALONE, (80, 10, 10), 8), strict=True))


@given(st.lists(st.integers(1, 12), min_size=3, max_size=20), st.integers(0, 99))
def test_groups_are_never_divided(sizes, seed):
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    own = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    chosen = divide([sample(n, "a", True) for n in range(ends[-1])], own, (8, 1, 1), seed)
    assert all(len({chosen[n] for n in group}) == 1 for group in own)


LABELS = st.tuples(st.sampled_from("abcd"), st.sampled_from([True, False, None]))


@given(st.lists(LABELS, min_size=1, max_size=120), st.integers(0, 99))
def test_every_type_visible_and_not_has_its_share_to_within_one(labels, seed):
    posts = [sample(number, kind, visible) for number, (kind, visible) in enumerate(labels)]
    chosen = divide(posts, [[number] for number in range(len(posts))], (80, 10, 10), seed)
    met = Counter(zip(labels, chosen, strict=True))
    for label, count in Counter(labels).items():
        for split, share in (("train", 0.8), ("dev", 0.1), ("test", 0.1)):
            assert abs(met[label, split] - share * count) <= 1


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=40), st.lists(st.integers(0, 9), min_size=2), st.integers(0, 99)
)
def test_posts_of_one_picture_and_posts_of_one_text_are_never_divided(pictures, texts, seed):
    """Each post has a text and a picture out of a few, so that chains of both hold many together."""
    words = [[f"word{texts[n % len(texts)]}x{place}" for place in range(6)] for n in range(len(pictures))]
    together = groups(words, pictures)
    chosen = divide([sample(n, "a", True) for n in range(len(pictures))], together, (60, 20, 20), seed)
    for own in (pictures, [" ".join(text) for text in words]):
        assert all(len({chosen[n] for n in range(len(own)) if own[n] == value}) == 1 for value in own)


def test_what_is_nearly_the_same_is_together():
    texts = [
        ["RT", "@bob:", "Ada", "Lovelace", "wins", "the", "open", "in", "Paris", "again", "!", "https://t.co/a"],
        ["Something", "else", "entirely", "happens", "in", "the", "north", "tonight"],
        ["Ada", "Lovelace", "wins", "the", "Open", "in", "Paris", "again", "!!!", "https://t.co/b"],
        ["Ada", "Lovelace", "loses", "the", "match", "in", "Rome"],
        [],
        ["!"],
        ["yet", "another", "text", "that", "nobody", "has", "written", "before"],
    ]
    pictures = [None, "a", None, None, None, None, "a"]
    assert sorted(map(sorted, groups(texts, pictures))) == [[0, 2], [1, 6], [3], [4], [5]]


def test_equal_pictures_and_texts_stay_in_one_split(tmp_path):
    rows = []
    for number in range(40):
        picture(tmp_path / f"p{number}.png", color=number // 4)
        rows.append({"id": str(number), "text": f"Ada number {number} of many", "image": f"p{number}.png"})
    imported("csv", csv_of(tmp_path, rows), tmp_path / "out", split="50/25/25", seed=3)
    homes = {}
    for split in ("train", "dev", "test"):
        for own in read_samples(tmp_path / "out" / f"{split}.jsonl"):
            homes.setdefault(int(own.id) // 4, set()).add(split)
    assert len(homes) == 10
    assert all(len(own) == 1 for own in homes.values())


def csv_of(folder, rows):
    path = folder / "posts.csv"
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("instances_val2017", "dev"), ("my-validation", "dev"), ("Test", "test"), ("posts", ""),
     ("train_test", ""), ("testimony", ""), ("trainer", "")],
)  # fmt: skip
def test_splits_by_name(name, split):
    assert split_named(name) == split


def test_files_of_splits_are_kept(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\tB-x\n")
    samples, done = imported("conll", tmp_path, tmp_path / "out", split="")
    assert {split: counts.posts for split, counts in done.report.counts.items()} == {"train": 1, "dev": 1, "test": 1}
    assert len(samples) == 3
    (tmp_path / "more.txt").write_text("more\tO\n")
    with pytest.raises(UserError, match=r"more\.txt:1: no split"):
        imported("conll", tmp_path, tmp_path / "out", split="")


def test_a_column_says_the_split(tmp_path):
    rows = [{"text": f"Ada {n}", "split": split} for n, split in enumerate(("training", "validation", "test"))]
    _, done = imported("csv", csv_of(tmp_path, rows), tmp_path / "out", split="")
    assert list(done.report.counts) == ["train", "dev", "test"]
    json_file(tmp_path / "out" / "x.json", {})
    _, done = imported("csv", csv_of(tmp_path, rows[:2]), tmp_path / "out", split="")
    assert not (tmp_path / "out" / "test.jsonl").exists()
    assert kinds(done) == []


@pytest.mark.parametrize("text", ["80", "80/10", "a/b/c", "0/0/0", "80/-10/30", "1e9/0/0"])
def test_shares_that_are_none(text):
    with pytest.raises(UserError, match="--split"):
        parse_shares(text)
