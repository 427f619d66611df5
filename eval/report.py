"""One HTML page that shows what a system gets right and wrong. It needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.draw import Picture, PictureError, small_picture
from eval.protocols import BOX, EEG, GMNER, MNER, STRICT, Task
from eval.scores import align, evaluate, said_visible
from rivegs_mllm.types import Box, Entity, Prediction, Sample

SAME_MENTION = Task("mention", typed=False, region=None)


@dataclass(frozen=True, slots=True)
class Line:
    """An entity as a line of the page: what was said of it and whether that is right (None: it is the gold)."""

    entity: Entity
    visible: bool
    verdict: str = ""
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system said about a post. ``hue`` is its colour on the page, in degrees."""

    system: str
    hue: int
    lines: list[Line]
    boxes: list[tuple[Box, str]]
    raw: str
    errors: tuple[str, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Card:
    """A post of the gallery. ``words`` are (text, type) pieces of its text, type "" outside the gold mentions."""

    sample: Sample
    picture: Picture | None
    problem: str
    words: list[tuple[str, str]]
    gold: list[Line]
    gold_boxes: list[tuple[Box, str]]
    answers: list[Answer]


def write_report(
    out: Path,
    gold: Sequence[Sample],
    predictions: Mapping[str, Sequence[Prediction]],
    image_root: Path,
    limit: int = 60,
    title: str = "Grounded named entities",
) -> list[str]:
    """Writes the page to ``out``: scores of every system of ``predictions`` (name -> its predictions), then pictures.

    At most ``limit`` posts are shown, wrong and right ones in equal parts as far as there are, spread evenly over
    the gold; which is which is decided by the last system. ``image_root`` is the folder that the samples' image
    paths are relative to. Returns what is wrong with pictures that are missing or not of the size on record;
    the page says so too. Raises UserError as `eval.scores.evaluate` does.
    """
    results = {name: evaluate(gold, answers) for name, answers in predictions.items()}
    by_id = {name: {answer.id: answer for answer in answers} for name, answers in predictions.items()}
    last = list(by_id.values())[-1] if by_id else {}
    cards = [_card(sample, by_id, image_root) for sample in _choose(gold, last, limit)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        results=results,
        hues={name: _hue(place) for place, name in enumerate(results)},
        cards=cards,
        posts=len(gold),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)
    return [card.problem for card in cards if card.problem]


def _choose(gold: Sequence[Sample], answers: Mapping[str, Prediction], limit: int) -> list[Sample]:
    wrong, right, empty = [], [], []
    for place, sample in enumerate(gold):
        said = answers[sample.id].entities if sample.id in answers else ()
        if not (sample.image and (sample.entities or said)):
            empty.append(place)
        else:
            (right if _all_right(sample.entities, said) else wrong).append(place)
    half = limit // 2
    n_right = min(len(right), max(half, limit - len(wrong)))
    n_wrong = min(len(wrong), limit - n_right)
    chosen = _spread(right, n_right) + _spread(wrong, n_wrong) + _spread(empty, limit - n_right - n_wrong)
    return [gold[place] for place in sorted(chosen)]


def _spread(places: Sequence[int], count: int) -> list[int]:
    count = min(count, len(places))
    return [places[index * len(places) // count] for index in range(count)]


def _all_right(golds: Sequence[Entity], said: Sequence[Entity]) -> bool:
    return len(golds) == len(said) == len(STRICT.correct(golds, said, GMNER))


def _card(sample: Sample, by_id: Mapping[str, Mapping[str, Prediction]], image_root: Path) -> Card:
    picture, problem = None, ""
    if sample.image:
        try:
            picture = small_picture(image_root / sample.image)
        except PictureError as error:
            problem = f"post {sample.id}: {error}"
    if picture and sample.size not in (None, (picture.width, picture.height)):
        shown, noted = f"{picture.width} x {picture.height}", f"{sample.size[0]} x {sample.size[1]}"
        problem = f"post {sample.id}: the picture has {shown} pixels, the record says {noted}"
    nothing = Prediction(sample.id)
    return Card(
        sample=sample,
        picture=picture,
        problem=problem,
        words=_words(sample),
        gold=[Line(entity, said_visible(entity)) for entity in sample.entities],
        gold_boxes=_labelled(sample.entities),
        answers=[
            _answer(name, place, sample.entities, answers.get(sample.id, nothing))
            for place, (name, answers) in enumerate(by_id.items())
        ],
    )


def _answer(system: str, place: int, golds: Sequence[Entity], prediction: Prediction) -> Answer:
    return Answer(
        system=system,
        hue=_hue(place),
        lines=_lines(golds, prediction.entities),
        boxes=_labelled(prediction.entities),
        raw=prediction.raw,
        errors=prediction.errors,
        right=_all_right(golds, prediction.entities),
    )


def _hue(place: int) -> int:
    return (28 + 257 * place) % 360


def _labelled(entities: Sequence[Entity]) -> list[tuple[Box, str]]:
    return [(box, entity.text) for entity in entities for box in BOX.of(entity)]


def _lines(golds: Sequence[Entity], said: Sequence[Entity]) -> list[Line]:
    """The predicted entities in their order, each with its verdict, then the gold ones that were missed."""
    pairs = align(golds, said, (GMNER, MNER, EEG, SAME_MENTION))
    gold_of = {place: golds[index] for index, place in pairs}
    missed = sorted(set(range(len(golds))) - {index for index, _ in pairs})
    lines = [_judged(gold_of.get(place), entity) for place, entity in enumerate(said)]
    return lines + [Line(golds[index], said_visible(golds[index]), "missed", False) for index in missed]


def _judged(gold: Entity | None, entity: Entity) -> Line:
    visible = said_visible(entity)
    if gold is None:
        return Line(entity, visible, "not in the gold", False)
    if gold.type != entity.type:
        return Line(entity, visible, f"type, gold is {gold.type}", False)
    wanted, given = BOX.of(gold), BOX.of(entity)
    if not wanted and not given:
        return Line(entity, visible, "right", True)
    if not given:
        return Line(entity, visible, "in the picture, but not boxed", False)
    if not wanted:
        return Line(entity, visible, "not in the picture, but boxed", False)
    iou, right = BOX.best_iou(given[0], wanted), bool(STRICT.correct([gold], [entity], GMNER))
    return Line(entity, visible, f"{'right' if right else 'box off'}, IoU {iou:.2f}", right)


def _words(sample: Sample) -> list[tuple[str, str]]:
    """The text in pieces; a token of several gold mentions goes to the first of them."""
    owner: list[Entity | None] = [None] * len(sample.tokens)
    for entity in reversed(sample.entities):
        if entity.span:
            owner[slice(*entity.span)] = [entity] * (entity.span[1] - entity.span[0])
    pieces: list[tuple[str, str]] = []
    previous: Entity | None = None
    for token, entity in zip(sample.tokens, owner, strict=True):
        if pieces and entity is previous:
            pieces[-1] = (f"{pieces[-1][0]} {token}", pieces[-1][1])
        else:
            pieces.append((token, entity.type if entity else ""))
        previous = entity
    return pieces
