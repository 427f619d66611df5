"""COCO's JSON: ``<split>.json`` with images and annotations, and COCO's results for each system, ``<system>.json``.

``pycocotools.coco.COCO("test.json").loadRes("mine.json")`` reads them. Categories are the entity types, the score of a
result is ``visible_score``, 1 where there is none. What COCO has no field for stands beside its own: an image
has the post's id ("post"), "text", "tokens" and "entities", an annotation the "mention" and which "entity" it shows.
Posts without a picture of known size are left out, and so are the regions of an entity that is not visible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocotools import mask as coco

from data_builders.exporting.sides import Side, given, regions, types_of, write_as_json
from rivegs_mllm.data.written import written
from rivegs_mllm.types import Box, Entity, Mask, Sample


def write_coco(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes the files. Systems answer the one split of ``gold``. Gives the ids of the posts that are left out."""
    categories = {name: number for number, name in enumerate(types_of([*gold, *systems]), 1)}
    left_out = []
    places: dict[str, int] = {}
    for side in gold:
        shown = [sample for sample in side.samples if sample.image and sample.size]
        left_out += [sample.id for sample in side.samples if not (sample.image and sample.size)]
        places = {sample.id: number for number, sample in enumerate(shown, 1)}
        rows = [row for sample in shown for row in _annotations(sample, places[sample.id], categories)]
        content = {
            "info": {"description": "Grounded named entities"},
            "images": [_image(sample, places[sample.id]) for sample in shown],
            "categories": [{"id": number, "name": name} for name, number in categories.items()],
            "annotations": [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(rows, 1)],
        }
        write_as_json(out / f"{side.name}.json", content)
    for side in systems:
        rows = [
            {**row, "score": 1.0 if score is None else score}
            for sample in side.samples
            if sample.id in places
            for row, score in _scored(sample, places[sample.id], categories)
        ]
        write_as_json(out / f"{side.name}.json", rows)
    return left_out


def _image(sample: Sample, number: int) -> dict:
    width, height = sample.size
    own = {"id": number, "file_name": sample.image, "width": width, "height": height, "post": sample.id}
    beside = {
        "text": written(sample.tokens),
        "tokens": sample.tokens,
        "knowledge": sample.knowledge,
        "subset": sample.subset,
    }
    entities = [_entity(entity, place) for place, entity in enumerate(sample.entities)]
    return {**own, **given(beside), "entities": entities}


def _entity(entity: Entity, place: int) -> dict:
    """All of an entity but where it is in the picture, which the annotations say."""
    fields = given({"expression": entity.expression, "visible_score": entity.visible_score, "span": entity.span})
    return {"id": str(place), "text": entity.text, "type": entity.type, **fields, "visible": entity.visible}


def _annotations(sample: Sample, image: int, categories: Mapping[str, int]) -> list[dict]:
    return [row for row, _ in _scored(sample, image, categories)]


def _scored(sample: Sample, image: int, categories: Mapping[str, int]) -> list[tuple[dict, float | None]]:
    """A row a region, and the score of its entity."""
    rows = []
    for place, entity in enumerate(sample.entities):
        beside = given({"mention": entity.text, "expression": entity.expression, "entity": str(place)})
        for box, mask in regions(entity):
            row = {"image_id": image, "category_id": categories[entity.type], **beside, **_geometry(box, mask)}
            rows.append((row, entity.visible_score))
    return rows


def _geometry(box: Box | None, mask: Mask | None) -> dict:
    code = {"size": list(mask.size), "counts": mask.counts} if mask else None
    if box is not None:
        bbox = [box.xmin, box.ymin, max(box.xmax - box.xmin, 0), max(box.ymax - box.ymin, 0)]
    else:
        bbox = coco.toBbox(code).tolist()
    area = float(coco.area(code)) if code else bbox[2] * bbox[3]
    derived = {"derived_box": True} if box is None else {}
    return {"bbox": bbox, "area": area, **derived, **({"segmentation": code} if code else {})}
