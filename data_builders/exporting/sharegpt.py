"""ShareGPT's JSON for LLaMA-Factory and ms-swift: a question with picture and text, and the entities as the answer.

The answer is JSON as Qwen2.5-VL writes it, an object a box: ``bbox_2d``, ``label`` (the mention) and ``type``. Boxes
are pixels of the picture as it is; a model that was trained on 0 to 1000, or on the resized picture, needs them so. An
entity that is not visible has no box and says so. Masks have no place. "id", "text", "tokens", "width" and "height"
stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from data_builders.exporting.sides import Side, given, shown_boxes, types_of, write_as_json
from rivegs_mllm.data.written import as_written, written
from rivegs_mllm.types import Entity, Sample

_QUESTION = (
    "List the named entities of this post as JSON, each with its type ({types}) and, where the picture shows it, its "
    "box.\n"
)


def write_sharegpt(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``<split>.json`` and ``<system>.json``. Gives the ids of the posts whose masks are left out."""
    question = _QUESTION.format(types=", ".join(types_of([*gold, *systems])))
    lost: dict[str, None] = {}
    for side in [*gold, *systems]:
        write_as_json(out / f"{side.name}.json", [_item(sample, question) for sample in side.samples])
        lost |= dict.fromkeys(own.id for own in side.samples if any(entity.masks for entity in own.entities))
    return list(lost)


def _item(sample: Sample, question: str) -> dict:
    answer = [row for entity in sample.entities for row in _rows(entity)]
    mark = "<image>" if sample.image else ""
    width, height = sample.size or (None, None)
    text = written(sample.tokens)
    beside = given({"images": [sample.image] if sample.image else [], "width": width, "height": height})
    messages = [
        {"role": "user", "content": f"{mark}{question}{text}"},
        {"role": "assistant", "content": json.dumps(answer, ensure_ascii=False)},
    ]
    return {"id": sample.id, "messages": messages, **beside, "text": text, "tokens": sample.tokens}


def _rows(entity: Entity) -> list[dict]:
    row = {"label": as_written(entity.text), "type": entity.type, **given({"expression": entity.expression})}
    boxes = [(box.xmin, box.ymin, box.xmax, box.ymax) for box in shown_boxes(entity)]
    if not boxes:
        return [{**row, "visible": entity.visible}]
    return [{"bbox_2d": box, **row, "visible": entity.visible} for box in boxes]
