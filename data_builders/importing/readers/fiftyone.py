"""FiftyOne's detections: ``samples.json`` of a folder of type FiftyOneDataset, ``labels.json`` of one of type
FiftyOneImageDetectionDataset. Boxes are shares of 1.

A detection's label is a type, and its attribute called mention, text, phrase or name names what it shows. Pictures may
have a text of their own, in a field called text, caption, tweet or sentence; else the files are regions for texts that
come from elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_builders.importing.fields import Fields, read_json
from data_builders.importing.readers.coco import MENTION, TEXT
from data_builders.importing.records import Left, Mention, Numbers, Post, Region, Source
from data_builders.importing.regions.box_formats import BoxFormat
from data_builders.importing.splitting import split_named
from rivegs_mllm.data.images import MAX_PIXELS
from rivegs_mllm.data.masks import encode
from rivegs_mllm.runtime.foreign import shown
from rivegs_mllm.types import Mask, UserError

_OTHER_KINDS = ("Polyline", "Polylines", "Keypoint", "Keypoints", "Segmentation", "Heatmap")
_FORMAT = BoxFormat("xywh", 1.0)


def read_fiftyone(path: Path, columns: Mapping[str, str]) -> Source:
    """A post a picture. ``columns`` may name the pictures' "text", and as "boxes" the field of their detections.

    Raises UserError.
    """
    file = path
    if path.is_dir():
        file = next((own for name in FILES if (own := path / name).is_file()), path / FILES[-1])
    whole = Fields(read_json(file), str(file))
    if whole.has("samples"):
        return _of_samples(whole, columns)
    labels = whole.fields("labels")
    if not labels.raw:
        raise UserError(f"{file}: no samples and no labels of pictures; export as FiftyOneDataset")
    classes = whole.strings("classes")
    manifest = file.with_name("data.json")
    names = Fields(read_json(manifest), str(manifest)) if manifest.is_file() else Fields({}, str(manifest))
    posts = []
    for name in labels.raw:
        own = [_region(one, classes) for one in labels.each(name)]
        posts.append(Post(f"{file}: {name}", name, image=names.string(name) or name, regions=tuple(own)))
    return Source(posts, _FORMAT)


FILES = ("samples.json", "labels.json")
"""What the folders of FiftyOne's two types hold."""


def _of_samples(whole: Fields, columns: Mapping[str, str]) -> Source:
    samples = list(whole.each("samples"))
    field = columns.get("boxes") or _field(samples, whole.place)
    left: list[Left] = []
    posts = [_post(own, field, columns.get("text", ""), left) for own in samples]
    return Source(posts, _FORMAT, notes=[f"regions: the detections of {field!r}"] if field else [], left=left)


def _field(samples: Sequence[Fields], place: str) -> str:
    """The samples' field of detections, "" where there is none."""
    fields = {key: None for own in samples for key in own.raw if _kind(own, key) in ("Detection", "Detections")}
    if "ground_truth" in fields or len(fields) < 2:
        return "ground_truth" if "ground_truth" in fields else next(iter(fields), "")
    raise UserError(f"{place}: detections stand in {', '.join(map(shown, fields))}; say which by --columns boxes=NAME")


def _kind(own: Fields, key: str) -> str:
    """FiftyOne's class of a field, "" for what is none of its own."""
    value = own.raw.get(key)
    kind = value.get("_cls") if type(value) is dict else None
    return kind if type(kind) is str else ""


def _post(own: Fields, field: str, said: str, left: list[Left]) -> Post:
    size = own.fields("metadata").size("width", "height")
    mentions, regions = [], []
    detections = own.fields(field) if field else Fields({}, own.place)
    for one in detections.each("detections") if detections.has("detections") else [detections] * bool(detections.raw):
        region = _region(one, (), _mask(one, size, left))
        regions.append(region)
        mentions += [Mention(region.label, region.mention)] if region.mention else []
    for key in own.raw:
        if (kind := _kind(own, key)) in _OTHER_KINDS:
            fault = Left("unknown shape", own.place, f"{shown(key)}: a {kind}; it is left out")
            shapes = [one for one in _shapes(own.fields(key), kind) if one.has("label")]
            regions += [Region(one.string("label"), _mention(one), left=fault) for one in shapes]
            left += [] if shapes else [fault]
    key = said or own.first(*TEXT)
    text = own.string(key) if own.has(key) else None
    splits = {split for tag in own.strings("tags") if (split := split_named(tag))}
    return Post(
        place=own.place,
        text=text,
        mentions=tuple(mentions) if text else (),
        regions=tuple(regions),
        image=own.string("filepath"),
        size=size,
        split=splits.pop() if len(splits) == 1 else "",
    )


def _shapes(field: Fields, kind: str) -> list[Fields]:
    """The polylines or key points of a field, which may be one or a list of them."""
    several = {"Polylines": "polylines", "Keypoints": "keypoints"}
    return list(field.each(several[kind])) if kind in several else [field]


def _region(own: Fields, classes: tuple[str, ...], mask: Mask | None = None) -> Region:
    label = own.raw.get("label")
    if type(label) is int and 0 <= label < len(classes):
        label = classes[label]
    if type(label) is not str:
        raise own.fail("label", "a label, or the number of a class")
    return Region(label, _mention(own), box=own.numbers("bounding_box", 4), mask=mask)


def _mention(own: Fields) -> str:
    """What a detection shows, "" where it does not say: an attribute is a value or an object that has one."""
    for fields in (own, own.fields("attributes")):
        value = fields.raw.get(fields.first(*MENTION))
        value = value.get("value") if type(value) is dict else value
        if type(value) is str:
            return value
    return ""


def _mask(own: Fields, size: tuple[int, int] | None, left: list[Left]) -> Mask | None:
    """The pixels of a picture of ``size`` that a detection's mask, which fills its box, covers."""
    if own.has("mask_path") or (own.has("mask") and size is None):
        why = (
            "it lies in a file of its own" if own.has("mask_path") else "the picture's size, its metadata, is not said"
        )
        left.append(Left("mask left out", own.place, f"{why}; its box is kept"))
        return None
    if not own.has("mask"):
        return None
    pixels = _bitmap(own)
    start, top, end, bottom = _edges(own.numbers("bounding_box", 4), size)
    whole = np.zeros((size[1], size[0]), bool)
    if end > start and bottom > top:
        scaled = Image.fromarray(pixels.astype(np.uint8)).resize((end - start, bottom - top), Image.Resampling.NEAREST)
        whole[top:bottom, start:end] = np.asarray(scaled) > 0
    if whole.any():
        return encode(whole)
    left.append(Left("mask left out", own.place, "it covers no pixel of the picture; its box is kept"))
    return None


def _edges(box: Numbers, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in whole pixels, within the picture."""
    left, top, width, height = box
    edges = (left, top, left + width, top + height)
    return tuple(min(max(round(edge * side), 0), side) for edge, side in zip(edges, size * 2, strict=True))


def _bitmap(own: Fields) -> np.ndarray:
    """A NumPy array, compressed, in base64. Raises UserError."""
    code = own.fields("mask").fields("$binary").string("base64")
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(code, validate=True), MAX_PIXELS)
        pixels = np.load(io.BytesIO(content), allow_pickle=False)
    except (binascii.Error, zlib.error, ValueError, EOFError):
        raise UserError(f"{own.place}: mask: not a mask of FiftyOne") from None
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui" or not pixels.size:
        raise UserError(f"{own.place}: mask: not a mask of FiftyOne, which is of rows and columns")
    return pixels != 0
