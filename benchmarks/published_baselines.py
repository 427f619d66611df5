"""Trivial baselines on a dataset, by counting alone: of the stages that find names, boxes and masks.

    python benchmarks/published_baselines.py data/emblems

Names: every run of capitalised words, of the type that training has most often, none of them in the picture. Boxes: the
mean of training's boxes, as shares of the picture. Masks: that box filled. ``--smoke`` makes a few posts itself.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_builders.emblems.build import build_emblems
from eval.scores import evaluate
from eval.stage_metrics import grounding_scores, segmentation_scores
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.data.masks import encode, filled
from rivegs_mllm.types import Box, Entity, Prediction, Sample


def runs(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) of each run of capitalised words."""
    start = None
    for place, token in enumerate([*tokens, ""]):
        if token[:1].isupper():
            start = place if start is None else start
        elif start is not None:
            yield start, place
            start = None


def named(sample: Sample, kind: str) -> Prediction:
    """Every run of capitalised words."""
    found = [Entity(" ".join(sample.tokens[slice(*own)]), kind, own, visible=False) for own in runs(sample.tokens)]
    return Prediction(sample.id, entities=tuple(found))


def shares(sample: Sample, box: Box) -> list[float]:
    """The edges of a box as shares of the picture."""
    width, height = sample.size
    return [box.xmin / width, box.ymin / height, box.xmax / width, box.ymax / height]


def boxed(sample: Sample, edges: Sequence[float]) -> Prediction:
    """Every gold entity that is visible, with the same box, filled."""
    width, height = sample.size
    box = Box(edges[0] * width, edges[1] * height, edges[2] * width, edges[3] * height)
    mask = encode(filled(box, sample.size))
    found = [
        replace(own, boxes=(box,) if own.boxes else (), masks=(mask,) if own.boxes else ()) for own in sample.entities
    ]
    return Prediction(sample.id, entities=tuple(found))


def main(folder: Path) -> None:
    """Prints the baselines on the test split, and its subsets."""
    train, test = read_split(folder, "train"), read_split(folder, "test")
    kind = Counter(own.type for sample in train for own in sample.entities).most_common(1)[0][0]
    mean = np.mean([shares(one, box) for one in train for own in one.entities for box in own.boxes], axis=0)
    for subset in ("", *sorted({sample.subset for sample in test} - {""})):
        some = [sample for sample in test if subset in ("", sample.subset)]
        names = evaluate(some, [named(sample, kind) for sample in some])["strict"]["all"]
        answers = [boxed(sample, mean) for sample in some]
        boxes, masks = grounding_scores(some, answers), segmentation_scores(some, answers)
        print(
            f"{subset or 'all'}: MNER {100 * names['MNER']['f1']:.2f}, GMNER {100 * names['GMNER']['f1']:.2f}; "
            f"boxes Prec@0.5 {100 * boxes['precision']:.2f}, mIoU {100 * boxes['mean_iou']:.2f}; "
            f"masks mIoU {100 * masks['mean_iou']:.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--smoke", action="store_true", help="on a few made posts")
    known = parser.parse_args()
    if known.smoke:
        with tempfile.TemporaryDirectory() as scratch:
            build_emblems(Path(scratch) / "emblems", 0, train=24, dev=6, test=12)
            main(Path(scratch) / "emblems")
    elif known.data:
        main(known.data)
    else:
        parser.error("name the folder of a dataset, or give --smoke")
