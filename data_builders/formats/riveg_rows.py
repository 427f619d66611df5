"""The rows that RiVEG's own statistic compares, one an entity, as records and back.

    71044.jpg###Ada Lovelace(PER)###a mathematician###2###&[1.0, 2.0, 30.0, 40.0]&[50.0, 2.0, 70.0, 9.0]
    Imageid:71044.jpg#8465###Ada Lovelace(PER)###Ada Lovelace(PER)-A mathematician.###2###&[1.5, 2.0, 31.0, 40.0]

A gold row (``GMNER_finall_label.txt``) has every box, a predicted one a single one; zeros alone stand for no box, and
the field before is 0 where the picture does not show the entity. Predicted rows are published without their boxes
(``OFAVE_to_OFAREC.txt``), which the grounding model writes to a JSON file, ``[{"uniq_id": "71044.jpg#8465", "box":
[...]}, ...]``. Boxes are in pixels of the original picture.

Rows know neither tokens nor spans; posts read from them have none and are not fit for training. The id of a post
is the name of its picture. A post without entities has no row; ``with_empty_posts`` adds those that have predictions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_builders.findings import Finding
from data_builders.formats.text_files import read_lines, read_text
from rivegs_mllm.runtime.files import write_text
from rivegs_mllm.runtime.foreign import one_line, shown
from rivegs_mllm.types import Box, Entity, Prediction, Sample, UserError

_MARK = "Imageid:"
_BETWEEN = "###"
_ENDING = ".jpg"
_INVISIBLE, _VISIBLE = "0", "2"
_BOX = r"&\[([^\[\]]*)\]"
_NO_BOX = Box(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Row:
    """``picture`` is the first field, ``place`` the file and line."""

    place: str
    picture: str
    entity: Entity


def read_riveg_gold(path: Path | str) -> list[Sample]:
    """The posts of a gold file in the order of their first row. Raises UserError naming file and line.

    A box of zeros in a row that says visible is kept: no prediction agrees with it.
    """
    posts: dict[str, list[Entity]] = {}
    for row in _rows(path):
        entity = row.entity
        if not row.picture.endswith(_ENDING):
            raise UserError(f"{row.place}: {shown(row.picture)} is not the name of a {_ENDING} picture")
        if not entity.boxes:
            raise UserError(f"{row.place}: no {_BETWEEN}&[xmin, ymin, xmax, ymax] at its end; zeros stand for no box")
        if not entity.visible:
            entity = replace(entity, boxes=())
        posts.setdefault(row.picture.removesuffix(_ENDING), []).append(entity)
    return [Sample(identity, (), entities=tuple(entities)) for identity, entities in posts.items()]


def read_riveg_predictions(path: Path | str, boxes: Path | str | None = None) -> list[Prediction]:
    """The predictions of a file in the order of their posts' first row. Raises UserError naming file and line.

    ``boxes`` is the grounding model's file, for visible rows that have no box; one must be there.
    """
    found = {} if boxes is None else _read_boxes(boxes)
    posts: dict[str, list[Entity]] = {}
    for row in _rows(path):
        identity, between, number = row.picture.removeprefix(_MARK).rpartition(f"{_ENDING}#")
        if not row.picture.startswith(_MARK) or not identity or not number:
            raise UserError(f"{row.place}: {shown(row.picture)} is not {_MARK}<id>{_ENDING}#<number of the row>")
        name = f"{row.entity.text}({row.entity.type})-"
        entity = replace(row.entity, expression=row.entity.expression.removeprefix(name))
        own = entity.boxes or found.get(f"{identity}{between}{number}", ())
        posts.setdefault(identity, []).append(_with_box(entity, own, row.place))
    return [Prediction(identity, entities=tuple(entities)) for identity, entities in posts.items()]


def with_empty_posts(samples: Sequence[Sample], predictions: Iterable[Prediction]) -> list[Sample]:
    """``samples``, and after them a post without entities for each id that only predictions have."""
    known = {sample.id for sample in samples}
    strays = dict.fromkeys(prediction.id for prediction in predictions if prediction.id not in known)
    return [*samples, *(Sample(identity, ()) for identity in strays)]


def write_riveg_gold(path: Path | str, samples: Iterable[Sample]) -> None:
    """One row a gold entity. Raises UserError for what the rows cannot say."""
    _write(
        path,
        (
            _line(f"{sample.id}{_ENDING}", entity, entity.expression, entity.boxes or (_NO_BOX,))
            for sample in samples
            for entity in sample.entities
        ),
    )


def write_riveg_predictions(path: Path | str, predictions: Iterable[Prediction]) -> list[Finding]:
    """One row a predicted entity. Rows hold one box: of several the first is written, and a finding says so.

    Raises UserError for what the rows cannot say.
    """
    lines: list[str] = []
    findings: list[Finding] = []
    for prediction in predictions:
        for entity in prediction.entities:
            if len(entity.boxes) > 1:
                message = f"{shown(entity.text)} has {len(entity.boxes)} boxes; only the first is written"
                findings.append(Finding("several boxes", prediction.id, message))
            picture = f"{_MARK}{prediction.id}{_ENDING}#{len(lines):04x}"
            expression = f"{entity.text}({entity.type})-{entity.expression}"
            lines.append(_line(picture, entity, expression, entity.boxes[:1] or (_NO_BOX,)))
    _write(path, lines)
    return findings


def _rows(path: Path | str) -> Iterator[_Row]:
    """Expressions may hold the separator, so that the fields after them are counted from the end."""
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        picture, *fields = line.split(_BETWEEN)
        boxes = _boxes(fields.pop(), place) if fields and fields[-1].startswith("&") else ()
        if len(fields) < 3:
            raise UserError(f"{place}: not picture###mention(TYPE)###expression###0 or 2###&[...] but {shown(line)}")
        name, *expression, visible = fields
        text, opened, kind = name.removesuffix(")").rpartition("(")
        if not name.endswith(")") or not opened or not text or not kind:
            raise UserError(f"{place}: {shown(name)} is not mention(TYPE)")
        # OFA's entailment knows a third class, 1, which RiVEG's statistic counts as visible.
        if visible not in (_INVISIBLE, "1", _VISIBLE):
            raise UserError(f"{place}: {shown(visible)} stands where 0 (not in the picture) or 2 (in it) belongs")
        if visible == _INVISIBLE and any(box != _NO_BOX for box in boxes):
            raise UserError(f"{place}: says 0, not in the picture, but has a box")
        sentence = _BETWEEN.join(expression).strip()
        yield _Row(place, picture, Entity(text, kind, None, sentence, visible != _INVISIBLE, boxes=boxes))


def _with_box(entity: Entity, boxes: tuple[Box, ...], place: str) -> Entity:
    """The predicted entity with its box, if it is visible and the box is one."""
    if not entity.visible:
        return replace(entity, boxes=())
    if not boxes:
        raise UserError(
            f"{place}: in the picture, but without a box; append {_BETWEEN}&[xmin, ymin, xmax, ymax] or give the "
            "grounding model's file with it"
        )
    if len(boxes) > 1:
        raise UserError(f"{place}: {len(boxes)} boxes, but a predicted row has one")
    return replace(entity, boxes=tuple(box for box in boxes if box != _NO_BOX))


def _boxes(field: str, place: str) -> tuple[Box, ...]:
    if not re.fullmatch(f"(?:{_BOX})+", field.strip()):
        raise UserError(f"{place}: {shown(field)} is not a row of &[xmin, ymin, xmax, ymax]")
    return tuple(_box(edges.split(","), place) for edges in re.findall(_BOX, field))


def _box(edges: object, place: str) -> Box:
    try:
        numbers = list(map(float, edges)) if isinstance(edges, list) else []
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{place}: {shown(edges)} is not a box of four numbers")
    return Box(*numbers)


def _read_boxes(path: Path | str) -> dict[str, tuple[Box, ...]]:
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {one_line(error)}") from None
    if not isinstance(values, list):
        raise UserError(f'{path}: not a list of {{"uniq_id": ..., "box": [...]}}')
    boxes: dict[str, tuple[Box, ...]] = {}
    for index, value in enumerate(values):
        place = f"{path}: [{index}]"
        if not isinstance(value, dict) or not isinstance(value.get("uniq_id"), str):
            raise UserError(f'{place}: not {{"uniq_id": ..., "box": [...]}}')
        if value["uniq_id"] in boxes:
            raise UserError(f"{place}: a second box of {value['uniq_id']}")
        boxes[value["uniq_id"]] = (_box(value.get("box"), place),)
    return boxes


def _line(picture: str, entity: Entity, expression: str, boxes: Sequence[Box]) -> str:
    name = f"{entity.text}({entity.type})"
    for field in (picture, name):
        if _BETWEEN in field or "\n" in field:
            raise UserError(f"{shown(field)} cannot be written as a field between {_BETWEEN}")
    if "(" in entity.type or ")" in entity.type:
        raise UserError(f"{picture}: the type {shown(entity.type)} cannot be written in brackets")
    visible = bool(entity.boxes) if entity.visible is None else entity.visible
    # A space keeps a last # of the expression apart from the separator's.
    sentence = " ".join(expression.split()) + " " * expression.rstrip().endswith("#")
    regions = "".join(map(_region, boxes if visible else (_NO_BOX,)))
    return _BETWEEN.join((picture, name, sentence, _VISIBLE if visible else _INVISIBLE, regions))


def _region(box: Box) -> str:
    if box == _NO_BOX:
        return "&[0, 0, 0, 0]"
    return f"&{[float(edge) for edge in (box.xmin, box.ymin, box.xmax, box.ymax)]}"


def _write(path: Path | str, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    write_text(Path(path), text)
