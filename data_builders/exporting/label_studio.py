"""Label Studio's JSON: tasks with spans of the text, rectangles, and a relation from each span to its rectangles.

The gold of a split is a task's annotation, what a system says its predictions, pre-annotations with scores.
``labels.xml`` is the labelling interface that fits, with the types of ``dataset.json`` and those that occur.
Pictures are named as Label Studio serves them from local files,
``/data/local-files/?d=`` and their path below the dataset's folder, which LOCAL_FILES_DOCUMENT_ROOT is to name.
Masks become brush strokes. Offsets count as JavaScript does, an emoji as two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from data_builders.exporting.sides import Side, characters, given, regions, types_of, verdict, write_as_json
from data_builders.formats.brush import encode_brush
from rivegs_mllm.data.dataset_info import read_info
from rivegs_mllm.data.masks import box_of, decode
from rivegs_mllm.data.written import written
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.types import Box, Entity, Mask, Sample

_FILES = "/data/local-files/?d="
_INTERFACE = """\
<View>
  <Image name="image" value="$image"/>
  <Text name="text" value="$text"/>
  <Labels name="label" toName="text">
{labels}  </Labels>
  <RectangleLabels name="box" toName="image">
{labels}  </RectangleLabels>
  <BrushLabels name="mask" toName="image">
{labels}  </BrushLabels>
  <Choices name="visible" toName="text" perRegion="true" choice="single">
    <Choice value="visible"/>
    <Choice value="not visible"/>
    <Choice value="undecided"/>
  </Choices>
  <TextArea name="expression" toName="text" perRegion="true"/>
  <Relations/>
</View>
"""


def write_label_studio(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``<split>.json`` and ``labels.xml``. Systems answer the one split of ``gold``."""
    answers = [{sample.id: sample for sample in side.samples} for side in systems]
    for side in gold:
        tasks = []
        for number, sample in enumerate(side.samples, 1):
            task = {"id": number, "data": _data(sample, side)}
            annotations = [{"result": _results(sample)}] if sample.entities or not systems else []
            predictions = [
                _prediction(system.name, own[sample.id]) for system, own in zip(systems, answers, strict=True)
            ]
            tasks.append({**task, "annotations": annotations, "predictions": predictions})
        write_as_json(out / f"{side.name}.json", tasks)
    infos = [info for root in {side.root for side in gold} if (info := read_info(root))]
    types = {*types_of([*gold, *systems]), *(name for info in infos for name in info.types)}
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in sorted(types))
    write_text(out / "labels.xml", _INTERFACE.format(labels=labels))
    return []


def _data(sample: Sample, side: Side) -> dict:
    width, height = sample.size or (None, None)
    image = _FILES + quote(sample.image) if sample.image else None
    beside = {"image": image, "width": width, "height": height, "knowledge": sample.knowledge, "subset": sample.subset}
    return {
        "post": sample.id,
        "text": written(sample.tokens),
        "tokens": sample.tokens,
        "split": side.name,
        **given(beside),
    }


def _prediction(name: str, sample: Sample) -> dict:
    scores = [entity.visible_score for entity in sample.entities if entity.visible_score is not None]
    score = {"score": sum(scores) / len(scores)} if scores else {}
    return {"model_version": name, **score, "result": _results(sample)}


def _results(sample: Sample) -> list[dict]:
    results = []
    for number, entity in enumerate(sample.entities):
        place = characters(sample, entity)
        if place is not None:
            results += _of_entity(sample, entity, f"entity{number}", place)
    return results


def _of_entity(sample: Sample, entity: Entity, key: str, place: tuple[int, int]) -> list[dict]:
    text = written(sample.tokens)
    start, end = (len(text[:offset].encode("utf-16-le")) // 2 for offset in place)
    span = {"start": start, "end": end, "text": text[slice(*place)]}
    of_text = {"id": key, "to_name": "text"}
    scores = {} if entity.visible_score is None else {"score": entity.visible_score}
    meta = {"meta": {"visible_score": entity.visible_score}} if scores else {}
    named = {**span, "labels": [entity.type]}
    results = [
        {**of_text, "from_name": "label", "type": "labels", "value": named, **scores, **meta},
        {**of_text, "from_name": "visible", "type": "choices", "value": {**span, "choices": [verdict(entity.visible)]}},
    ]
    if entity.expression:
        value = {**span, "text": [entity.expression]}
        results.append({**of_text, "from_name": "expression", "type": "textarea", "value": value})
    if sample.size is None:
        return results
    for number, (box, mask) in enumerate(regions(entity)):
        for kind, result in _geometry(box, mask, entity.type, sample.size):
            own = {"id": f"{key}-{kind}{number}", "to_name": "image", **result, **scores}
            results += [own, {"type": "relation", "from_id": key, "to_id": own["id"], "direction": "right"}]
    return results


def _geometry(
    box: Box | None, mask: Mask | None, kind: str, size: tuple[int, int]
) -> list[tuple[str, Mapping[str, object]]]:
    """A rectangle in per cent of the picture, and a brush stroke."""
    frame = {"original_width": size[0], "original_height": size[1], "image_rotation": 0}
    found = []
    if box is not None:
        across, down = size[0] / 100, size[1] / 100
        sides = {"width": (box.xmax - box.xmin) / across, "height": (box.ymax - box.ymin) / down, "rotation": 0}
        value = {"x": box.xmin / across, "y": box.ymin / down, **sides, "rectanglelabels": [kind]}
        found.append(("box", {**frame, "from_name": "box", "type": "rectanglelabels", "value": value}))
    if mask is not None and box_of(mask):
        value = {"format": "rle", "rle": encode_brush(decode(mask)), "brushlabels": [kind]}
        found.append(("mask", {**frame, "from_name": "mask", "type": "brushlabels", "value": value}))
    return found
