"""What the Hugging Face `evaluate` modules of eval/metrics share: their inputs and the figures they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Features, List, Value
from evaluate import Metric, MetricInfo

from eval.protocols import Criteria
from eval.scores import evaluate
from rivegs_mllm.types import Box, Entity, Mask, Prediction, Sample, UserError

INPUTS = """
Args:
    predictions (list of dict): one a post, {"entities": [...]}. An entity is {"text": str, "type": str} and, as far as
        it is known, "span": [start, end] in tokens, end-exclusive, "visible": bool, "boxes": [[xmin, ymin, xmax, ymax],
        ...] in pixels of the original picture and "masks": [{"size": [height, width], "counts": str}, ...] in COCO's
        compressed run-length encoding.
    references (list of dict): one a post, in the order of the predictions, of the same form.
    protocol (str): what counts as correct: "strict" (default), "riveg", "e2e", "hindex" or "mqspn", see
        docs/evaluation.md. "e2e" takes the size of a picture from "size": [width, height] of its reference, "hindex"
        and "mqspn" find mentions without a span in "tokens": [...] of it.
    iou (float): the IoU that a region has to reach, 0.5 by default.
"""

OUTPUTS = """
Returns:
    precision, recall, f1 (float): micro averages, from 0 to 1; 0 where there is nothing to divide by.
    correct, predicted, gold (int): the counts they are made of.
"""


class TaskMetric(Metric):
    """A task as a module: `evaluate` copies each file, so every task has its own, which says what differs."""

    TASK: str
    DESCRIPTION: str
    CITATION: str
    EXAMPLE: str

    def _info(self):
        return MetricInfo(
            description=self.DESCRIPTION,
            citation=self.CITATION,
            inputs_description=INPUTS + OUTPUTS + self.EXAMPLE,
            features=features(),
        )

    def add_batch(self, *, predictions=None, references=None):
        """Adds posts; fields of theirs that are left out are not known."""
        super().add_batch(predictions=complete(predictions), references=complete(references))

    def add(self, *, prediction=None, reference=None):
        """Adds a post."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(self, predictions, references, protocol="strict", iou=0.5):
        return compute(self.TASK, predictions, references, protocol, iou)


def features() -> Features:
    """The inputs of every module. Fields of an entity that are left out, or None, are not known."""
    entity = {
        "text": Value("string"),
        "type": Value("string"),
        "span": List(Value("int64")),
        "visible": Value("bool"),
        "boxes": List(List(Value("float64"))),
        "masks": List({"size": List(Value("int64")), "counts": Value("string")}),
    }
    post = {"entities": List(entity), "tokens": List(Value("string")), "size": List(Value("int64"))}
    return Features({"predictions": post, "references": post})


def complete(posts: Sequence[Mapping] | None) -> list[dict] | None:
    """The posts with None or nothing for fields that are left out, which `evaluate` does not do without.

    Raises UserError for a field that is not known.
    """
    if posts is None:
        return None
    wanted = features()["predictions"]
    return [
        {
            **_filled(post, wanted, f"post {index}"),
            "entities": [
                _filled(entity, wanted["entities"].feature, f"post {index}") for entity in post.get("entities") or ()
            ],
        }
        for index, post in enumerate(posts)
    ]


def compute(
    task: str, predictions: Sequence[Mapping], references: Sequence[Mapping], protocol: str, iou: float
) -> dict[str, float]:
    """The figures of one task. Raises UserError for inputs that are wrong, with the number of the post."""
    gold = [_sample(post, index) for index, post in enumerate(references)]
    predicted = [Prediction(str(index), entities=_entities(post, index)) for index, post in enumerate(predictions)]
    figures = evaluate(gold, predicted, Criteria([protocol], iou))[protocol]["all"]
    if task not in figures:
        raise UserError(f"{task} needs masks in the predictions and in the references")
    return figures[task]


def _filled(given: Mapping, wanted: Mapping, where: str) -> dict:
    unknown = given.keys() - wanted.keys()
    if unknown:
        raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(wanted)}")
    return {
        key: given.get(key) if isinstance(feature, Value) else given.get(key) or [] for key, feature in wanted.items()
    }


def _sample(post: Mapping, index: int) -> Sample:
    size = post.get("size")
    return Sample(
        str(index),
        tuple(post.get("tokens") or ()),
        size=(size[0], size[1]) if size else None,
        entities=_entities(post, index),
    )


def _entities(post: Mapping, index: int) -> tuple[Entity, ...]:
    return tuple(_entity(raw, f"post {index}") for raw in post["entities"] or ())


def _entity(raw: Mapping, where: str) -> Entity:
    if not raw["text"] or not raw["type"]:
        raise UserError(f"{where}: an entity without text or type: {dict(raw)}")
    span, boxes, masks = raw.get("span"), raw.get("boxes") or (), raw.get("masks") or ()
    if span and len(span) != 2:
        raise UserError(f"{where}: {raw['text']!r} has the span {span}, which is not [start, end]")
    if any(len(box) != 4 for box in boxes):
        raise UserError(f"{where}: a box of {raw['text']!r} is not [xmin, ymin, xmax, ymax]: {boxes}")
    return Entity(
        raw["text"],
        raw["type"],
        (span[0], span[1]) if span else None,
        visible=raw.get("visible"),
        boxes=tuple(Box(*box) for box in boxes),
        masks=tuple(Mask((mask["size"][0], mask["size"][1]), mask["counts"]) for mask in masks),
    )
