"""A ``datasets.DatasetDict`` in ``dataset``, a split a split and a split a system, pictures in it.

``datasets.load_from_disk("out/dataset")`` reads it, ``push_to_hub`` brings it on the hub. Entities are a list of
objects, offsets those of tokens, boxes those of records.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from data_builders.exporting.sides import Side, shown_boxes, shown_masks
from rivegs_mllm.data.images import is_outside
from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import Entity, Sample, UserError

_VISIBLE = {True: "true", False: "false", None: "undecided"}
FOLDER = "dataset"


def write_datasets(out: Path, gold: Sequence[Side], systems: Sequence[Side]) -> list[str]:
    """Writes ``dataset``, beside an old one that it then replaces. Raises UserError for pictures that are missing,
    and for those from outside the dataset's folder that the side does not allow."""
    import datasets  # of the extra `metrics`

    features = _features()
    # Names of splits are words to `datasets`.
    names = {side.name: "".join(sign if sign.isalnum() else "_" for sign in side.name) for side in [*gold, *systems]}
    partial = out / f"{FOLDER}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        splits = {
            names[side.name]: datasets.Dataset.from_list(
                [_row(sample, side) for sample in side.samples], features=features
            )
            for side in [*gold, *systems]
        }
        datasets.DatasetDict(splits).save_to_disk(str(partial))
    except Exception as error:  # Arrow's and Pillow's many
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, (OSError, UserError)):
            raise
        raise UserError(f"{out}: `datasets` cannot write it: {one_line(error)}") from error
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    partial.rename(out / FOLDER)
    return []


def _features():
    from datasets import Features, Image, List, Value

    text = Value("string")
    entity = {
        "text": text,
        "type": text,
        "start": Value("int32"),
        "end": Value("int32"),
        "expression": text,
        "visible": text,
        "visible_score": Value("float64"),
        "boxes_xyxy": List(List(Value("float64"))),
        "masks": List({"size": List(Value("int32")), "counts": text}),
    }
    size = {"image_width": Value("int32"), "image_height": Value("int32")}
    post = {"id": text, "tokens": List(text), "image": Image(), **size, "entities": List(entity)}
    return Features({**post, "knowledge": List(text), "subset": text})


def _row(sample: Sample, side: Side) -> dict:
    width, height = sample.size or (None, None)
    picture = side.root / sample.image if sample.image else None
    if picture is not None and is_outside(sample.image, side.root, side.image_root):  # the export may be passed on
        raise UserError(
            f"post {sample.id!r}: {picture}: the picture lies outside the dataset's folder: not put into the export, "
            "unless --image-root names the folder it is in"
        )
    if picture is not None and not picture.is_file():
        raise UserError(f"post {sample.id!r}: {picture}: no such picture")
    return {
        "id": sample.id,
        "tokens": list(sample.tokens),
        "image": str(picture) if picture else None,
        "image_width": width,
        "image_height": height,
        "entities": [_entity(entity) for entity in sample.entities],
        "knowledge": list(sample.knowledge),
        "subset": sample.subset,
    }


def _entity(entity: Entity) -> dict:
    start, end = entity.span or (None, None)
    return {
        "text": entity.text,
        "type": entity.type,
        "start": start,
        "end": end,
        "expression": entity.expression,
        "visible": _VISIBLE[entity.visible],
        "visible_score": entity.visible_score,
        "boxes_xyxy": [[box.xmin, box.ymin, box.xmax, box.ymax] for box in shown_boxes(entity)],
        "masks": [{"size": list(mask.size), "counts": mask.counts} for mask in shown_masks(entity)],
    }
