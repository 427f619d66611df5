"""Faults that are planted into generated datasets, each found by its kind, and none in the clean ones."""

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_builders.audit import audit
from data_builders.findings import format_report
from rivegs_mllm.cli.main import main
from rivegs_mllm.data.dataset_info import DatasetInfo, write_info

WORDS = ("game", "show", "city", "team", "song", "win", "live", "crowd", "night", "photo", "here", "now")
NAMES = ("Ada", "Bob", "Cleo", "Dora", "Emil", "Fritz", "Gina", "Hugo", "Iris", "Jonas", "Kira", "Leo", "Mona", "Nico")
TYPES = ("athlete", "brand", "event")
UNLISTED = "museum"
SETS = 5
"""Of each fault, and as many clean ones."""


def line(draw: random.Random, number: int) -> dict:
    words = [f"{draw.choice(WORDS)}{draw.randrange(500)}" for _ in range(draw.randint(8, 16))]
    entities = []
    width, height = draw.choice([(640, 480), (600, 800), (1080, 1080), (1600, 1200), (1400, 1900)])
    for place in sorted(draw.sample(range(len(words) - 1), draw.randint(1, 3)))[::2]:
        long = draw.random() < 0.4
        names = [draw.choice(NAMES) for _ in range(1 + long)]
        words[place : place + len(names)] = names
        entity = {"text": " ".join(names), "type": draw.choice(TYPES), "span": [place, place + len(names)]}
        if draw.random() < 0.6:
            left, top = draw.uniform(0, 0.8) * width, draw.uniform(0, 0.8) * height
            right, bottom = draw.uniform(left + 20, width), draw.uniform(top + 20, height)
            box = [round(edge, 1) for edge in (left, top, right, bottom)]
            entity |= {"visible": True, "boxes": [box]}
        else:
            entity["visible"] = False
        entities.append(entity)
    return {"id": f"{number}", "tokens": words, "size": [width, height], "entities": entities}


def lines(seed: int) -> dict[str, list[dict]]:
    draw = random.Random(seed)
    return {
        split: [line(draw, 1000 * place + number) for number in range(count)]
        for place, (split, count) in enumerate({"train": 60, "dev": 15, "test": 15}.items())
    }


def each_box(change: Callable[[list[float], list[int]], list[float]]):
    def plant(splits: dict[str, list[dict]], _: random.Random) -> None:
        for post in (post for own in splits.values() for post in own):
            for entity in post["entities"]:
                entity["boxes"] = [change(box, post["size"]) for box in entity.get("boxes", [])]

    return plant


def each_span(begin: int, end: int):
    def plant(splits: dict[str, list[dict]], _: random.Random) -> None:
        for post in (post for own in splits.values() for post in own):
            for entity in post["entities"]:
                entity["span"] = [entity["span"][0] + begin, entity["span"][1] + end]

    return plant


def in_a_text(begin: int, end: int):
    """Lines that give a text, and their entities characters, which are off."""

    def plant(splits: dict[str, list[dict]], _: random.Random) -> None:
        for post in (post for own in splits.values() for post in own):
            tokens = post.pop("tokens")
            post["text"] = " ".join(tokens)
            for entity in post["entities"]:
                first, last = entity.pop("span")
                start = len(" ".join([*tokens[:first], ""]))
                entity |= {"start": start + begin, "end": start + len(" ".join(tokens[first:last])) + end}

    return plant


def with_pictures(splits: dict[str, list[dict]]) -> None:
    """Each post has a picture of its own, which ``write`` draws, of a tenth of the size."""
    for post in (post for own in splits.values() for post in own):
        post |= {"image": f"{post['id']}.png", "size": [side // 10 for side in post["size"]]}
        for entity in post["entities"]:
            entity["boxes"] = [[edge / 10 for edge in box] for box in entity.get("boxes", [])]


def one_picture(splits: dict[str, list[dict]], _: random.Random) -> None:
    with_pictures(splits)
    for post in splits["train"]:
        post.pop("size")
        post["image"] = "placeholder.png"
        post["entities"] = [entity | {"boxes": [], "visible": False} for entity in post["entities"]]


def pictures_moved(splits: dict[str, list[dict]], _: random.Random) -> None:
    with_pictures(splits)
    images = [post["image"] for post in splits["train"]]
    for post, image in zip(splits["train"], images[1:] + images[:1], strict=True):
        post["image"] = image


def picture_in_two_splits(splits: dict[str, list[dict]], draw: random.Random) -> None:
    with_pictures(splits)
    post, other = draw.choice(splits["train"]), draw.choice(splits["test"])
    other |= {"image": post["image"], "size": post["size"]}
    other["entities"] = [entity | {"boxes": [], "visible": False} for entity in other["entities"]]


def other_words(splits: dict[str, list[dict]], draw: random.Random) -> None:
    for post in draw.sample(splits["train"], 3):
        post["entities"][0]["text"] = "Somebody"


def long_posts(splits: dict[str, list[dict]], draw: random.Random) -> None:
    for post in draw.sample(splits["train"], 3):
        post["tokens"] = [*post["tokens"], *(f"word{number}" for number in range(300))]


def undecided(splits: dict[str, list[dict]], draw: random.Random) -> None:
    with_pictures(splits)
    for post in draw.sample(splits["train"], 5):
        post["entities"] = [{**entity, "boxes": [], "visible": None} for entity in post["entities"]]


def overlap(splits: dict[str, list[dict]], draw: random.Random) -> None:
    post = draw.choice(splits["train"])
    entity = post["entities"][0]
    post["entities"].append({**entity, "type": next(name for name in TYPES if name != entity["type"])})


def unlisted(splits: dict[str, list[dict]], draw: random.Random) -> None:
    for post in draw.sample(splits["train"], 6):
        post["entities"][0]["type"] = UNLISTED


def wide_xywh(box: list[float], size: list[int]) -> list[float]:
    """A box in the upper left, wider than it is far from the edge, so that it passes as corners."""
    left, top = box[0] / 4, box[1] / 4
    return [left, top, left + 0.3 * size[0], top + 0.3 * size[1]]


def labels_moved(splits: dict[str, list[dict]], _: random.Random) -> None:
    entities = [post["entities"] for post in splits["train"]]
    for post, own in zip(splits["train"], entities[-1:] + entities[:-1], strict=True):
        post["entities"] = own


def near_duplicates(splits: dict[str, list[dict]], draw: random.Random) -> None:
    for number, post in enumerate(draw.sample(splits["train"], 3)):
        copied = copy.deepcopy(post)
        splits["test"][number] = copied | {"id": f"near{number}", "tokens": [*copied["tokens"], "!", "again"]}


def misspelt(splits: dict[str, list[dict]], draw: random.Random) -> None:
    draw.choice([own for post in splits["train"] for own in post["entities"]])["type"] = "athelete"


def one_box(splits: dict[str, list[dict]], _: random.Random) -> None:
    for post in splits["train"]:
        post["size"] = [640, 480]
        for entity in post["entities"]:
            entity["boxes"] = [[10, 10, 600, 400] for _ in entity.get("boxes", [])]


FAULTS = {
    "boxes in shares": each_box(lambda box, size: [edge / side for edge, side in zip(box, size * 2, strict=True)]),
    "boxes in other coordinates, thousandths": each_box(
        lambda box, size: [round(1000 * edge / side) for edge, side in zip(box, size * 2, strict=True)]
    ),
    "boxes in other coordinates, xywh": each_box(lambda box, _: [*box[:2], box[2] - box[0], box[3] - box[1]]),
    "boxes in other coordinates, xywh that pass": each_box(wide_xywh),
    "boxes in other coordinates, centre": each_box(
        lambda box, _: [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]]
    ),
    "boxes in other coordinates, y first": each_box(lambda box, _: [box[1], box[0], box[3], box[2]]),
    "tiny boxes": each_box(lambda box, _: [*box[:2], box[0] + 3, box[1] + 3]),
    "boxes of the whole picture": each_box(lambda _, size: [0, 0, *size]),
    "one box in many posts": one_box,
    "spans off by one, end inclusive": each_span(0, -1),
    "spans off by one, counted from 1": each_span(1, 1),
    "spans off by one, both": each_span(1, 0),
    "spans off by one, characters with the end inclusive": in_a_text(0, -1),
    "spans off by one, characters counted from 1": in_a_text(1, 1),
    "bad line": other_words,
    "labels of another post": labels_moved,
    "pictures of another post": pictures_moved,
    "one picture in most posts": one_picture,
    "picture in two splits": picture_in_two_splits,
    "nearly the same text in two splits": near_duplicates,
    "type like another": misspelt,
    "unlisted type": unlisted,
    "undecided": undecided,
    "overlap": overlap,
    "long post": long_posts,
}


def write(folder, splits: dict[str, list[dict]]) -> None:
    folder.mkdir()
    posts = [post for own in splits.values() for post in own]
    types = {entity["type"] for post in posts for entity in post.get("entities", [])} - {UNLISTED}
    write_info(folder, DatasetInfo(dict.fromkeys(sorted(types), "")))
    sizes = {f"{post['id']}.png": post.get("size") for post in posts}
    for number, name in enumerate(sorted({post["image"] for post in posts if "image" in post})):
        Image.new("L", sizes.get(name) or [64, 48], number % 256).save(folder / name)
    for split, posts in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(post)}\n" for post in posts))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, tmp_path):
    kind = name.partition(",")[0]
    for seed in range(SETS):
        splits = lines(seed)
        FAULTS[name](splits, random.Random(seed))
        write(tmp_path / f"{seed}", splits)
        report = audit(tmp_path / f"{seed}")
        found = {finding.kind for finding in report.findings}
        assert kind in found
        assert found <= {kind, "bad line", "box outside", "tiny boxes", "size differs", "same picture under other name"}


def test_in_clean_sets_nothing_is_found(tmp_path):
    for seed in range(6 * SETS):
        splits = lines(100 + seed)
        if seed % 3 == 1:
            with_pictures(splits)
        if seed % 3 == 2:
            in_a_text(0, 0)(splits, random.Random(0))
        write(tmp_path / f"{seed}", splits)
        assert audit(tmp_path / f"{seed}").findings == []


def test_the_page_lists_as_many():
    page = Path("docs/data.md").read_text(encoding="utf-8")
    table = page.partition("| planted |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+) \| (\d+) \| (\d+) \| [a-z0-9; ]*\|$", table, re.MULTILINE)
    assert sum(int(sets) for _, sets, _ in rows) == (len(FAULTS) + 6) * SETS
    assert f"It is tried on {(len(FAULTS) + 6) * SETS} generated datasets" in page
    assert [(name, found) for name, sets, found in rows if found != sets] == [("nothing", "0")]


def test_few_boxes_are_only_a_warning(tmp_path):
    splits = {"train": lines(0)["train"][:12]}
    each_box(wide_xywh)(splits, random.Random(0))
    write(tmp_path / "few", splits)
    report = audit(tmp_path / "few")
    assert [(own.kind, own.level) for own in report.findings] == [("boxes in other coordinates", "warning")]


def test_a_box_that_comes_again_is_no_further_evidence(tmp_path):
    splits = lines(0)
    for post in splits["train"]:
        post["size"] = [640, 480]
        for entity in post["entities"]:
            entity["boxes"] = [[10, 10, 200, 150]] if entity.get("boxes") else []
    write(tmp_path / "own", {"train": splits["train"]})
    assert [own.kind for own in audit(tmp_path / "own").findings] == ["one box in many posts"]


def test_a_fault_of_every_line_is_one_with_a_count_and_all_faults_of_a_line_are_told(tmp_path):
    posts = lines(0)["train"][:30]
    for post in posts:
        post["image_url"] = "x"
        post["size"] = "640x480"
        post["entities"][0]["visible"] = "yes"
    write(tmp_path / "own", {"train": posts})
    text = format_report(audit(tmp_path / "own"))
    heads = [one for one in text.splitlines() if one.startswith("error")]
    assert heads == ["error: bad line: 30"] * 3
    assert text.count("and 27 more; --all shows them") == 3
    for fault in ("unknown field 'image_url'", "size: '640x480'", "entities[0].visible: 'yes'"):
        assert text.count(fault) == 3


def test_the_scripts_of_a_set_are_told(tmp_path):
    posts = lines(0)["train"][:4]
    posts.append({"id": "ar", "tokens": ["\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "2024"]})
    posts.append({"id": "none", "tokens": ["2024", "\U0001f600"]})
    posts.append({"id": "ja", "tokens": ["\u4eca\u65e5\u306f", "Ada", "\u3078"]})
    write(tmp_path / "own", {"train": posts})
    assert "posts by script: latin 4, arabic 1, japanese 1" in format_report(audit(tmp_path / "own"))


def test_what_a_recipe_would_refuse(tmp_path, capsys):
    posts = lines(0)["train"][:6]
    for post in posts:
        for entity in post["entities"]:
            entity["type"] = "PER"
    for number in (1, 2):
        posts[number]["image"] = f"{number}.png"
    del posts[2]["entities"][0]["visible"]
    posts[2]["entities"][0].pop("boxes", None)
    posts[4]["tokens"] = [*posts[4]["tokens"], *["word"] * 400]
    write(tmp_path / "own", {"train": posts})
    for number in (1, 2):
        Image.new("RGB", posts[number]["size"], (number, 0, 0)).save(tmp_path / "own" / f"{number}.png")
    recipe = [
        "--recipe",
        "recipes/tiny/e2e.yaml",
        "--answer.segments=[entities, visible, boxes]",
        "--distilled=null",
        "--train.eval_strategy=epoch",
    ]
    assert main(["audit", str(tmp_path / "own"), *recipe]) == 1
    said = capsys.readouterr().out
    assert "error: refused by the recipe" in said
    assert f"sample {posts[4]['id']}: " in said
    assert f"train: 1 post of {len(posts)} left out: " in said
    assert f"sample {posts[0]['id']}: " not in said
    assert "has no split dev" in said
    with pytest.raises(SystemExit):  # an override without a recipe
        main(["audit", str(tmp_path / "own"), "--answer.segments=[entities]"])
    assert "--answer.segments: no such option" in capsys.readouterr().err
