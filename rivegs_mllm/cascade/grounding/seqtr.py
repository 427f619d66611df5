"""The grounder ``seqtr`` (arXiv 2203.16265): the box of a referring expression, written as four coordinates.

It encodes pictures with DarkNet-53, or with the frozen vision tower of a Qwen-VL base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.cascade.base import Stage, StageError, named_errors
from rivegs_mllm.cascade.checkpoint import VISION_FOLDER, read_metadata
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage
from rivegs_mllm.cascade.grounding.seqtr_predictor import PixelInput, SeqTRPredictor, TowerInput
from rivegs_mllm.cascade.grounding.seqtr_training import STAGE, TYPE_NAME, SeqTRTraining
from rivegs_mllm.cascade.referring import all_parts, check_parts, slots_required_by
from rivegs_mllm.models.device import best_device, count_parameters
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.seqtr.checkpoint import load, load_published, read_vocabulary
from rivegs_mllm.published.seqtr.preparation import MAX_WORDS, SIDE
from rivegs_mllm.published.seqtr.sizes import MASK
from rivegs_mllm.types import UserError


@dataclass(frozen=True)
class SeqTRSource:
    """The source of a stage's model: ``checkpoint`` is the folder that ``rivegs train`` wrote, or a checkpoint of the
    authors, a file or a folder of safetensors, with the words that it knows in ``words``, a JSON file of numbers by
    word."""

    checkpoint: Path
    words: Path | None
    types: Sequence[str]
    query_fields: Sequence[str] | None
    as_published: bool | None

    @property
    def foreign(self) -> bool:
        """Whether it is one of the authors."""
        return self.words is not None or self.checkpoint.is_file()

    def parts(self, stage: str) -> Sequence[str]:
        """The parts of the referring expression: those asked for, those it was trained with, or all."""
        if self.query_fields is not None:
            return self.query_fields
        return all_parts() if self.foreign else self._metadata(stage).settings["query_fields"]

    def predictor(self, stage: str) -> tuple[SeqTRPredictor, int]:
        """The model, on the GPU where there is one, and its size. Raises StageError in one line."""
        with named_errors(stage):
            predictor, vision_encoder = self._published() if self.foreign else self._trained(stage)
        device = best_device()
        predictor.model.to(device)
        towers = [] if vision_encoder is None else [vision_encoder.tower.to(device)]
        return predictor, count_parameters(predictor.model, *towers)

    def _published(self) -> tuple[SeqTRPredictor, None]:
        if self.words is None:
            raise UserError(f"{self.checkpoint} has no vocabulary; set `words`, a JSON file of word ids")
        model = load_published(self.checkpoint, as_published=bool(self.as_published))
        known = read_vocabulary(self.words, model.sizes.words)
        return SeqTRPredictor(model, PixelInput(SIDE), known, MAX_WORDS), None

    def _trained(self, stage: str) -> tuple[SeqTRPredictor, VisionEncoder | None]:
        settings = self._metadata(stage).settings
        doubtful = settings["as_published"] if self.as_published is None else self.as_published
        model, known = load(self.checkpoint, doubtful)
        vision_encoder = None if settings["base"] is None else VisionEncoder.load(self.checkpoint / VISION_FOLDER)
        image_input = PixelInput(settings["side"]) if vision_encoder is None else TowerInput(vision_encoder)
        return SeqTRPredictor(model, image_input, known, settings["max_words"]), vision_encoder

    def _metadata(self, stage: str):
        return read_metadata(self.checkpoint, stage, TYPE_NAME, self.types, SeqTRTraining)


@Grounder.register_subclass(TYPE_NAME)
@dataclass
class SeqTRGrounder(Grounder):
    """A trained grounder. ``checkpoint`` and ``words`` are those of ``SeqTRSource``, ``types`` what it must know.

    ``query_fields`` is the parts of the referring expression, null for those that it was trained with.
    ``as_published`` keeps what is doubtful in the original (``rivegs_mllm.published.seqtr.model``); null: where it was
    trained so.
    """

    checkpoint: Path
    words: Path | None = None
    query_fields: list[str] | None = None
    types: list[str] | None = None
    as_published: bool | None = None
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.query_fields is not None:
            check_parts(self.query_fields)

    def requires(self) -> Sequence[str]:
        """The expressions, where the queries contain them."""
        return slots_required_by(self._source().parts(STAGE))

    def load(self, folder: Path) -> Stage:
        """The stage. Raises StageError for a model that writes no box, or that cannot be loaded."""
        source = self._source()
        predictor, num_parameters = source.predictor(STAGE)
        if predictor.model.sizes.task == MASK:
            raise StageError(f"{STAGE}: {self.checkpoint} writes masks alone; make it a segmenter, or train for boxes")
        return GroundingStage(TYPE_NAME, predictor.locate, source.parts(STAGE), folder, num_parameters)

    def _source(self) -> SeqTRSource:
        return SeqTRSource(self.checkpoint, self.words, self.types, self.query_fields, self.as_published)
