"""The fine-tuned end-to-end model as a stage, in every slot whose field it writes, or in all at once.

Its answer is prefilled with what earlier slots have predicted, the segments before its own; it writes its own segment
and stops. A cascade of this stage alone gives the predictions of `rivegs predict` with the end-to-end recipe. Where
`rivegs calibrate` has left its file with the adapter, visibility is decided by it; unlike `predict`, which has written
the boxes by then, the cascade also grounds what only the calibration makes visible. Where the answer cannot be read (no
yes or no, a mention that is not in the post), ``errors`` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.analysis.calibration import Calibration, read_calibration
from rivegs_mllm.answer.serialization import text_order
from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.entailment.base import Entailment
from rivegs_mllm.cascade.grounding.base import Grounder
from rivegs_mllm.cascade.knowledge.base import Knowledge
from rivegs_mllm.cascade.knowledge.expansion import Expander
from rivegs_mllm.cascade.tagging.base import Tagger
from rivegs_mllm.config.answering import Answering, read_answering
from rivegs_mllm.config.reading.layers import read_layers
from rivegs_mllm.config.schema import PredictRecipe
from rivegs_mllm.config.trained import local_folder, trained_folder
from rivegs_mllm.models.adapter import load_trained, trained_files
from rivegs_mllm.models.base_model import prepare_for_inference
from rivegs_mllm.models.device import count_parameters
from rivegs_mllm.models.generation.batch_plan import plan
from rivegs_mllm.models.generation.generator import Generator
from rivegs_mllm.types import Entity, Prediction, Sample, UserError

SEGMENT_OF = {
    "knowledge": "knowledge",
    "tagger": "entities",
    "expander": "expressions",
    "entailment": "visible",
    "grounder": "boxes",
}
"""The segment of an answer that fills a slot's field."""


@dataclass(frozen=True)
class EndToEndModel:
    """The loaded model, its settings of prediction, and the calibration that was stored with the adapter."""

    generator: Generator
    settings: PredictRecipe
    calibration: Calibration | None

    @property
    def num_parameters(self) -> int:
        """How many base and adapter have."""
        return count_parameters(self.generator.system.model)

    def batches(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Indices of all samples, batch by batch."""
        return plan(samples, self.generator, self.settings)


def load_end_to_end(settings: Answering, weights: Path, folder: Path) -> EndToEndModel:
    """``weights`` is the adapter, ``folder`` what pictures are relative to. Raises UserError where it does not load."""
    calibration = read_calibration(weights)
    system = prepare_for_inference(load_trained(weights, settings))
    generator = Generator(
        system,
        folder,
        settings.predict.max_new_tokens,
        settings.max_length,
        constrain=settings.predict.constrain,
    )
    return EndToEndModel(generator, settings.predict, calibration)


@dataclass
class Mllm(Knowledge, Tagger, Expander, Entailment, Grounder):
    """The end-to-end model of ``recipe``, in any slot whose field it writes.

    ``adapter`` is a trained folder or a hub id, null for where the recipe's training leaves it.
    """

    recipe: Path
    adapter: Path | None = None
    SEES_GOLD: ClassVar[bool] = False

    def requires_in(self, slot: str) -> Sequence[str]:
        """The slots of the segments before the slot's own in the model's answers: they are forced, so must be filled.

        Raises StageError where the model does not write the slot's segment.
        """
        before = _before(tuple(read_answering(self.recipe).answer.segments), slot)
        return tuple(name for name, segment in SEGMENT_OF.items() if segment in before)

    def files(self) -> Sequence[Path]:
        """Those of the recipe, its bases among them, and of the adapter."""
        return (*read_layers(self.recipe).files, *trained_files(self._weights()))

    def model_key(self) -> Hashable:
        """Settings and adapter."""
        return repr(self._settings()), self._weights().resolve()

    def load_model(self, folder: Path) -> EndToEndModel:
        """See ``load_end_to_end``."""
        return load_end_to_end(self._settings(), self._weights(), folder)

    def stage_in(self, slot: str, model: EndToEndModel) -> Stage:
        """The stage. Raises StageError where the model does not write the slot's segment."""
        return MllmStage(model, slot)

    def _settings(self) -> Answering:
        return read_answering(self.recipe, trained=self._weights())

    def _weights(self) -> Path:
        return local_folder(self.adapter) if self.adapter else trained_folder(self.recipe)


for _slot in (Knowledge, Tagger, Expander, Entailment, Grounder):
    _slot.register_subclass("mllm", Mllm)


class MllmStage:
    """A loaded end-to-end model in one slot."""

    def __init__(self, model: EndToEndModel, slot: str):
        before = _before(model.generator.system.answer_format.segments, slot)
        self.model = model
        self.slot = slot
        self.segment = SEGMENT_OF[slot]
        self.prefix_segment = before[-1] if before else None
        self.num_parameters = model.num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        filled = list(partials)
        open_ = [index for index, partial in enumerate(partials) if self._has_work(samples[index], partial)]
        for planned in self.model.batches([samples[index] for index in open_]):
            batch = [open_[place] for place in planned]
            answers = self._answers([samples[index] for index in batch], [partials[index] for index in batch])
            for index, answer in zip(batch, answers, strict=True):
                filled[index] = self._filled(partials[index], answer)
        return filled

    def _answers(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        generator = self.model.generator
        if self.prefix_segment is None:
            return generator.answer(samples, last=self.segment)
        given = [self._as_prefix(partial) for partial in partials]
        try:
            return generator.continue_answers(samples, given, self.prefix_segment, only=self.segment)
        except UserError as error:
            raise StageError(
                f"{self.slot} (mllm): {error}; the model can only continue what it could have written itself: "
                "let earlier stages use its types and fields, or train it on theirs"
            ) from None

    def _has_work(self, sample: Sample, partial: Prediction) -> bool:
        if self.slot in ("knowledge", "tagger"):
            return True
        if self.slot == "grounder":
            return bool(sample.image) and any(entity.visible for entity in partial.entities)
        return bool(partial.entities)

    def _as_prefix(self, partial: Prediction) -> Prediction:
        """The partial prediction as an answer can express it: an entity whose visibility is unknown gets no box."""
        if self.slot != "grounder" or all(entity.visible is not None for entity in partial.entities):
            return partial
        entities = tuple(dataclasses.replace(entity, visible=bool(entity.visible)) for entity in partial.entities)
        return dataclasses.replace(partial, entities=entities)

    def _filled(self, partial: Prediction, answer: Prediction) -> Prediction:
        """The partial prediction with the slot's own field as answered."""
        own = {
            "knowledge": lambda: {"knowledge": answer.knowledge},
            "tagger": lambda: {"entities": answer.entities},
            "expander": lambda: {"entities": self._entities(partial, answer, "expression")},
            "entailment": lambda: {"entities": self._decided(partial, answer)},
            "grounder": lambda: {"entities": self._entities(partial, answer, "boxes")},
        }
        errors = partial.errors + tuple(error for error in answer.errors if error not in partial.errors)
        return dataclasses.replace(partial, raw=answer.raw, errors=errors, **own[self.slot]())

    def _entities(self, partial: Prediction, answer: Prediction, *fields: str) -> tuple[Entity, ...]:
        """The partial prediction's entities in its order, with the answer's fields; an answer has them in the order
        of the text."""
        entities = list(partial.entities)
        indices = sorted(range(len(entities)), key=lambda index: text_order(entities[index]))
        for index, answered in zip(indices, answer.entities, strict=True):
            values = {field: getattr(answered, field) for field in fields}
            entities[index] = dataclasses.replace(entities[index], **values)
        return tuple(entities)

    def _decided(self, partial: Prediction, answer: Prediction) -> tuple[Entity, ...]:
        """The partial prediction's entities with the answer's decisions, by the calibration where there is one."""
        entities = self._entities(partial, answer, "visible", "visible_score")
        calibration = self.model.calibration
        if calibration is None:
            return entities
        return tuple(
            entity
            if (score := entity.visible_score) is None
            else dataclasses.replace(
                entity, visible=calibration.is_visible(score), visible_score=calibration.probability(score)
            )
            for entity in entities
        )


class EndToEndStage:
    """A loaded end-to-end model that fills all fields at once, as in `rivegs predict`."""

    def __init__(self, model: EndToEndModel):
        self.model = model
        self.num_parameters = model.num_parameters

    def __call__(self, samples: Sequence[Sample], partials: Sequence[Prediction]) -> list[Prediction]:
        generator, calibration = self.model.generator, self.model.calibration
        answers = list(partials)
        for batch in self.model.batches(samples):
            for index, answer in zip(batch, generator.answer([samples[index] for index in batch]), strict=True):
                answers[index] = answer if calibration is None else calibration.apply(answer)
        return answers


def _before(segments: tuple[str, ...], slot: str) -> tuple[str, ...]:
    """The segments before the slot's own. Raises StageError where it is not among them."""
    segment = SEGMENT_OF.get(slot)
    if segment is None:
        raise StageError(f"{slot} (mllm): the end-to-end model writes no {slot} field; choose another type")
    if segment not in segments:
        raise StageError(
            f"{slot} (mllm): the model's answers have no segment '{segment}' (they have {', '.join(segments)}); "
            f"choose another type for {slot}, or train with answer.segments that hold it"
        )
    return segments[: segments.index(segment)]
