"""Twitter-SMNER: the masks that RiVEG's second paper adds to Twitter-GMNER, into a copy of the built Twitter-GMNER.

One labelme file a picture, ``<id>.json``, anywhere below a folder. What the published files leave open is decided here:
- A label names a mention, with or without its type after it, and then belongs to every such mention of the post that
  has boxes; or it is a type alone, and belongs to the mention of that type whose box fits the mask best.
- Where a file was annotated in another size than ``Sample.size``, its masks are turned by the EXIF orientation if the
  file's shape is that of the picture as stored, and then scaled.
- Not every box has its mask: the authors left out what could not be segmented.
Each such case is a finding, and all findings are written to ``findings.txt`` beside the splits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from data_builders.common import look_of, write_dataset
from data_builders.findings import DatasetReport, Finding
from data_builders.formats.labelme import LabelmeFile, LabelmeRegion, read_regions
from rivegs_mllm.data.images import read_header, upright
from rivegs_mllm.data.jsonl import SPLITS, read_split
from rivegs_mllm.data.masks import encode
from rivegs_mllm.types import TYPES, Box, Entity, Mask, Sample, UserError

_OTHER_NAMES = {"MISC": "OTHER"}


def build_twitter_smner(gmner: Path, masks: Path, out: Path) -> DatasetReport:
    """Writes ``out/{train,dev,test}.jsonl``, ``dataset.json`` and ``findings.txt``; returns figures and findings.

    ``gmner`` is a folder that ``build_twitter_gmner`` wrote, best with pictures, since only these tell how a file of
    another size is to be turned; ``masks`` the folder of the labelme files. Raises UserError, before a split is
    written, where a file cannot be read or none belongs to a post.
    """
    if out.resolve() == gmner.resolve():
        raise UserError(f"{out}: the dataset without masks lies there; name another folder to write")
    posts = {split: read_split(gmner, split) for split in SPLITS}
    findings: list[Finding] = []
    files = _find_files(masks, findings)
    names = {_picture_id(sample) for samples in posts.values() for sample in samples}
    for identity in sorted(files.keys() - names):
        findings.append(Finding("annotation without post", str(files[identity]), f"no split has the post {identity}"))
    if not files.keys() & names:
        raise UserError(f"{masks}: holds no <id>.json of a post of {gmner}")
    samples = {
        split: [_with_masks(sample, files.get(_picture_id(sample)), gmner, out, findings) for sample in posts[split]]
        for split in SPLITS
    }
    return write_dataset(out, "twitter-smner", samples, findings)


def _find_files(folder: Path, findings: list[Finding]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".json"):
        if path.stem in files:
            findings.append(Finding("annotation twice", str(path), f"{files[path.stem]} is taken instead"))
        else:
            files[path.stem] = path
    return files


def _picture_id(sample: Sample) -> str:
    """Posts that share a picture share its masks."""
    return Path(sample.image).stem if sample.image else sample.id.partition("#")[0]


def _with_masks(sample: Sample, path: Path | None, gmner: Path, out: Path, findings: list[Finding]) -> Sample:
    image = Path(os.path.relpath(gmner / sample.image, out)).as_posix() if sample.image else ""
    masks: list[list[Mask]] = [[] for _ in sample.entities]
    size = sample.size
    if path is not None:
        try:
            content = read_regions(path)
        except UserError as error:
            findings.append(Finding("unreadable file", str(path), str(error), "error"))
            return sample
        findings += [Finding(fault.kind, str(path), fault.message) for fault in content.faults]
        size = size or content.size
        for region in _on_picture(content, replace(sample, size=size), gmner, path, findings):
            mask = encode(region.pixels)
            for index in _owners(region.label, mask, sample.entities, path, findings):
                masks[index].append(mask)
    for entity, own in zip(sample.entities, masks, strict=True):
        if entity.visible and not own:
            findings.append(Finding("visible without mask", sample.id, f"{entity.text!r} has boxes but no mask"))
    entities = tuple(replace(entity, masks=tuple(own)) for entity, own in zip(sample.entities, masks, strict=True))
    return replace(sample, image=image, size=size, entities=entities)


def _on_picture(
    content: LabelmeFile, sample: Sample, gmner: Path, path: Path, findings: list[Finding]
) -> Sequence[LabelmeRegion]:
    """The regions in pixels of the upright picture of ``sample.size``."""
    if content.size == sample.size:
        return content.regions
    orientation = read_header(gmner / sample.image).orientation if sample.image else 1
    (width, height), (upright_width, upright_height) = content.size, sample.size
    turned = (width > height) != (upright_width > upright_height)
    if turned and orientation < 5:  # only from 5 on does EXIF swap the sides: nothing explains the shape
        message = f"{content.size}, the picture {sample.size}, another shape; its {len(content.regions)} masks are lost"
        findings.append(Finding("size differs", str(path), message))
        return ()
    done = "turned and scaled" if turned else "scaled"
    findings.append(Finding("size differs", str(path), f"{content.size}, the picture {sample.size}; masks are {done}"))
    regions = []
    for region in content.regions:
        image = Image.fromarray(region.pixels.astype(np.uint8))
        image = upright(image, orientation) if turned else image
        pixels = np.asarray(image.resize(sample.size, Image.Resampling.NEAREST)) > 0
        if pixels.any():
            regions.append(LabelmeRegion(region.label, pixels))
        else:
            findings.append(Finding("shape without area", str(path), f"{region.label!r} covers no pixel when scaled"))
    return regions


def _owners(label: str, mask: Mask, entities: Sequence[Entity], path: Path, findings: list[Finding]) -> list[int]:
    """The entities with boxes that the label means."""
    text = " ".join(label.split())
    types = _OTHER_NAMES | {kind: kind for kind in (*TYPES, *(entity.type for entity in entities))}
    named = [index for index, entity in enumerate(entities) if entity.text == text]
    named = named or [index for index, entity in enumerate(entities) if look_of(entity.text) == look_of(text)]
    typed = re.fullmatch(rf"(.+?)\s*[(\[_,:-]\s*({'|'.join(map(re.escape, types))})[)\]]?", text)
    if not named and typed:
        key = look_of(typed[1]), types[typed[2]]
        named = [index for index, entity in enumerate(entities) if (look_of(entity.text), entity.type) == key]
    if not named and text in types:
        named = _best_of_type(types[text], mask, entities)
    if not named:
        there = ", ".join(repr(entity.text) for entity in entities) or "none"
        findings.append(Finding("unmatched label", str(path), f"{label!r} is no mention of its post ({there})"))
    seen = [index for index in named if entities[index].visible]
    if named and not seen:
        findings.append(Finding("mask without box", str(path), f"{label!r} has no box; its mask is left out"))
    return seen


def _best_of_type(kind: str, mask: Mask, entities: Sequence[Entity]) -> list[int]:
    """The mentions of the type with the box that agrees best with the mask's own; none where no box touches it."""
    left, top, width, height = coco.toBbox({"size": mask.size, "counts": mask.counts})
    agreed = [
        max((_iou([left, top, width, height], box) for box in entity.boxes), default=0.0) * (entity.type == kind)
        for entity in entities
    ]
    best = max(agreed, default=0.0)
    return [index for index, iou in enumerate(agreed) if iou == best > 0]


def _iou(bounds: list[float], box: Box) -> float:
    return float(coco.iou([bounds], [[box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]], [0])[0, 0])
