"""The record as JSON lines: reading with validation that names file, line and field, writing complete files only.

docs/format.md describes both formats for those who write them from another system.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeGuard, TypeVar

import orjson

from rivegs_mllm.data.field_errors import FieldError
from rivegs_mllm.data.raw_text import is_raw_text, tokenized
from rivegs_mllm.runtime.files import complete_file, drop_incomplete_line
from rivegs_mllm.runtime.foreign import numbered_lines, shown
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

RECORD_VERSION = 1
SPLITS = ("train", "dev", "test")
LONGEST_SIDE = 2**31 - 1
"""In pixels; no format of pictures has longer ones."""

Record = TypeVar("Record", Sample, Prediction)


class RecordError(UserError):
    """A line that is not a valid record. The message names the file, the line, the field and the fault."""


def read_samples(path: Path | str) -> list[Sample]:
    """The samples of a JSONL file, in its order. Raises RecordError, also for an id that comes twice."""
    return list(_read(Path(path), sample_from_json))


def read_predictions(path: Path | str) -> list[Prediction]:
    """The predictions of a JSONL file, in its order. Raises RecordError, also for an id that comes twice.

    A dataset's samples are predictions too: those of an annotator, or the gold.
    """
    return list(_read(Path(path), prediction_from_json))


def load_partial(partial: Path, samples: Sequence[Sample], hint: str) -> list[Prediction]:
    """The predictions that an interrupted run left in ``partial``, an incomplete last line dropped.

    Raises UserError, with ``hint``, unless they are of the first of ``samples``, in their order.
    """
    if not partial.exists():
        return []
    drop_incomplete_line(partial)
    done = read_predictions(partial)
    if [prediction.id for prediction in done] != [sample.id for sample in samples[: len(done)]]:
        raise UserError(f"{partial} does not hold these posts in this order; {hint}")
    return done


def stream_samples(path: Path | str) -> Iterator[Sample]:
    """As `read_samples`, one by one, for files that do not fit into memory; RecordError is raised at the line."""
    return _read(Path(path), sample_from_json)


def stream_predictions(path: Path | str) -> Iterator[Prediction]:
    """As `read_predictions`, one by one; RecordError is raised at the line."""
    return _read(Path(path), prediction_from_json)


def read_split(folder: Path | str, split: str, without: Collection[int] = ()) -> list[Sample]:
    """The samples of ``folder/<split>.jsonl``, without those on some of its lines, from 1.

    Raises RecordError when the folder has no such split.
    """
    check_split(folder, split)
    return list(_read(Path(folder) / f"{split}.jsonl", sample_from_json, without))


def check_split(folder: Path | str, split: str) -> None:
    """Raises RecordError that says which splits there are, where ``folder`` has no such split."""
    path = Path(folder) / f"{split}.jsonl"
    if path.is_file():
        return
    found = sorted(p.stem for p in Path(folder).glob("*.jsonl"))
    missing = f"{folder}: no split '{split}' (looked for {path.name})"
    if found:
        raise RecordError(f"{missing}; it has {', '.join(found)}")
    state = "it has no .jsonl file" if Path(folder).is_dir() else "there is no such folder"
    raise RecordError(f"{missing}; {state}; `rivegs build` and `rivegs import` make datasets")


def write_records(path: Path | str, records: Iterable[Sample | Prediction]) -> None:
    """Writes one record a line, a complete file or none. Raises `files.WriteError`."""
    with complete_file(Path(path)) as file:
        file.writelines(to_line(record) for record in records)


def to_line(record: Sample | Prediction) -> bytes:
    """One record as a line of JSON in UTF-8, its line feed included. Fields at their default are left out."""
    as_json = _sample_to_json(record) if isinstance(record, Sample) else _prediction_to_json(record)
    return orjson.dumps({"version": RECORD_VERSION, **as_json}, option=orjson.OPT_APPEND_NEWLINE)


def check_sample(sample: Sample) -> str:
    """Why a reader would refuse the sample's line, "" where it would accept it."""
    try:
        sample_from_json(orjson.loads(to_line(sample)))
    except FieldError as fault:
        return str(fault)
    return ""


def scan_samples(path: Path | str) -> Iterator[tuple[int, Sample | RecordError]]:
    """The number of each line that is not blank, and its sample or what is wrong with it: for audits, which continue.

    A line comes once for each of its faults, of an entity only the first.
    """
    return _scan(Path(path), sample_from_json, _sample_faults)


def _read(path: Path, parse: Callable[[object], Record], without: Collection[int] = ()) -> Iterator[Record]:
    for number, record in _scan(path, parse):
        if number in without:
            continue
        if isinstance(record, RecordError):
            raise record
        yield record


def _scan(
    path: Path, parse: Callable[[object], Record], faults: Callable[[object], Iterable[str]] = lambda _: ()
) -> Iterator[tuple[int, Record | RecordError]]:
    if not path.is_file():
        raise RecordError(f"{path}: no such file")
    seen: dict[str, int] = {}
    for number, line in numbered_lines(path):
        decoded: object = None
        try:
            decoded = orjson.loads(line)
            record = parse(decoded)
        except orjson.JSONDecodeError as error:
            yield number, RecordError(f"{path}:{number}: not JSON: {error}")
        except FieldError as fault:
            for message in dict.fromkeys([str(fault), *faults(decoded)]):
                yield number, RecordError(f"{path}:{number}: {message}")
        else:
            if seen.setdefault(record.id, number) == number:
                yield number, record
            else:
                message = f"id: {shown(record.id)} is already on line {seen[record.id]}"
                yield number, RecordError(f"{path}:{number}: {message}")


_SAMPLE_KEYS = frozenset(("version", "id", "tokens", "image", "size", "entities", "knowledge", "subset"))
_PREDICTION_KEYS = frozenset(("version", "id", "knowledge", "entities", "raw", "errors"))
_ENTITY_KEYS = frozenset(("text", "type", "span", "expression", "visible", "visible_score", "boxes", "masks"))


def sample_from_json(value: object) -> Sample:
    """A sample from decoded JSON, whose tokens are given, or found in a text. Raises FieldError."""
    if type(value) is dict and is_raw_text(value):
        value = tokenized(value)
    elif type(value) is dict and "tokens" not in value and {"id"} < value.keys() <= _PREDICTION_KEYS:
        raise FieldError("line: a prediction, which has no tokens, in the place of a sample: the gold is named first")
    raw = _mapping(value, "line", _SAMPLE_KEYS)
    identity = _identity(raw)
    tokens = _strings(raw.get("tokens"), "tokens")
    for index, token in enumerate(tokens):
        if not token or token != "".join(token.split()):
            raise FieldError(f"tokens[{index}]: {shown(token)} is empty or holds white space")
    size = raw.get("size")
    if size is not None and not _is_size(size):
        raise FieldError(f"size: {shown(size)} is not [width, height] in pixels")
    entities = _entities(raw)
    for index, entity in enumerate(entities):
        _check_gold(entity, tokens, size, f"entities[{index}]")
    return Sample(
        id=identity,
        tokens=tokens,
        image=_string(raw, "image"),
        size=None if size is None else (size[0], size[1]),
        entities=entities,
        knowledge=_strings(_given(raw, "knowledge", []), "knowledge"),
        subset=_string(raw, "subset"),
    )


def _sample_faults(value: object) -> Iterator[str]:
    """The faults of a line: the first of each field, and of each entity."""
    if type(value) is not dict:
        return
    if is_raw_text(value):
        of_text = list(_fault(tokenized, value))
        if of_text:
            yield from of_text
            return
        value = tokenized(value)
    # Each field in a line that is right otherwise, since the parser stops at the first fault.
    for key in sorted({"id", "tokens", *value} - {"entities"}):
        yield from _fault(sample_from_json, {"id": "-", "tokens": [], key: value.get(key)})
    entities, tokens, size = value.get("entities"), value.get("tokens"), value.get("size")
    readable = not any(_fault(_strings, tokens, "tokens"))
    for index, entity in enumerate(entities if type(entities) is list else []):
        if readable:
            yield from _fault(_gold_entity, entity, index, tuple(tokens or ()), size if _is_size(size) else None)
        else:
            yield from _fault(_entity, entity, index)


def _fault(check: Callable[..., object], *arguments: object) -> Iterator[str]:
    try:
        check(*arguments)
    except FieldError as fault:
        yield str(fault)


def prediction_from_json(value: object) -> Prediction:
    """A prediction from decoded JSON, also from that of a sample. Raises FieldError."""
    if isinstance(value, dict) and ("tokens" in value or "text" in value):
        sample = sample_from_json(value)
        return Prediction(sample.id, next(iter(sample.knowledge), ""), sample.entities)
    raw = _mapping(value, "line", _PREDICTION_KEYS)
    return Prediction(
        id=_identity(raw),
        knowledge=_string(raw, "knowledge"),
        entities=_entities(raw),
        raw=_string(raw, "raw"),
        errors=_strings(_given(raw, "errors", []), "errors"),
    )


def _gold_entity(value: object, index: int, tokens: tuple[str, ...], size: list[int] | None) -> Entity:
    entity = _entity(value, index)
    _check_gold(entity, tokens, size, f"entities[{index}]")
    return entity


def _check_gold(entity: Entity, tokens: tuple[str, ...], size: list[int] | None, where: str) -> None:
    if entity.span is None:
        raise FieldError(f"{where}.span: a gold entity needs its token offsets [start, end]")
    start, end = entity.span
    if end > len(tokens):
        raise FieldError(f"{where}.span: [{start}, {end}] reaches past the {len(tokens)} tokens")
    if " ".join(tokens[start:end]) != entity.text:
        raise FieldError(
            f"{where}.text: {shown(entity.text)} is not the tokens of its span, {shown(' '.join(tokens[start:end]))}"
        )
    if entity.boxes and entity.visible is False:
        raise FieldError(f"{where}.visible: false, but the entity has boxes")
    for index, box in enumerate(entity.boxes):
        if box.xmax <= box.xmin or box.ymax <= box.ymin:
            raise FieldError(f"{where}.boxes[{index}]: has no area")
    for index, mask in enumerate(entity.masks):
        height, width = mask.size
        if size is not None and [width, height] != size:
            raise FieldError(
                f"{where}.masks[{index}].size: a mask of {width} x {height} on a picture of {size[0]} x {size[1]}"
            )
        if _area(mask, f"{where}.masks[{index}]") == 0:
            raise FieldError(f"{where}.masks[{index}]: covers no pixel")


def _entities(raw: dict[str, object]) -> tuple[Entity, ...]:
    values = _given(raw, "entities", [])
    if type(values) is not list:
        raise FieldError("entities: not a list")
    return tuple([_entity(value, index) for index, value in enumerate(values)])


def _entity(value: object, index: int) -> Entity:
    where = f"entities[{index}]"
    raw = _mapping(value, where, _ENTITY_KEYS)
    text, kind = raw.get("text"), raw.get("type")
    if type(text) is not str or not text:
        raise FieldError(f"{where}.text: {shown(text)} is not a non-empty string")
    if type(kind) is not str or not kind:
        raise FieldError(f"{where}.type: {shown(kind)} is not a non-empty string")
    span = raw.get("span")
    if span is not None and not (_is_ints(span, 2) and 0 <= span[0] < span[1]):
        raise FieldError(f"{where}.span: {shown(span)} is not [start, end] with 0 <= start < end")
    visible = raw.get("visible")
    if visible is not None and type(visible) is not bool:
        raise FieldError(f"{where}.visible: {shown(visible)} is not true, false or null")
    score = raw.get("visible_score")
    if score is not None and not (_is_number(score) and 0 <= score <= 1):
        raise FieldError(f"{where}.visible_score: {shown(score)} is not a probability")
    return Entity(
        text=text,
        type=kind,
        span=None if span is None else (span[0], span[1]),
        expression=_string(raw, "expression", f"{where}."),
        visible=visible,
        visible_score=score,
        boxes=_boxes(_given(raw, "boxes", []), where),
        masks=_masks(_given(raw, "masks", []), where),
    )


def _boxes(values: object, where: str) -> tuple[Box, ...]:
    if type(values) is not list:
        raise FieldError(f"{where}.boxes: not a list")
    for index, value in enumerate(values):
        if type(value) is not list or len(value) != 4 or not all(map(_is_number, value)):
            raise FieldError(f"{where}.boxes[{index}]: {shown(value)} is not [xmin, ymin, xmax, ymax] in pixels")
    return tuple([Box(*value) for value in values])


def _masks(values: object, where: str) -> tuple[Mask, ...]:
    if type(values) is not list:
        raise FieldError(f"{where}.masks: not a list")
    masks = []
    for index, value in enumerate(values):
        raw = _mapping(value, f"{where}.masks[{index}]", frozenset(("size", "counts")))
        size, counts = raw.get("size"), raw.get("counts")
        if not _is_size(size):
            raise FieldError(f"{where}.masks[{index}].size: {shown(size)} is not [height, width] in pixels")
        if type(counts) is not str:
            raise FieldError(
                f"{where}.masks[{index}].counts: {shown(counts)} is not COCO's compressed run-length code, a string"
            )
        mask = Mask((size[0], size[1]), counts)
        try:
            _area(mask, f"{where}.masks[{index}]")
        except UserError as error:
            raise FieldError(str(error)) from None
        masks.append(mask)
    return tuple(masks)


def _area(mask: Mask, where: str) -> int:
    from rivegs_mllm.data.masks import mask_area  # here, since numpy takes as long to import as all else together

    return mask_area(mask, where)


def _mapping(value: object, where: str, known: frozenset[str]) -> dict[str, object]:
    if type(value) is not dict:
        raise FieldError(f"{where}: not a JSON object")
    if _given(value, "version", RECORD_VERSION) != RECORD_VERSION:
        raise FieldError(f"version: {shown(value['version'])}; this release reads version {RECORD_VERSION}")
    unknown = value.keys() - known
    if unknown:
        raise FieldError(f"{where}: unknown field {shown(sorted(unknown)[0])}; known are {', '.join(sorted(known))}")
    return value


def _identity(raw: dict[str, object]) -> str:
    identity = raw.get("id")
    if type(identity) is not str or not identity:
        raise FieldError(f"id: {shown(identity)} is not a non-empty string")
    return identity


def _given(raw: dict[str, object], key: str, default: object) -> object:
    """The value of a field that may be left out; null, as pandas and `datasets` write it, is left out."""
    value = raw.get(key)
    return default if value is None else value


def _string(raw: dict[str, object], key: str, where: str = "") -> str:
    value = _given(raw, key, "")
    if type(value) is not str:
        raise FieldError(f"{where}{key}: {shown(value)} is not a string")
    return value


def _strings(values: object, where: str) -> tuple[str, ...]:
    if type(values) is not list:
        raise FieldError(f"{where}: not a list")
    for index, value in enumerate(values):
        if type(value) is not str:
            raise FieldError(f"{where}[{index}]: {shown(value)} is not a string")
    return tuple(values)


# `type(value) is int`, here and above, since isinstance takes true and false for numbers.
def _is_size(values: object) -> TypeGuard[list[int]]:
    return _is_ints(values, 2) and all(0 < side <= LONGEST_SIDE for side in values)


def _is_number(value: object) -> TypeGuard[float]:
    return (type(value) is int or type(value) is float) and math.isfinite(value)


def _is_ints(values: object, length: int) -> TypeGuard[list[int]]:
    return type(values) is list and len(values) == length and all(type(value) is int for value in values)


def _sample_to_json(sample: Sample) -> dict[str, object]:
    raw: dict[str, object] = {"id": sample.id, "tokens": sample.tokens}
    if sample.image:
        raw["image"] = sample.image
    if sample.size is not None:
        raw["size"] = sample.size
    raw["entities"] = [_entity_to_json(entity) for entity in sample.entities]
    if sample.knowledge:
        raw["knowledge"] = sample.knowledge
    if sample.subset:
        raw["subset"] = sample.subset
    return raw


def _prediction_to_json(prediction: Prediction) -> dict[str, object]:
    raw: dict[str, object] = {
        "id": prediction.id,
        "entities": [_entity_to_json(entity) for entity in prediction.entities],
    }
    if prediction.knowledge:
        raw["knowledge"] = prediction.knowledge
    if prediction.raw:
        raw["raw"] = prediction.raw
    if prediction.errors:
        raw["errors"] = prediction.errors
    return raw


def _entity_to_json(entity: Entity) -> dict[str, object]:
    raw: dict[str, object] = {"text": entity.text, "type": entity.type}
    if entity.span is not None:
        raw["span"] = entity.span
    if entity.expression:
        raw["expression"] = entity.expression
    if entity.visible is not None:
        raw["visible"] = entity.visible
    if entity.visible_score is not None:
        raw["visible_score"] = entity.visible_score
    if entity.boxes:
        raw["boxes"] = [(box.xmin, box.ymin, box.xmax, box.ymax) for box in entity.boxes]
    if entity.masks:
        raw["masks"] = [{"size": mask.size, "counts": mask.counts} for mask in entity.masks]
    return raw
