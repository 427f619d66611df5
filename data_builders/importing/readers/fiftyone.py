"""FiftyOne's detections: ``labels.json`` of a folder of type FiftyOneImageDetectionDataset, boxes as shares of 1.

Of each picture's detections the label is a type, and an attribute called mention names what it shows. There are no
texts, so that the files are regions for texts that come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_builders.importing.fields import Fields, read_json
from data_builders.importing.records import Post, Region, Source
from data_builders.importing.regions.box_formats import BoxFormat
from rivegs_mllm.types import UserError


def read_fiftyone(path: Path, _: Mapping[str, str]) -> Source:
    """A post without text a picture. Raises UserError."""
    file = path / "labels.json" if path.is_dir() else path
    whole = Fields(read_json(file), str(file))
    labels = whole.fields("labels")
    if not labels.raw:
        raise UserError(f"{file}: no labels of pictures; export as FiftyOneImageDetectionDataset")
    classes = whole.strings("classes")
    manifest = file.with_name("data.json")
    names = Fields(read_json(manifest), str(manifest)) if manifest.is_file() else Fields({}, str(manifest))
    posts = []
    for name in labels.raw:
        own = [_region(one, classes) for one in labels.each(name)]
        posts.append(Post(f"{file}: {name}", name, image=names.string(name) or name, regions=tuple(own)))
    return Source(posts, BoxFormat("xywh", 1.0))


def _region(own: Fields, classes: tuple[str, ...]) -> Region:
    label = own.raw.get("label")
    if type(label) is int and 0 <= label < len(classes):
        label = classes[label]
    if type(label) is not str:
        raise own.fail("label", "a label, or the number of a class")
    attributes = own.fields("attributes")
    mention = attributes.raw.get(attributes.first("mention", "text", "phrase"))
    return Region(label, mention if type(mention) is str else "", box=own.numbers("bounding_box", 4))
