"""All pictures of a dataset through a proposer, a file each; and the share of entities that the proposals cover."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import draccus

from eval.stage_metrics import proposal_scores
from rivegs_mllm.cascade.regions.base import ProposalRecipe, boxes_of, file_names, select_regions
from rivegs_mllm.config.reading.former_names import current
from rivegs_mllm.data.images import PictureError, open_for_model, processed
from rivegs_mllm.data.jsonl import read_split
from rivegs_mllm.published.hindex.regions import read_regions, write_regions
from rivegs_mllm.runtime.files import write_json
from rivegs_mllm.runtime.foreign import read_object
from rivegs_mllm.runtime.progress import track
from rivegs_mllm.types import Sample, UserError

TOPS = (1, 5, 10, 15, 18, 20)
"""The N for which Top-N-Prec@0.5 is reported; H-Index sees 18."""

SETTINGS = "regions.json"


def propose_all(recipe: ProposalRecipe, data: Path, splits: Sequence[str], out: Path) -> int:
    """Writes the regions of every picture of the splits to ``out``; those that are there are kept. Prints
    Top-N-Prec@0.5 of each split with boxes.

    Returns how many pictures could not be opened, which are listed. Raises UserError where ``out`` holds the regions
    of another recipe.
    """
    posts = {split: read_split(data, split) for split in splits}
    images = {own.image: data / own.image for samples in posts.values() for own in samples if own.image}
    names = file_names(images)
    _claim(out, recipe)
    missing = {image: path for image, path in images.items() if not (out / names[image]).is_file()}
    lost = _propose(recipe, missing, names, out) if missing else 0
    print(f"{len(images) - lost} of {len(images)} pictures have their regions in {out}")
    for split, samples in posts.items():
        print_scores(split, samples, names, out)
    return lost


def _claim(out: Path, recipe: ProposalRecipe) -> None:
    settings, path = json.loads(json.dumps(draccus.encode(recipe), default=str)), out / SETTINGS
    if path.exists() and current(read_object(path, f"delete {out}")) != settings:
        raise UserError(f"{out} holds the regions of another recipe; choose another folder, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _propose(recipe: ProposalRecipe, images: Mapping[str, Path], names: Mapping[str, str], out: Path) -> int:
    propose, lost = recipe.proposer.load(), 0
    for image, path in track(images.items(), "regions", len(images)):
        try:
            picture = open_for_model(path)
            with processed(path, picture.size):
                found = select_regions(propose(picture), picture.size, recipe.max_regions, recipe.overlap)
        except PictureError as error:
            print(f"no regions: {error}", file=sys.stderr)
            lost += 1
            continue
        write_regions(out / names[image], found)
    return lost


def print_scores(split: str, samples: Sequence[Sample], names: Mapping[str, str], out: Path) -> None:
    """Top-N-Prec@0.5 of the visible entities of a split, where it has some."""
    files = {sample.id: out / names[sample.image] for sample in samples if sample.image}
    found = {post: boxes_of(read_regions(path)) if path.is_file() else [] for post, path in files.items()}
    scores = proposal_scores(samples, {**{sample.id: [] for sample in samples}, **found}, TOPS)
    if scores["total"]:
        tops = ", ".join(f"{limit}: {100 * own['precision']:.2f}" for limit, own in scores["top"].items())
        print(f"{split}: Top-N-Prec@0.5 of {scores['total']} entities: {tops}")
