"""Gold and predictions in the forms of other tools: COCO's annotations and results, and FiftyOne's detection folders.

Posts without a picture, or whose picture's size is not known, have no place in either; they are left out and listed.
Regions of entities that are said to be invisible are none.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pycocotools import mask as coco

from eval.protocols import boxes_of, masks_of
from eval.scores import join
from rivegs_mllm.data.files import write_text
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

Region = tuple[Box | None, Mask | None]


def write_coco(out: Path, gold: Sequence[Sample], predictions: Mapping[str, Sequence[Prediction]]) -> list[str]:
    """Writes ``out/gold.json``, COCO's annotations, and ``out/<name>.json``, COCO's results, for each system.

    ``pycocotools.coco.COCO(gold.json).loadRes(<name>.json)`` reads them. Categories are the entity types; annotations
    and results carry "mention" and "expression" beside COCO's own fields, pictures the post's "post" and "text". The
    score of a result is ``visible_score``, 1 where there is none. Returns the ids of the posts that are left out.
    Raises UserError for predictions that do not fit the gold, and for a system called "gold".
    """
    shown, left_out = _shown(gold, predictions)
    places = {sample.id: number for number, sample in enumerate(shown, 1)}
    categories = {name: number for number, name in enumerate(_types(gold, predictions), 1)}
    annotations = [
        {"id": number, "iscrowd": 0, **annotation}
        for number, annotation in enumerate(
            (one for sample in shown for one in _annotations(sample.entities, places[sample.id], categories)), 1
        )
    ]
    _write(
        out / "gold.json",
        {
            "info": {"description": "Grounded named entities"},
            "images": [
                {
                    "id": places[sample.id],
                    "file_name": sample.image,
                    "width": sample.size[0],
                    "height": sample.size[1],
                    "post": sample.id,
                    "text": sample.text,
                }
                for sample in shown
            ],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": annotations,
        },
    )
    for system, answers in predictions.items():
        results = [
            one
            for answer in answers
            if answer.id in places
            for one in _annotations(answer.entities, places[answer.id], categories, scored=True)
        ]
        _write(out / f"{system}.json", results)
    return left_out


def write_fiftyone(
    out: Path, gold: Sequence[Sample], predictions: Mapping[str, Sequence[Prediction]], image_root: Path
) -> list[str]:
    """Writes ``out/gold`` and ``out/<name>`` for each system, folders of FiftyOne's type FiftyOneImageDetectionDataset.

    Each has ``labels.json`` and the manifest ``data.json``, which says where the pictures are, so that none is copied:
    ``fiftyone.Dataset.from_dir(dataset_dir="out/gold", dataset_type=fiftyone.types.FiftyOneImageDetectionDataset,
    data_path="data.json")``. ``image_root`` is the folder that the samples' pictures are relative to. Masks are not
    part of that type; COCO's files have them. Returns and raises as `write_coco` does.
    """
    shown, left_out = _shown(gold, predictions)
    classes = _types(gold, predictions)
    said = {name: {answer.id: answer.entities for answer in answers} for name, answers in predictions.items()}
    sides = {"gold": {sample.id: sample.entities for sample in shown}, **said}
    for name, entities in sides.items():
        labels = {sample.id: _detections(sample, entities.get(sample.id, ())) for sample in shown}
        _write(out / name / "labels.json", {"classes": classes, "labels": labels})
        pictures = {sample.id: os.path.relpath(image_root / sample.image, out / name) for sample in shown}
        _write(out / name / "data.json", pictures)
    return left_out


def _shown(gold: Sequence[Sample], predictions: Mapping[str, Sequence[Prediction]]) -> tuple[list[Sample], list[str]]:
    if "gold" in predictions:
        raise UserError("export: a system cannot be called 'gold'; rename its file")
    for answers in predictions.values() or [()]:
        join(gold, answers)  # pycocotools takes the process down with it on a broken mask
        for record in (*gold, *answers):
            _check_areas(record)
    shown = [sample for sample in gold if sample.image and sample.size]
    return shown, [sample.id for sample in gold if not (sample.image and sample.size)]


def _check_areas(record: Sample | Prediction) -> None:
    """Raises UserError for a box whose area is no finite number."""
    for entity in record.entities:
        for box in entity.boxes:
            if not math.isfinite((box.xmax - box.xmin) * (box.ymax - box.ymin)):
                raise UserError(f"export: post {record.id!r}, entity {entity.text!r}: the area of {box} is no number")


def _types(gold: Sequence[Sample], predictions: Mapping[str, Sequence[Prediction]]) -> list[str]:
    records = [*gold, *(answer for answers in predictions.values() for answer in answers)]
    return sorted({entity.type for record in records for entity in record.entities})


def _annotations(
    entities: Iterable[Entity], image: int, categories: Mapping[str, int], scored: bool = False
) -> list[dict]:
    """One a region. A box and a mask of the same place among an entity's are one region."""
    rows = []
    for entity in entities:
        for box, mask in _regions(entity):
            row = {"image_id": image, "category_id": categories[entity.type], "mention": entity.text}
            if entity.expression:
                row["expression"] = entity.expression
            row |= _geometry(box, mask)
            if scored:
                row["score"] = 1.0 if entity.visible_score is None else entity.visible_score
            rows.append(row)
    return rows


def _regions(entity: Entity) -> list[Region]:
    boxes, masks = boxes_of(entity), masks_of(entity)
    if len(boxes) == len(masks):
        return list(zip(boxes, masks, strict=True))
    return [*((box, None) for box in boxes), *((None, mask) for mask in masks)]


def _geometry(box: Box | None, mask: Mask | None) -> dict:
    code = {"size": list(mask.size), "counts": mask.counts} if mask else None
    if box is not None:
        bbox = [box.xmin, box.ymin, max(box.xmax - box.xmin, 0), max(box.ymax - box.ymin, 0)]
    else:
        bbox = coco.toBbox(code).tolist()
    area = float(coco.area(code)) if code else bbox[2] * bbox[3]
    return {"bbox": bbox, "area": area, **({"segmentation": code} if code else {})}


def _detections(sample: Sample, entities: Iterable[Entity]) -> list[dict]:
    """Boxes as shares of the picture, [left, top, width, height]."""
    width, height = sample.size
    rows = []
    for entity in entities:
        for box in boxes_of(entity):
            row = {
                "label": entity.type,
                "bounding_box": [
                    box.xmin / width,
                    box.ymin / height,
                    max(box.xmax - box.xmin, 0) / width,
                    max(box.ymax - box.ymin, 0) / height,
                ],
                "attributes": {"mention": entity.text, "expression": entity.expression},
            }
            if entity.visible_score is not None:
                row["confidence"] = entity.visible_score
            rows.append(row)
    return rows


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
