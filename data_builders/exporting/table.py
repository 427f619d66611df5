"""CSV in UTF-8: a row a mention; a post without mentions has one row.

The text is the tokens with blanks where they are written, and offsets are its characters. Lists are JSON. Boxes are
those of records, and their column says so.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_builders.exporting.sides import Side, characters, shown_boxes, shown_masks
from rivegs_mllm.data.written import as_written, written
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Entity, Sample

_VISIBLE = {True: "true", False: "false", None: "undecided"}
_POST = ("id", "split", "text", "tokens", "image", "image_width", "image_height", "knowledge", "subset")
_ENTITY = ("mention", "start", "end", "type", "visible", "visible_score", "expression", "boxes_xyxy", "masks")


def write_csv(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``<split>.csv`` and ``<system>.csv``."""
    for side in [*gold, *systems]:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, (*_POST, *_ENTITY), restval="")
        table.writeheader()
        for sample in side.samples:
            post = _post(sample, gold[0].name if side in systems else side.name)
            table.writerows([{**post, **row} for row in _rows(sample)] or [post])
        write_text(out / f"{side.name}.csv", text.getvalue())
    return []


def _post(sample: Sample, split: str) -> dict[str, object]:
    width, height = sample.size or ("", "")
    text = {"text": written(sample.tokens), "tokens": _json(sample.tokens)}
    post = {"id": sample.id, "split": split, **text, "image": sample.image}
    beside = {"knowledge": _json(sample.knowledge) if sample.knowledge else "", "subset": sample.subset}
    return {**post, "image_width": width, "image_height": height, **beside}


def _rows(sample: Sample) -> Iterator[dict[str, object]]:
    for entity in sample.entities:
        yield {**_mention(sample, entity), **_regions(entity)}


def _mention(sample: Sample, entity: Entity) -> dict[str, object]:
    start, end = characters(sample, entity) or ("", "")
    score = "" if entity.visible_score is None else repr(entity.visible_score)
    seen = {"visible": _VISIBLE[entity.visible], "visible_score": score, "expression": entity.expression}
    return {"mention": as_written(entity.text), "start": start, "end": end, "type": entity.type, **seen}


def _regions(entity: Entity) -> dict[str, object]:
    boxes = [(box.xmin, box.ymin, box.xmax, box.ymax) for box in shown_boxes(entity)]
    masks = [{"size": mask.size, "counts": mask.counts} for mask in shown_masks(entity)]
    return {"boxes_xyxy": _json(boxes) if boxes else "", "masks": _json(masks) if masks else ""}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
