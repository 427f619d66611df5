"""Which column of a table is what: as the user says, or by its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from data_builders.importing.regions.box_formats import LAYOUTS, NAMES, BoxFormat, parse
from rivegs_mllm.types import UserError

NAMED = {
    "id": ("id", "post_id", "tweet_id", "imgid", "sample_id", "uid"),
    "text": ("text", "tweet", "sentence", "caption", "post", "content"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "bio"),
    "image": ("image", "image_path", "img", "picture", "file_name", "filename", "image_file", "photo"),
    "image_width": ("image_width", "img_width"),
    "image_height": ("image_height", "img_height"),
    "entities": ("entities", "ents", "spans", "objects", "mentions"),
    "mention": ("mention", "entity", "entity_text", "surface", "phrase"),
    "start": ("start", "start_char", "begin", "start_offset"),
    "end": ("end", "end_char", "end_offset"),
    "type": ("type", "entity_type", "label", "category", "class"),
    "boxes": ("boxes", "bbox", "box", "bboxes"),
    "masks": ("masks", "mask", "segmentation"),
    "visible": ("visible", "is_visible", "shown"),
    "visible_score": ("visible_score",),
    "expression": ("expression", "referring_expression"),
    "split": ("split", "partition"),
    "knowledge": ("knowledge",),
    "subset": ("subset",),
}
"""The fields of a post and its mention, and the names of columns that are taken for them, the surest first."""

CORNERS = (
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("x", "y", "width", "height"), "xywh"),
    (("x", "y", "w", "h"), "xywh"),
    (("cx", "cy", "w", "h"), "cxcywh"),
    (("x_center", "y_center", "width", "height"), "cxcywh"),
)
"""Columns that are a box together."""

_SIDES = tuple(dict.fromkeys(name for names, _ in CORNERS for name in names))


@dataclass(frozen=True, slots=True)
class Columns:
    """``names`` are the columns by field, ``corners`` the four of a box or (). ``boxes`` and ``layout`` are what the
    columns' names say of the boxes, as in `records.Source`. ``unread`` are the other columns."""

    names: Mapping[str, str]
    corners: tuple[str, ...]
    boxes: BoxFormat | None
    layout: str
    unread: tuple[str, ...]

    def in_words(self) -> str:
        own = [f"{field} is {column!r}" for field, column in self.names.items()]
        box = [f"box is {', '.join(self.corners)}"] if self.corners else []
        rest = f"; not read: {', '.join(map(repr, self.unread))}" if self.unread else ""
        return "columns: " + ", ".join([*own, *box]) + rest


def find_columns(there: Collection[str], said: Mapping[str, str], place: str) -> Columns:
    """The fields of a table with the columns ``there``. ``said`` is the user's choice, by field, or by the
    name of one of the four columns of a box.

    Raises UserError for a field that there is none of, a column that is not there, a box of fewer columns, and a table
    without text and tokens.
    """
    for field, column in said.items():
        if field not in NAMED and field not in _SIDES:
            raise UserError(f"--columns: {field!r} is none of {', '.join((*NAMED, *_SIDES))}")
        if column not in there:
            raise UserError(f"--columns: {place} has no column {column!r}; it has {', '.join(map(repr, there))}")
    lower = {column.strip().casefold(): column for column in reversed(list(there))}
    sides = {field: column for field, column in said.items() if field not in NAMED}
    lower |= sides
    corners, layout = next(
        (
            (tuple(lower[own] for own in names), layout)
            for names, layout in CORNERS
            if sides.keys() <= set(names) <= lower.keys()
        ),
        ((), ""),
    )
    if sides and not corners:
        together = "; ".join(", ".join(names) for names, _ in CORNERS)
        raise UserError(f"--columns: {', '.join(sides)}: a box has four columns: {together}")
    taken = {*said.values(), *corners}
    names = {field: column for field, column in said.items() if field in NAMED}
    for field, own in NAMED.items():
        column = next((lower[name] for name in own if name in lower and lower[name] not in taken), None)
        if field not in names and column is not None:
            names[field] = column
            taken.add(column)
    for plain, field in (("width", "image_width"), ("height", "image_height")):
        if plain in lower and lower[plain] not in taken and field not in names:
            names[field] = lower[plain]
    boxes = None
    if "boxes" not in names and (found := next((own for own in lower if format_in(own)), None)):
        names["boxes"] = lower[found]
        boxes = parse(format_in(found))
    if not names.keys() & {"text", "tokens"}:
        columns = ", ".join(map(repr, there))
        raise UserError(f"{place}: which column is the text? --columns text=NAME says it; there are {columns}")
    unread = tuple(column for column in there if column and column not in {*names.values(), *corners})
    return Columns({field: names[field] for field in NAMED if field in names}, corners, boxes, layout, unread)


def format_in(name: str) -> str:
    """The format that a column's own name gives, such as "xyxy" of "boxes_xyxy", "" for none."""
    head, _, tail = name.rpartition("_")
    return tail if head in NAMED["boxes"] and tail in NAMES and tail.partition("-")[0] in LAYOUTS else ""
