"""The grounder ``seqtr`` (arXiv 2203.16265): the box of a referring expression, written as four coordinates.

It looks through DarkNet-53, or through the vision tower of a Qwen-VL base, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.checkpoint import read_card
from rivegs_mllm.cascade.grounding.base import Grounder, GroundingStage
from rivegs_mllm.cascade.grounding.seqtr_training import EYES, KIND, STAGE, SeqTRTraining, parameters_of
from rivegs_mllm.cascade.grounding.seqtr_writer import Pixels, Tower, Writer
from rivegs_mllm.cascade.referring import all_parts, check_parts, needed
from rivegs_mllm.models.device import best_device
from rivegs_mllm.models.late_interaction import VisionEncoder
from rivegs_mllm.published.seqtr.checkpoint import load, load_published, read_vocabulary
from rivegs_mllm.published.seqtr.preparation import MOST_WORDS, SIDE
from rivegs_mllm.published.seqtr.sizes import MASK
from rivegs_mllm.types import TYPES, UserError


@dataclass(frozen=True)
class Source:
    """Where a stage's model is: ``checkpoint`` is the folder that ``rivegs train`` wrote, or a checkpoint of the
    authors, a file or a folder of safetensors, with the words that it knows in ``words``, a JSON file of numbers by
    word."""

    checkpoint: Path
    words: Path | None
    types: Sequence[str]
    refer: Sequence[str] | None
    as_published: bool | None

    @property
    def foreign(self) -> bool:
        """Whether it is one of the authors."""
        return self.words is not None or self.checkpoint.is_file()

    def parts(self, stage: str) -> Sequence[str]:
        """The parts of the referring expression: those asked for, those it was trained with, or all."""
        if self.refer is not None:
            return self.refer
        return all_parts() if self.foreign else self._card(stage).settings["refer"]

    def writer(self, stage: str) -> tuple[Writer, int]:
        """The model, on the GPU where there is one, and its size. Raises StageError in one line."""
        try:
            writer, eyes = self._published() if self.foreign else self._trained(stage)
        except UserError as error:
            said = str(error)
            raise StageError(said if said.startswith(stage) else f"{stage}: {said}") from None
        device = best_device()
        writer.model.to(device)
        towers = [] if eyes is None else [eyes.tower.to(device)]
        return writer, parameters_of(writer.model, *towers)

    def _published(self) -> tuple[Writer, None]:
        if self.words is None:
            raise UserError(f"{self.checkpoint} has no words; set `words`, a JSON file of numbers by word")
        model = load_published(self.checkpoint, as_published=bool(self.as_published))
        known = read_vocabulary(self.words, model.sizes.words)
        return Writer(model, Pixels(SIDE), known, MOST_WORDS), None

    def _trained(self, stage: str) -> tuple[Writer, VisionEncoder | None]:
        settings = self._card(stage).settings
        doubtful = settings["as_published"] if self.as_published is None else self.as_published
        model, known = load(self.checkpoint, doubtful)
        eyes = None if settings["base"] is None else VisionEncoder.load(self.checkpoint / EYES)
        sight = Pixels(settings["side"]) if eyes is None else Tower(eyes)
        return Writer(model, sight, known, settings["most_words"]), eyes

    def _card(self, stage: str):
        return read_card(self.checkpoint, stage, KIND, self.types, SeqTRTraining)


@Grounder.register_subclass(KIND)
@dataclass
class SeqTRGrounder(Grounder):
    """A trained grounder. ``checkpoint`` and ``words`` are those of ``Source``, ``types`` what it must know.

    ``refer`` is the parts of the referring expression, null for those that it was trained with. ``as_published`` keeps
    what is doubtful in the original (``rivegs_mllm.published.seqtr.model``); null: where it was trained so.
    """

    checkpoint: Path
    words: Path | None = None
    refer: list[str] | None = None
    types: list[str] = field(default_factory=lambda: list(TYPES))
    as_published: bool | None = None
    SEES_GOLD: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.refer is not None:
            check_parts(self.refer)

    def needs(self) -> Sequence[str]:
        """Expressions, where they are referred by."""
        return needed(self._source().parts(STAGE))

    def load(self, folder: Path) -> Stage:
        """The stage. Raises StageError for a model that writes no box, or that cannot be loaded."""
        source = self._source()
        writer, parameters = source.writer(STAGE)
        if writer.model.sizes.task == MASK:
            raise StageError(f"{STAGE}: {self.checkpoint} writes masks alone; make it a segmenter, or train for boxes")
        return GroundingStage(KIND, writer.locate, source.parts(STAGE), folder, parameters)

    def _source(self) -> Source:
        return Source(self.checkpoint, self.words, self.types, self.refer, self.as_published)
