"""The Emblems builder: statistics, gold against pictures, determinism, bad input."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import orjson
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from data_builders.emblems import build
from data_builders.emblems.build import build_emblems, plan_posts
from data_builders.emblems.encyclopedia import make_encyclopedia
from data_builders.emblems.language import MANNERS, invent_names, write_post
from data_builders.emblems.looks import parse_expression
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.types import TYPES, UserError

COUNTS = {"train": 60, "dev": 10, "test": 30}


@pytest.fixture(scope="module")
def entries():
    return make_encyclopedia(Random(0), 48, 24)


@pytest.fixture(scope="module")
def plans(entries):
    return [plan for _, _, plan in plan_posts(3, "train", 3000, entries)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("emblems")
    counts = build_emblems(out, seed=7, **COUNTS)
    return out, counts


def encyclopedia(out):
    lines = (out / "encyclopedia.jsonl").read_bytes().splitlines()
    return {entry["name"].lower(): entry for entry in map(orjson.loads, lines)}


def test_statistics_are_those_of_twitter_gmner(plans):
    mentions = [mention for plan in plans for mention in plan.mentions]
    visible = [mention for mention in mentions if mention.shown]
    types = Counter(mention.entry.type for mention in mentions)
    assert len(mentions) / len(plans) == pytest.approx(1.7, abs=0.06)
    assert np.mean([not plan.mentions for plan in plans]) == pytest.approx(0.04, abs=0.012)
    assert len(visible) / len(mentions) == pytest.approx(0.40, abs=0.025)
    assert np.mean([mention.shown > 1 for mention in visible]) == pytest.approx(0.09, abs=0.02)
    for kind, share in {"PER": 0.43, "ORG": 0.26, "LOC": 0.16, "OTHER": 0.15}.items():
        assert types[kind] / len(mentions) == pytest.approx(share, abs=0.03)


def test_visibility_does_not_depend_on_type_or_case(plans):
    mentions = [(mention, plan.tokens[mention.span[0]]) for plan in plans for mention in plan.mentions]
    groups = {kind: [m.shown > 0 for m, _ in mentions if m.entry.type == kind] for kind in TYPES}
    groups["lower"] = [m.shown > 0 for m, token in mentions if token.islower()]
    for shown in groups.values():
        assert np.mean(shown) == pytest.approx(0.40, abs=0.07)


def test_distractors_are_never_looks_of_the_post_and_often_take_after_the_invisible(plans):
    near = total = 0
    for plan in plans:
        taken = {mention.entry.look for mention in plan.mentions}
        assert 1 <= len(plan.distractors) <= 3
        assert not taken & set(plan.distractors)
        assert sum(mention.shown for mention in plan.mentions) + len(plan.distractors) <= 5
        invisible = {mention.entry.type for mention in plan.mentions if not mention.shown}
        if invisible:
            near += sum(look.type in invisible for look in plan.distractors)
            total += len(plan.distractors)
    assert near / total > 0.7


def test_posts_vary_and_read_like_tweets(plans, entries):
    texts = [" ".join(plan.tokens) for plan in plans]
    for sign in ("RT @ ", "# ", "http://t.co/", " 's ", "🔥", "lol"):
        assert 10 < sum(sign in text for text in texts) < len(texts) / 2, sign
    names = sorted((entry.name for entry in entries), key=len, reverse=True)
    any_name = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    shapes = {re.sub(r"http\S+", "L", any_name.sub("N", text)).lower() for text in texts}
    assert len(shapes) > 1000


def test_mentions_are_the_only_places_where_names_stand(plans, entries):
    words = {word.lower() for entry in entries for word in entry.name.split()}
    for plan in plans:
        inside = {index for mention in plan.mentions for index in range(*mention.span)}
        outside = [token.lower() for index, token in enumerate(plan.tokens) if index not in inside]
        assert not words.intersection(outside)
        for mention in plan.mentions:
            assert " ".join(plan.tokens[slice(*mention.span)]).lower() == mention.entry.name.lower()


def test_a_post_can_be_written_for_any_types():
    rng = Random(1)
    for kinds in [(), *[(kind,) * count for kind in TYPES for count in range(1, 5)], TYPES]:
        names = invent_names(rng, kinds)
        for _ in range(20):
            post = write_post(rng, list(zip(names, kinds, strict=True)))
            said = [" ".join(post.tokens[slice(*span)]).lower() for span in post.spans]
            assert said == [name.lower() for name in names]


def test_names_are_apart_and_so_are_their_looks(entries):
    words = [word for entry in entries for word in entry.name.split()]
    assert len(set(words)) == len(words)
    assert any(" " in entry.name for entry in entries)
    for kind in TYPES:
        looks = [entry.look for entry in entries if entry.type == kind]
        least = min(one.distance(other) for one, other in combinations(looks, 2))
        assert least >= (1 if kind == "OTHER" else 2)


def test_knowledge_says_the_kind_of_thing_and_not_the_look(entries):
    for entry in entries:
        assert len(set(entry.knowledge)) == len(MANNERS)
        for text in entry.knowledge:
            assert entry.name in text
            assert len(text.split()) <= 12
            assert not {"hair", "shirt", "flag", "logo", "stripes", "glasses"} & set(re.findall("[a-z]+", text))


def test_the_reader_takes_the_files_and_the_counts_agree(built):
    out, counts = built
    for split, number in COUNTS.items():
        samples = read_split(out, split)
        entities = [entity for sample in samples for entity in sample.entities]
        assert counts[split] == {
            "posts": number,
            "without entity": sum(not sample.entities for sample in samples),
            "entities": len(entities),
            "visible": sum(entity.visible for entity in entities),
            "several boxes": sum(len(entity.boxes) > 1 for entity in entities),
            "boxes": sum(len(entity.boxes) for entity in entities),
            "rotated": counts[split]["rotated"],
        }
        assert all(len(sample.knowledge) == len(MANNERS) for sample in samples)
    assert len(list((out / "images").iterdir())) == sum(COUNTS.values())
    info = read_info(out)
    assert (tuple(info.types), info.format, info.posts) == (TYPES, "emblems", COUNTS)
    assert info.entities == {split: own["entities"] for split, own in counts.items()}


def test_expressions_come_from_the_encyclopedia_visible_or_not(built):
    out, _ = built
    known = encyclopedia(out)
    for split in COUNTS:
        for sample in read_split(out, split):
            for entity in sample.entities:
                entry = known[entity.text.lower()]
                assert (entity.type, entity.expression) == (entry["type"], entry["expression"])
                assert parse_expression(entity.expression).type == entity.type
                assert bool(entity.boxes) is entity.visible


def test_unseen_names_are_in_unseen_posts_of_test_only(built):
    out, _ = built
    seen = {name: entry["seen"] for name, entry in encyclopedia(out).items()}
    for split in COUNTS:
        for sample in read_split(out, split):
            assert sample.subset in ({"seen", "unseen"} if split == "test" else {""})
            assert all(seen[entity.text.lower()] is (sample.subset != "unseen") for entity in sample.entities)
    subsets = Counter(sample.subset for sample in read_split(out, "test"))
    assert subsets["seen"] == subsets["unseen"] == 15


def test_gold_lies_in_the_upright_picture_and_masks_agree_with_boxes(built):
    out, _ = built
    boxes = 0
    for sample in (sample for split in COUNTS for sample in read_split(out, split)):
        with Image.open(out / sample.image) as stored:
            picture = ImageOps.exif_transpose(stored)
        assert picture.size == sample.size
        for entity in sample.entities:
            for box, mask in zip(entity.boxes, entity.masks, strict=True):
                pixels = coco_mask.decode({"size": list(mask.size), "counts": mask.counts}).astype(bool)
                rows, columns = np.nonzero(pixels)
                assert mask.size == (picture.height, picture.width)
                assert (box.xmin, box.ymin) == (columns.min(), rows.min())
                assert (box.xmax, box.ymax) == (columns.max() + 1, rows.max() + 1)
                boxes += 1
    assert boxes > 40


def test_the_picture_shows_the_looks_of_the_visible_and_no_others(entries):
    shown = 0
    for index, (rng, subset, plan) in enumerate(plan_posts(5, "dev", 60, entries)):
        scene, sample = build.draw_post(rng, f"dev-{index}", subset, plan)
        placed = {}
        for placement in scene.placements:
            placed.setdefault(placement.look, []).append(placement.box)
        for entity in sample.entities:
            boxes = placed.get(parse_expression(entity.expression), [])
            assert list(entity.boxes) == boxes
            shown += len(boxes)
    assert shown > 20


def test_rotated_pictures_open_upright(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROTATED", 1.0)
    build_emblems(tmp_path / "turned", seed=2, train=12, dev=0, test=0)
    monkeypatch.setattr(build, "ROTATED", 0.0)
    build_emblems(tmp_path / "upright", seed=2, train=12, dev=0, test=0)
    orientations = set()
    for sample in read_split(tmp_path / "turned", "train"):
        with Image.open(tmp_path / "turned" / sample.image) as stored:
            orientations.add(stored.getexif()[0x0112])
            turned = np.asarray(ImageOps.exif_transpose(stored), int)
        with Image.open(tmp_path / "upright" / sample.image) as stored:
            upright = np.asarray(stored, int)
        assert turned.shape == upright.shape == (sample.size[1], sample.size[0], 3)
        off, off_upside_down = (np.abs(turned - other).mean() for other in (upright, upright[::-1, ::-1]))
        assert off < 8 < off_upside_down  # JPEG's own loss depends on the direction
    assert orientations == {3, 6, 8}


def test_a_few_pictures_are_rotated(tmp_path):
    counts = build_emblems(tmp_path, seed=0, train=400, dev=0, test=0)
    assert 3 <= counts["train"]["rotated"] <= 25


def digest(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_files_in_any_process(tmp_path):
    code = "import sys; from pathlib import Path; from data_builders.emblems.build import build_emblems as b;"
    code += "b(Path(sys.argv[1]), seed=4, train=15, dev=3, test=6)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / hash_seed)], check=True, env=environment)
    first, second = digest(tmp_path / "1"), digest(tmp_path / "2")
    assert first == second
    assert len(first) == 24 + 6
    build_emblems(tmp_path / "other", seed=5, train=15, dev=3, test=6)
    assert digest(tmp_path / "other")["train.jsonl"] != first["train.jsonl"]


def test_a_post_does_not_depend_on_how_many_there_are(tmp_path):
    build_emblems(tmp_path / "few", seed=1, train=3, dev=0, test=0)
    build_emblems(tmp_path / "more", seed=1, train=6, dev=0, test=0)
    few, more = digest(tmp_path / "few"), digest(tmp_path / "more")
    pictures = [path for path in few if path.startswith("images")]
    assert len(pictures) == 3
    assert all(few[path] == more[path] for path in pictures)


def test_an_earlier_build_is_replaced_whole(tmp_path):
    build_emblems(tmp_path / "a", seed=1, train=6, dev=1, test=2)
    build_emblems(tmp_path / "a", seed=2, train=3, dev=1, test=2)
    build_emblems(tmp_path / "b", seed=2, train=3, dev=1, test=2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_build_that_stops_leaves_no_split(tmp_path, monkeypatch):
    build_emblems(tmp_path, seed=1, train=2, dev=1, test=2)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(build, "_store", full)
    with pytest.raises(OSError, match="space"):
        build_emblems(tmp_path, seed=1, train=2, dev=1, test=2)
    assert not [path for path in tmp_path.glob("*.jsonl") if path.stem in COUNTS]
    assert read_info(tmp_path) is None


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no earlier Emblems build"):
        build_emblems(tmp_path, seed=0, train=1, dev=0, test=0)
    with pytest.raises(UserError, match="is a file"):
        build_emblems(tmp_path / "thesis.txt", seed=0, train=1, dev=0, test=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("names", "unseen"), [(3, 24), (48, 0), (4000, 24)])
def test_impossible_numbers_of_names_are_refused(tmp_path, names, unseen):
    with pytest.raises(UserError, match="names"):
        build_emblems(tmp_path, seed=0, train=1, dev=0, test=0, names=names, unseen=unseen)
    assert not list(tmp_path.iterdir())
