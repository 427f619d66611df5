"""What is drawn anew each epoch: knowledge texts and box jitter."""

import dataclasses
import subprocess
import sys
from random import Random

import pytest

from rivegs_mllm.config.augmentation import Augmentation
from rivegs_mllm.training.dataset.augmentation import augment_sample, jitter
from rivegs_mllm.training.dataset.name_augmentation import name_words
from rivegs_mllm.types import Box, Entity, Sample, UserError

SIZE = (300, 200)
POST = Sample(
    "post-1",
    ("Kevin", "Durant", "wins"),
    "a.jpg",
    SIZE,
    (
        Entity("Kevin Durant", "PER", (0, 2), "a man", True, boxes=(Box(10, 20, 110, 190), Box(200, 0, 300, 200))),
        Entity("wins", "OTHER", (2, 3), "a word", False),
    ),
    tuple(f"text {number}" for number in range(5)),
)
MOVING = Augmentation(box_jitter=0.1, box_jitter_iou=0.7)


def iou(a: Box, b: Box) -> float:
    inter = max(min(a.xmax, b.xmax) - max(a.xmin, b.xmin), 0) * max(min(a.ymax, b.ymax) - max(a.ymin, b.ymin), 0)
    areas = [(box.xmax - box.xmin) * (box.ymax - box.ymin) for box in (a, b)]
    return inter / (sum(areas) - inter)


def test_knowledge_is_drawn_anew_each_epoch_from_all_texts():
    drawn = [augment_sample(POST, Augmentation(), (), 0, epoch).knowledge[0] for epoch in range(100)]
    assert set(drawn) == set(POST.knowledge)
    assert min(map(drawn.count, POST.knowledge)) >= 8  # 20 of each are expected


def test_knowledge_first_is_always_the_first_and_none_is_none():
    first = Augmentation(knowledge="first")
    assert {augment_sample(POST, first, (), 0, epoch).knowledge[0] for epoch in range(20)} == {"text 0"}
    assert augment_sample(Sample("a", ("b",)), Augmentation(), (), 0, 0) == Sample("a", ("b",))


def test_posts_and_seeds_draw_apart():
    others = [Sample(f"post-{number}", ("a",), knowledge=POST.knowledge) for number in range(40)]
    assert len({augment_sample(other, Augmentation(), (), 0, 0).knowledge[0] for other in others}) == 5
    assert len({augment_sample(POST, Augmentation(), (), seed, 0).knowledge[0] for seed in range(40)}) == 5
    boxes = {augment_sample(POST, MOVING, (), seed, epoch).entities[0].boxes for seed in range(5) for epoch in range(5)}
    assert len(boxes) == 25


def test_the_same_is_drawn_in_another_process():
    drawn = "[augment_sample(POST, MOVING, (), 7, epoch) for epoch in range(9)]"
    code = f"from test_augment import POST, MOVING, augment_sample\nprint({drawn})"
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([augment_sample(POST, MOVING, (), 7, epoch) for epoch in range(9)])


def test_zero_moves_nothing():
    assert augment_sample(POST, Augmentation(), (), 0, 3).entities == POST.entities


def test_only_boxes_are_changed():
    moved = augment_sample(POST, MOVING, (), 0, 0).entities
    assert moved[1] == POST.entities[1]
    assert moved[0].boxes != POST.entities[0].boxes
    assert [(e.text, e.type, e.span, e.expression, e.visible, len(e.boxes)) for e in moved] == [
        (e.text, e.type, e.span, e.expression, e.visible, len(e.boxes)) for e in POST.entities
    ]


def test_edges_move_by_at_most_two_deviations_of_their_side():
    box, free = Box(100, 80, 200, 120), Augmentation(box_jitter=0.1, box_jitter_iou=0.0)
    moves = []
    for number in range(2000):
        moved = jitter(Random(number), box, SIZE, free)
        moves.append((moved.xmin - 100, moved.ymin - 80, moved.xmax - 200, moved.ymax - 120))
    for edge, side in zip(zip(*moves, strict=True), (100, 40, 100, 40), strict=True):
        assert max(map(abs, edge)) <= 0.2 * side
        assert max(map(abs, edge)) > 0.19 * side
        deviation = (sum(move * move for move in edge) / len(edge)) ** 0.5
        assert deviation == pytest.approx(0.88 * 0.1 * side, rel=0.05)  # a normal cut off at two deviations
        assert abs(sum(edge) / len(edge)) < 0.1 * 0.1 * side


@pytest.mark.parametrize("box", [Box(0, 0, 300, 200), Box(0, 0, 40, 200), Box(290, 150, 300, 200), Box(5, 5, 6, 6)])
def test_boxes_stay_in_the_picture_in_order_and_near_enough(box):
    augmentation = Augmentation(box_jitter=0.5, box_jitter_iou=0.7)
    moved = [jitter(Random(number), box, SIZE, augmentation) for number in range(500)]
    for other in moved:
        assert 0 <= other.xmin < other.xmax <= 300
        assert 0 <= other.ymin < other.ymax <= 200
        assert iou(box, other) >= 0.7
    assert any(other != box for other in moved)
    assert moved.count(box) < 500


def test_a_guard_that_nothing_passes_leaves_the_box():
    strict = Augmentation(box_jitter=0.5, box_jitter_iou=0.999)
    assert jitter(Random(0), Box(100, 50, 200, 150), SIZE, strict) == Box(100, 50, 200, 150)


@pytest.mark.parametrize(
    "wrong", [{"knowledge": "all"}, {"box_jitter": -0.1}, {"box_jitter": 0.6}, {"box_jitter_iou": 1.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="augment"):
        Augmentation(**wrong)


NAMED = Sample(
    "post-2",
    ("RT", "KEVIN", "Durant", "in", "kevin"),
    entities=(Entity("KEVIN Durant", "PER", (1, 3), "a man", False), Entity("kevin", "LOC", (4, 5), "a flag", False)),
    knowledge=("Kevin Durant is a player.",),
)


def test_made_up_names_stand_everywhere_alike_and_change_nothing_else():
    words = name_words([NAMED])
    drawn = [augment_sample(NAMED, Augmentation(name_augmentation=0.5), words, 0, epoch) for epoch in range(200)]
    renamed = [sample for sample in drawn if sample != NAMED]
    assert 70 <= len(renamed) <= 130
    assert len({sample.tokens for sample in renamed}) > 1
    for sample in renamed:
        first, second = sample.entities
        assert (sample.tokens[0], sample.tokens[3], len(sample.tokens)) == ("RT", "in", 5)
        assert [" ".join(sample.tokens[slice(*own.span)]) for own in sample.entities] == [first.text, second.text]
        assert first.text.split()[0].isupper()
        assert first.text.split()[0].lower() == second.text
        assert sample.knowledge == (f"{second.text.capitalize()} {first.text.split()[1]} is a player.",)
        assert [dataclasses.replace(own, text="") for own in sample.entities] == [
            dataclasses.replace(own, text="") for own in NAMED.entities
        ]
