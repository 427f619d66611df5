"""Annotated posts that stand in a knowledge prompt as examples, in a JSONL that docs/distilling.md describes."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from rivegs_mllm.runtime.files import complete_file
from rivegs_mllm.runtime.foreign import numbered_lines, shown
from rivegs_mllm.types import TYPES, Entity, Sample, UserError

EXAMPLES_VERSION = 1
TYPE_WORDS = {
    "PER": "person",
    "LOC": "location",
    "ORG": "organization",
    "OTHER": "miscellaneous",
    "MISC": "miscellaneous",
}
"""The types in plain words; any other type is called by its own name in lower case."""

_KEYS = {"version", "id", "text", "image", "caption", "entities", "relation"}
_ENTITY_KEYS = {"text", "type", "explanation", "shown"}


class ExampleError(UserError):
    """A line that is no annotated post. The message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class FewShotEntity:
    """A named entity of an example: what it is, in a sentence, and whether the picture shows it (None: not said)."""

    text: str
    type: str
    explanation: str = ""
    shown: bool | None = None

    @property
    def visibility(self) -> str:
        """Whether the picture shows it, in words."""
        if self.shown is None:
            return ""
        return f"The picture shows {self.text}." if self.shown else f"The picture does not show {self.text}."


@dataclass(frozen=True, slots=True)
class FewShotExample:
    """An annotated post. ``image`` is a path, "" without a picture; ``relation`` how picture and text are related."""

    id: str
    text: str
    image: str = ""
    caption: str = ""
    entities: tuple[FewShotEntity, ...] = ()
    relation: str = ""

    @property
    def answer(self) -> str:
        """The annotation as the answer that the teacher is to imitate: a line of names, then the explanations."""
        names = "; ".join(f"{entity.text} ({type_word(entity.type)})" for entity in self.entities)
        sentences = [part for entity in self.entities for part in (entity.explanation, entity.visibility) if part]
        rest = " ".join([*sentences, self.relation]).strip()
        return f"Named entities: {names or 'none'}" + (f"\n{rest}" if rest else "")


def type_words(names: Collection[str]) -> list[str]:
    """The types of a question in plain words: all four of Twitter-GMNER where there are no others."""
    return [type_word(name) for name in (TYPES if set(names) <= set(TYPES) else names)]


def type_word(name: str) -> str:
    """A type in plain words."""
    return TYPE_WORDS.get(name, name.lower())


def read_examples(path: Path) -> list[FewShotExample]:
    """The examples of a JSONL file, their pictures' paths made relative to the working folder. Raises ExampleError."""
    if not path.is_file():
        raise ExampleError(f"{path}: no such file; start one with `rivegs distill-examples`")
    examples: dict[str, FewShotExample] = {}
    for number, line in numbered_lines(path):
        try:
            example = _example(orjson.loads(line), path.parent)
        except orjson.JSONDecodeError as error:
            raise ExampleError(f"{path}:{number}: not JSON: {error}") from None
        except ExampleError as fault:
            raise ExampleError(f"{path}:{number}: {fault}") from None
        if example.id in examples:
            raise ExampleError(f"{path}:{number}: id: {shown(example.id)} is there already")
        examples[example.id] = example
    if not examples:
        raise ExampleError(f"{path}: holds no example")
    return list(examples.values())


def write_examples(path: Path, examples: Sequence[FewShotExample]) -> None:
    """Writes one example a line, pictures relative to the file; never a half file."""
    with complete_file(path) as file:
        for example in examples:
            entities = [
                {"text": entity.text, "type": entity.type, "explanation": entity.explanation, "shown": entity.shown}
                for entity in example.entities
            ]
            raw = {
                "version": EXAMPLES_VERSION,
                "id": example.id,
                "text": example.text,
                "image": os.path.relpath(example.image, path.parent) if example.image else "",
                "caption": example.caption,
                "entities": entities,
                "relation": example.relation,
            }
            file.write(orjson.dumps(raw, option=orjson.OPT_APPEND_NEWLINE))


def draft_examples(
    samples: Sequence[Sample], folder: Path, count: int, seed: int, captions: Mapping[str, str] | None = None
) -> list[FewShotExample]:
    """The beginning of an example set: ``count`` labelled posts drawn at random, for people to correct and complete.

    What the gold and the captions know is filled in. Explanations are the sentence of the post's own knowledge that
    names the entity, or else its expression, and "" where there is neither: those are for people to write. Posts with
    a name come first, so that few examples are empty. ``folder`` is what the samples' pictures are relative to. Raises
    UserError for a count below 1, or above the number of posts.
    """
    if count < 1:
        raise UserError(f"distill-examples: --count {count} posts; it must be 1 or more")
    if count > len(samples):
        raise UserError(f"{count} examples cannot be drawn from {len(samples)} posts; ask for fewer")
    rng = random.Random(seed)
    drawn = rng.sample(samples, len(samples))
    drawn.sort(key=lambda sample: not sample.entities)  # stable, so otherwise still in random order
    return [_started(sample, folder, (captions or {}).get(sample.id, "")) for sample in drawn[:count]]


def _started(sample: Sample, folder: Path, caption: str) -> FewShotExample:
    entities = tuple(
        FewShotEntity(entity.text, entity.type, _explanation(sample, entity), entity.visible)
        for entity in sample.entities
    )
    belongs = any(entity.shown for entity in entities)
    relation = "Text and picture belong together." if belongs else "The picture shows none of the names in the text."
    image = str(folder / sample.image) if sample.image else ""
    return FewShotExample(sample.id, sample.text, image, caption, entities, relation if sample.image else "")


def _explanation(sample: Sample, entity: Entity) -> str:
    sentences = [part for text in sample.knowledge[:1] for part in text.split(". ")]
    known = next((part.rstrip(".") for part in sentences if entity.text.casefold() in part.casefold()), "")
    looks = f"{entity.text} looks like {entity.expression}" if entity.expression else ""
    return " ".join(f"{part}." for part in (known, looks) if part)


def _example(raw: object, folder: Path) -> FewShotExample:
    if type(raw) is not dict:
        raise ExampleError("not a JSON object")
    raw = _given(raw)
    if raw.get("version", EXAMPLES_VERSION) != EXAMPLES_VERSION:
        raise ExampleError(f"version: {shown(raw['version'])}; this release reads version {EXAMPLES_VERSION}")
    if unknown := raw.keys() - _KEYS:
        raise ExampleError(f"unknown field {shown(sorted(unknown)[0])}; known are {', '.join(sorted(_KEYS))}")
    for key in ("id", "text"):
        if not (type(raw.get(key)) is str and raw[key].strip()):
            raise ExampleError(f"{key}: {shown(raw.get(key))} is not a non-empty string")
    for key in ("image", "caption", "relation"):
        if type(raw.get(key, "")) is not str:
            raise ExampleError(f"{key}: {shown(raw[key])} is not a string")
    if type(raw.get("entities", [])) is not list:
        raise ExampleError("entities: not a list")
    entities = tuple(_explained(value, index, raw["text"]) for index, value in enumerate(raw.get("entities", [])))
    image = str(folder / raw["image"]) if raw.get("image") else ""
    return FewShotExample(raw["id"], raw["text"], image, raw.get("caption", ""), entities, raw.get("relation", ""))


def _given(raw: dict) -> dict:
    """The fields that are not null, which is how pandas and `datasets` write one that is left out."""
    return {key: value for key, value in raw.items() if value is not None}


def _explained(raw: object, index: int, text: str) -> FewShotEntity:
    where = f"entities[{index}]"
    if type(raw) is not dict:
        raise ExampleError(f"{where}: not a JSON object")
    raw = _given(raw)
    if unknown := raw.keys() - _ENTITY_KEYS:
        raise ExampleError(
            f"{where}: unknown field {shown(sorted(unknown)[0])}; known are {', '.join(sorted(_ENTITY_KEYS))}"
        )
    for key in ("text", "type"):
        if not (type(raw.get(key)) is str and raw[key].strip()):
            raise ExampleError(f"{where}.{key}: {shown(raw.get(key))} is not a non-empty string")
    if raw["text"] not in text:
        raise ExampleError(f"{where}.text: {shown(raw['text'])} does not stand in the example's text")
    if type(raw.get("explanation", "")) is not str:
        raise ExampleError(f"{where}.explanation: {shown(raw['explanation'])} is not a string")
    if raw.get("shown") is not None and type(raw["shown"]) is not bool:
        raise ExampleError(f"{where}.shown: {shown(raw['shown'])} is not true, false or null")
    return FewShotEntity(raw["text"], raw["type"], raw.get("explanation", ""), raw.get("shown"))
