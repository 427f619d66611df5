"""The segmenter ``seqtr`` (arXiv 2203.16265): the mask of a referring expression, written as the points of its
outline. It needs no grounder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.grounding.seqtr import Source
from rivegs_mllm.cascade.grounding.seqtr_masks import ExpressionStage
from rivegs_mllm.cascade.grounding.seqtr_training import KIND
from rivegs_mllm.cascade.referring import check_parts, needed
from rivegs_mllm.cascade.segmentation.base import Segmenter
from rivegs_mllm.published.seqtr.sizes import BOX
from rivegs_mllm.types import TYPES

STAGE = "segmenter (seqtr)"


@Segmenter.register_subclass(KIND)
@dataclass
class SeqTRSegmenter(Segmenter):
    """A trained segmenter. The settings are those of the grounder ``seqtr``."""

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

    def instead(self) -> Sequence[str]:
        """The entities alone, and no box."""
        return ("tagger",)

    def load(self, folder: Path) -> Stage:
        """The stage. Raises StageError for a model that writes no mask, or that cannot be loaded."""
        source = self._source()
        writer, parameters = source.writer(STAGE)
        if writer.model.sizes.task == BOX:
            raise StageError(f"{STAGE}: {self.checkpoint} writes boxes alone; make it a grounder, or train for masks")
        return ExpressionStage(KIND, writer.segment, source.parts(STAGE), folder, parameters)

    def _source(self) -> Source:
        return Source(self.checkpoint, self.words, self.types, self.refer, self.as_published)
