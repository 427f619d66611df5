"""The segmenter ``seqtr`` (arXiv 2203.16265): the mask of a referring expression, written as the points of its
outline. It needs no grounder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rivegs_mllm.cascade.base import Stage, StageError
from rivegs_mllm.cascade.grounding.seqtr import SeqTRSource
from rivegs_mllm.cascade.grounding.seqtr_masks import ExpressionSegmentingStage
from rivegs_mllm.cascade.grounding.seqtr_training import TYPE_NAME
from rivegs_mllm.cascade.referring import check_parts, slots_required_by
from rivegs_mllm.cascade.segmentation.base import Segmenter
from rivegs_mllm.published.seqtr.sizes import BOX

STAGE = "segmenter (seqtr)"


@Segmenter.register_subclass(TYPE_NAME)
@dataclass
class SeqTRSegmenter(Segmenter):
    """A trained segmenter. The settings are those of the grounder ``seqtr``."""

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

    def requires_only(self) -> Sequence[str]:
        """The entities alone, and no box."""
        return ("tagger",)

    def load(self, folder: Path) -> Stage:
        """The stage. Raises StageError for a model that writes no mask, or that cannot be loaded."""
        source = self._source()
        predictor, num_parameters = source.predictor(STAGE)
        if predictor.model.sizes.task == BOX:
            raise StageError(f"{STAGE}: {self.checkpoint} writes boxes alone; make it a grounder, or train for masks")
        return ExpressionSegmentingStage(TYPE_NAME, predictor.segment, source.parts(STAGE), folder, num_parameters)

    def _source(self) -> SeqTRSource:
        return SeqTRSource(self.checkpoint, self.words, self.types, self.query_fields, self.as_published)
