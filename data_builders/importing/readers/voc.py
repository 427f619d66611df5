"""A folder of VOC's XML files, one a picture, named by the picture: regions for texts that come from elsewhere."""

from __future__ import annotations

from pathlib import Path

from data_builders.formats.voc import read_annotation
from data_builders.importing.records import Post, Region, Source
from data_builders.importing.regions.box_formats import PIXELS


def read_voc(path: Path) -> Source:
    """A post without text a file. Raises UserError."""
    posts = []
    for file in sorted(path.glob("*.xml")):
        found = read_annotation(file)
        regions = tuple(Region(name, box=(box.xmin, box.ymin, box.xmax, box.ymax)) for name, box in found.objects)
        posts.append(Post(str(file), image=file.stem, regions=regions, size=found.size))
    return Source(posts, PIXELS)
